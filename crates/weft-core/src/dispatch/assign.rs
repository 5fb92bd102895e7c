//! A round of handing out: first every free slot, then prefetch, round robin.

use weft_placement::{Availability, CandidateId, ClassId};

use crate::Monotonic;
use crate::breaker;
use crate::idmap::splitmix;

use super::Machine;
use super::node::candidate;
use super::table::Phase;
use super::vocabulary::{Output, TaskRun};

/// How many nodes a job looks at for prefetching before its class counts as blocked.
const MAX_PREFETCH_PROBES: u16 = 64;

impl Machine {
    /// Hands out what can be handed out, up to a bound; [`Machine::next_tick`] is due at once
    /// when there may be more.
    pub fn assign(&mut self, now: Monotonic, out: &mut Vec<Output>) {
        self.round = self.round.wrapping_add(1).max(1);
        let mut left = self.config.max_round_tasks;
        self.more = false;
        while let Some(slot) = self.next_job() {
            if left == 0 {
                self.more = true;
                break;
            }
            let given = self.place(now, slot, left, out);
            left -= given;
            if given == 0
                && let Some(job) = self.jobs.at(slot)
                && let Some(class) = self.classes.get_mut(job.class)
            {
                class.blocked_in = self.round;
            }
        }
        self.send_out(out);
    }

    fn next_job(&self) -> Option<u32> {
        let blocked = |class: ClassId| {
            self.classes
                .get(class)
                .is_some_and(|class| class.blocked_in == self.round)
        };
        self.fair.next(blocked)
    }

    /// Gives some tasks of a job to some node; answers how many.
    fn place(&mut self, now: Monotonic, slot: u32, limit: u32, out: &mut Vec<Output>) -> u32 {
        let Some(job) = self.jobs.at(slot) else {
            return 0;
        };
        let (class, ready) = (job.class, job.count(Phase::Queued));
        let given = match self.free_slots(class, ready, limit) {
            Some((node, units)) => self.give(now, slot, node, units, units, out),
            None => match self.prefetch(slot, class, ready, limit) {
                Some((node, tasks)) => {
                    let wake = now.plus_ms(self.config.steal_after_ms);
                    self.steal_at = self.steal_at.or(Some(wake));
                    self.give(now, slot, node, tasks, 0, out)
                }
                None => 0,
            },
        };
        if given > 0 {
            self.charge(slot, given);
            self.requeue_lane(slot);
        }
        given
    }

    pub(super) fn charge(&mut self, slot: u32, tasks: u32) {
        if let Some(job) = self.jobs.at(slot) {
            let cost = self.classes.get(job.class).map_or(1, |class| class.cost);
            self.fair.charge(job.tenant, cost * u64::from(tasks));
        }
    }

    /// The best node with room, and how many units were reserved there.
    ///
    /// A few tasks are placed one by one, so that each goes where the score says; many go in
    /// chunks small enough that every node gets some.
    fn free_slots(&mut self, class: ClassId, ready: u32, limit: u32) -> Option<(u16, u32)> {
        let chosen = self.index.choose(class)?;
        let slot = u16::try_from(chosen.0).ok()?;
        let probing = !self.is_sound(slot);
        let node = self.nodes.get(slot)?;
        let up = self.nodes.up().max(1) as u32;
        let chunk = (ready / (2 * up)).max(1);
        let most = if probing {
            1
        } else {
            self.config.max_batch_tasks
        };
        let units = chunk
            .min(self.room_on(chosen, class))
            .min(node.room())
            .min(limit)
            .min(ready)
            .min(most);
        if units == 0 {
            return None;
        }
        let reserved = self.index.reserve(chosen, class, units) || planted!(Oversubscribed);
        reserved.then_some((slot, units))
    }

    /// How many units of a class a candidate has room for.
    fn room_on(&self, candidate: CandidateId, class: ClassId) -> u32 {
        if planted!(Oversubscribed) {
            return self.index.slots(candidate, class);
        }
        self.index.fits(candidate, class)
    }

    /// A node that should have more work waiting, and how much.
    fn prefetch(
        &mut self,
        slot: u32,
        class: ClassId,
        ready: u32,
        limit: u32,
    ) -> Option<(u16, u32)> {
        let measured = self.jobs.at(slot).map_or(0, |job| job.run_us);
        let run_us = match measured {
            0 => self.classes.get(class).map_or(0, |class| class.run_us),
            _ => measured,
        };
        // Of unknown length, or longer than the round trip that prefetching hides.
        if run_us == 0 || u64::from(run_us) > self.config.prefetch_us {
            return None;
        }
        let per_slot = u32::try_from(self.config.prefetch_us / u64::from(run_us)).ok()?;
        let share = (ready / self.nodes.up().max(1) as u32).max(1);
        let count = self.nodes.len();
        for step in 0..count.min(MAX_PREFETCH_PROBES) {
            let at = (u32::from(self.rotor) + u32::from(step)) % u32::from(count);
            let at = at as u16;
            let wanted = self.wanted(at, class, per_slot);
            let tasks = wanted
                .min(share)
                .min(limit)
                .min(ready)
                .min(self.config.max_batch_tasks);
            if tasks > 0 {
                self.rotor = (at + 1) % count;
                return Some((at, tasks));
            }
        }
        None
    }

    /// How many tasks of a class a node lacks; none while it has three quarters of what it should
    /// have, so that work goes out in batches. Only where the class runs already: elsewhere it
    /// would wait for work of unknown length.
    fn wanted(&self, slot: u16, class: ClassId, per_slot: u32) -> u32 {
        let Some(node) = self.nodes.get(slot) else {
            return 0;
        };
        if !self.is_sound(slot) || !matches!(node.availability, Availability::Open) {
            return 0;
        }
        let Some(load) = node.loads.iter().find(|load| load.class == class) else {
            return 0;
        };
        let target = load
            .reserved
            .saturating_mul(per_slot)
            .min(node.max_held / 2);
        let lacking = target.saturating_sub(load.held - load.reserved);
        if lacking * 4 < target {
            return 0;
        }
        lacking.min(node.room())
    }

    /// Moves tasks of a job to a node. Units beyond what the queue really has are released.
    fn give(
        &mut self,
        now: Monotonic,
        slot: u32,
        node_slot: u16,
        tasks: u32,
        reserved: u32,
        out: &mut Vec<Output>,
    ) -> u32 {
        let (Some(job), Some(node)) = (self.jobs.at_mut(slot), self.nodes.get_mut(node_slot))
        else {
            return 0;
        };
        let mut given = 0;
        while given < tasks {
            let Some(task) = job.ready.pop(&job.table) else {
                break;
            };
            let attempt = job.next_attempt(task);
            let Some(cell) = job.table.get_mut(task) else {
                break;
            };
            cell.set_attempt(attempt);
            cell.set_spent(false);
            cell.set_node(Some(node_slot));
            job.set_phase(task, Phase::Assigned);
            job.began(task, now);
            extend(&mut node.outbox, job.id, task, attempt);
            given += 1;
        }
        debug_assert_eq!(given, tasks, "the queue has every queued task");
        node.hold(slot, job.class, given, reserved.min(given));
        if reserved > given {
            self.index
                .release(candidate(node_slot), job.class, reserved - given);
        }
        let speculates = job.speculation.is_some();
        if given > 0 {
            self.touched.insert(node_slot);
            if !job.started {
                job.started = true;
                out.push(Output::JobStarted { job: job.id });
            }
        }
        let probes = node.breaker.state() != breaker::State::Closed;
        if given > 0 {
            self.note_probe(node_slot);
        }
        if probes {
            self.sync_availability(node_slot);
        }
        if speculates {
            self.watch_stragglers(now);
        }
        given
    }

    pub(super) fn send_out(&mut self, out: &mut Vec<Output>) {
        while let Some(slot) = self.touched.pop_first() {
            if let Some(node) = self.nodes.get_mut(slot)
                && let Some(epoch) = node.epoch
                && !node.outbox.is_empty()
            {
                out.push(Output::Assign {
                    node: node.id.clone(),
                    epoch,
                    runs: std::mem::take(&mut node.outbox),
                });
            }
        }
    }

    /// The next random number, for jitter.
    pub(super) fn random(&mut self) -> u64 {
        splitmix(&mut self.jitter)
    }
}

/// Adds a task to the last run when it continues it.
pub(super) fn extend(runs: &mut Vec<TaskRun>, job: weft_types::JobId, task: u32, attempt: u32) {
    if let Some(last) = runs.last_mut()
        && last.job == job
        && last.attempt == attempt
        && last.first + last.len == task
    {
        last.len += 1;
        return;
    }
    runs.push(TaskRun {
        job,
        first: task,
        len: 1,
        attempt,
    });
}

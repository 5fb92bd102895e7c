//! A second attempt for a task that runs far longer than its siblings, when a job asks for it.
//!
//! Backup tasks after Dean and Ghemawat, "MapReduce" (OSDI 2004), section 3.6: once nothing of a
//! job is queued any more, what still runs is what everybody waits for. A task that has run longer
//! than twice the third quartile of the job's measured times is handed to another node as well.
//! Each task gets one such *second attempt* at most, and a tenth of the running tasks of a job may
//! have one at a time (at least one task). The first result that ends the task wins; the other
//! attempt is stopped and what it reports is ignored, as that of any stale attempt.
//!
//! The first attempt is the one in the task's cell; the second is beside it in the job. When the
//! first goes away (its node is lost, it fails and would be tried again) the second takes its
//! place. As long as a second attempt is out, the task is held.

use std::collections::BTreeMap;

use weft_placement::{Availability, ClassId, ClosedReason};
use weft_types::Reason;

use crate::Monotonic;

use super::Machine;
use super::assign::extend;
use super::job::Job;
use super::node::candidate;
use super::table::{MAX_ATTEMPT, Phase};
use super::vocabulary::{Output, TaskRef};

/// How many times must have been measured before anything is called slow.
const MIN_SAMPLES: u32 = 3;
/// One in so many running tasks of a job may have a second attempt.
const TASKS_A_SECOND: u32 = 10;
/// Buckets of the histogram: four for each power of two of microseconds, up to twelve days.
const BUCKETS: usize = 160;

/// What a job that speculates knows of its tasks.
#[derive(Debug)]
pub(super) struct Speculation {
    times: Times,
    /// Since when each held task is with its node or, once that is known, runs.
    since: BTreeMap<u32, Monotonic>,
    /// Tasks that had a second attempt; each has one at most, ever.
    seconds: BTreeMap<u32, Second>,
}

impl Default for Speculation {
    fn default() -> Self {
        Self {
            times: Times {
                counts: [0; BUCKETS],
                total: 0,
            },
            since: BTreeMap::new(),
            seconds: BTreeMap::new(),
        }
    }
}

/// A second attempt.
#[derive(Clone, Copy, Debug)]
struct Second {
    attempt: u32,
    /// Who runs it; `None` when it is over.
    node: Option<u16>,
    /// The greatest attempt of the task from before a restart that was refused, 0 for none.
    refused: u32,
}

/// A histogram of run times, by their logarithm: a quantile is right to a fifth.
#[derive(Debug)]
struct Times {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Times {
    fn record(&mut self, run_us: u64) {
        let log = run_us.max(1).ilog2();
        let quarter = if log < 2 {
            0
        } else {
            (run_us >> (log - 2)) & 3
        };
        let bucket = (log as usize * 4 + quarter as usize).min(BUCKETS - 1);
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.total = self.total.saturating_add(1);
    }

    /// The upper end of the third quartile's bucket, in microseconds; `None` before there is
    /// enough to tell.
    fn third_quartile_us(&self) -> Option<u64> {
        if self.total < MIN_SAMPLES {
            return None;
        }
        let wanted = (u64::from(self.total) * 3).div_ceil(4);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|&count| {
            seen += u64::from(count);
            seen >= wanted
        })?;
        let (log, quarter) = (bucket / 4, bucket as u64 % 4);
        Some((1u64 << log) / 4 * (5 + quarter))
    }
}

/// Which attempt of a task somebody speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    First,
    Second,
}

impl Job {
    /// The attempt that comes next: greater than all before.
    pub(super) fn next_attempt(&self, task: u32) -> u32 {
        let first = self.table.get(task).map_or(0, |cell| cell.attempt());
        let second = self.second(task);
        let second = second.map_or(0, |second| second.attempt.max(second.refused));
        first.max(second) + 1
    }

    fn second(&self, task: u32) -> Option<&Second> {
        self.speculation.as_ref()?.seconds.get(&task)
    }

    /// Which attempt this is, when the node may report it.
    pub(super) fn role(&self, node: u16, at: TaskRef) -> Option<Role> {
        let cell = self.table.get(at.task)?;
        if cell.node() == Some(node) && cell.attempt() == at.attempt {
            return Some(Role::First);
        }
        let second = self.second(at.task)?;
        let holds = second.node == Some(node) && second.attempt == at.attempt;
        holds.then_some(Role::Second)
    }

    /// Whether an attempt was once a second one.
    pub(super) fn was_second(&self, at: TaskRef) -> bool {
        self.second(at.task)
            .is_some_and(|second| second.attempt == at.attempt)
    }

    /// The node of the second attempt that is out.
    pub(super) fn second_node(&self, task: u32) -> Option<u16> {
        self.second(task)?.node
    }

    /// Second attempts that a node runs.
    pub(super) fn seconds_on(&self, node: u16) -> impl Iterator<Item = TaskRef> + '_ {
        let seconds = self.speculation.iter().flat_map(|kept| &kept.seconds);
        seconds
            .filter(move |(_, second)| second.node == Some(node))
            .map(|(&task, second)| TaskRef {
                job: self.id,
                task,
                attempt: second.attempt,
            })
    }

    /// The second attempt becomes the first and the other way round.
    pub(super) fn swap_attempts(&mut self, task: u32) {
        let (Some(cell), Some(speculation)) = (self.table.get_mut(task), &mut self.speculation)
        else {
            return;
        };
        if let Some(second) = speculation.seconds.get_mut(&task) {
            let first = Second {
                attempt: cell.attempt(),
                node: cell.node(),
                refused: second.refused,
            };
            cell.set_attempt(second.attempt);
            cell.set_node(second.node);
            cell.set_spent(false);
            *second = first;
        }
    }

    /// The second attempt is over; answers who had it, and which it was.
    pub(super) fn end_second(&mut self, task: u32) -> Option<(u16, u32)> {
        let second = self.speculation.as_mut()?.seconds.get_mut(&task)?;
        let node = second.node.take()?;
        Some((node, second.attempt))
    }

    /// The first attempt is over: the second takes its place. Answers whether there is one.
    pub(super) fn promote_second(&mut self, task: u32) -> bool {
        if self.second_node(task).is_none() {
            return false;
        }
        self.swap_attempts(task);
        self.end_second(task);
        true
    }

    /// One of the attempts of a held task is gone; answers whether the other goes on.
    pub(super) fn lose_attempt(&mut self, at: TaskRef) -> bool {
        let second = self.second(at.task);
        if second.is_some_and(|second| second.node.is_some() && second.attempt == at.attempt) {
            self.end_second(at.task);
            return true;
        }
        self.promote_second(at.task)
    }

    /// An attempt from before a restart that was refused: none after it has its number.
    pub(super) fn outbid(&mut self, at: TaskRef) {
        let next = self.next_attempt(at.task);
        if let Some(speculation) = &mut self.speculation
            && at.attempt >= next
            && at.attempt < MAX_ATTEMPT
        {
            let none = Second {
                attempt: 0,
                node: None,
                refused: 0,
            };
            // The attempt that may be out keeps its number: its node reports it under that.
            let known = speculation.seconds.entry(at.task).or_insert(none);
            known.refused = at.attempt;
        }
    }

    /// A task is with its node, or runs, since now.
    pub(super) fn began(&mut self, task: u32, now: Monotonic) {
        if let Some(speculation) = &mut self.speculation {
            speculation.since.insert(task, now);
        }
    }

    /// A completed attempt took this long.
    pub(super) fn note_time(&mut self, run_us: u64) {
        if let Some(speculation) = &mut self.speculation {
            speculation.times.record(run_us);
        }
    }

    /// Tasks that deserve a second attempt, the slowest first.
    fn stragglers(&self, now: Monotonic, floor_ms: u64) -> Vec<u32> {
        let Some(speculation) = &self.speculation else {
            return Vec::new();
        };
        let Some(quartile_us) = speculation.times.third_quartile_us() else {
            return Vec::new();
        };
        let limit_ms = (quartile_us * 2 / 1_000).max(floor_ms);
        let held = self.count(Phase::Assigned) + self.count(Phase::Running);
        let out = speculation.seconds.values();
        let out = out.filter(|second| second.node.is_some()).count();
        let most = ((held / TASKS_A_SECOND).max(1) as usize).saturating_sub(out);
        let mut late: Vec<(Monotonic, u32)> = speculation
            .since
            .iter()
            .filter(|(_, since)| now.since_ms(**since) > limit_ms)
            .filter(|(task, _)| !speculation.seconds.contains_key(task))
            .map(|(&task, &since)| (since, task))
            .collect();
        late.sort_unstable();
        late.into_iter().take(most).map(|(_, task)| task).collect()
    }

    /// Forgets since when tasks run that no node holds any more.
    fn sweep_since(&mut self) {
        let (table, Some(speculation)) = (&self.table, &mut self.speculation) else {
            return;
        };
        let held = |task: u32| table.get(task).is_some_and(|cell| cell.phase().is_held());
        speculation.since.retain(|&task, _| held(task));
    }
}

impl Machine {
    /// Looks for stragglers, when that is due.
    pub(super) fn speculate(&mut self, now: Monotonic, out: &mut Vec<Output>) {
        if self.speculate_at.is_none_or(|due| due > now) {
            return;
        }
        self.speculate_at = None;
        let slots: Vec<u32> = self.speculating.iter().copied().collect();
        for slot in slots {
            self.speculate_on(now, slot);
        }
        self.send_out(out);
    }

    /// Looks at the job's stragglers after a while, and so on while it has running tasks.
    pub(super) fn watch_stragglers(&mut self, now: Monotonic) {
        let due = now.plus_ms(self.config.speculate_every_ms);
        self.speculate_at = self.speculate_at.or(Some(due));
    }

    fn speculate_on(&mut self, now: Monotonic, slot: u32) {
        let floor_ms = self.config.speculate_floor_ms;
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        job.sweep_since();
        if job.count(Phase::Assigned) + job.count(Phase::Running) == 0 {
            return;
        }
        let late = if job.count(Phase::Queued) == 0 && job.cancelled.is_none() {
            job.stragglers(now, floor_ms)
        } else {
            Vec::new()
        };
        self.watch_stragglers(now);
        for task in late {
            self.hand_out_second(slot, task);
        }
    }

    fn hand_out_second(&mut self, slot: u32, task: u32) -> Option<()> {
        let job = self.jobs.at(slot)?;
        let cell = job.table.get(task).filter(|cell| cell.phase().is_held())?;
        let (class, holder) = (job.class, cell.node()?);
        let attempt = if planted!(SecondKeepsAttempt) {
            cell.attempt()
        } else {
            job.next_attempt(task)
        };
        if attempt > MAX_ATTEMPT {
            return None;
        }
        let node_slot = self.another_node(class, holder)?;
        if !self.index.reserve(candidate(node_slot), class, 1) {
            return None;
        }
        let job = self.jobs.at_mut(slot)?;
        let node = Some(node_slot);
        let speculation = job.speculation.as_mut()?;
        let second = Second {
            attempt,
            node,
            refused: 0,
        };
        speculation.seconds.insert(task, second);
        let id = job.id;
        let node = self.nodes.get_mut(node_slot)?;
        node.hold(slot, class, 1, 1);
        extend(&mut node.outbox, id, task, attempt);
        self.touched.insert(node_slot);
        self.charge(slot, 1);
        Some(())
    }

    /// The best node with room beside the one that has the task; never one that is on probation.
    fn another_node(&mut self, class: ClassId, holder: u16) -> Option<u16> {
        // The index chooses among those that are open: the holder is not, for the moment.
        let closed = Availability::Closed(ClosedReason::Cordoned);
        self.index.set_availability(candidate(holder), closed);
        let chosen = self.index.choose(class);
        self.sync_availability(holder);
        let chosen = u16::try_from(chosen?.0).ok()?;
        let has_room = self.nodes.get(chosen)?.room() > 0;
        (self.is_sound(chosen) && has_room).then_some(chosen)
    }

    /// The first attempt has ended the task: the second is stopped.
    pub(super) fn stop_second(&mut self, slot: u32, task: u32, out: &mut Vec<Output>) {
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        let (id, class) = (job.id, job.class);
        let Some((node_slot, attempt)) = job.end_second(task) else {
            return;
        };
        let Some(node) = self.nodes.get_mut(node_slot) else {
            return;
        };
        node.let_go(node_slot, slot, class, &mut self.index);
        if let Some(epoch) = node.epoch {
            out.push(Output::Stop {
                node: node.id.clone(),
                epoch,
                tasks: vec![TaskRef {
                    job: id,
                    task,
                    attempt,
                }],
                reason: Reason::Cancelled,
            });
        }
        self.sync_breaker(node_slot, false, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_right_to_a_fifth() {
        let mut speculation = Speculation::default();
        assert_eq!(speculation.times.third_quartile_us(), None);
        for run_us in 1..=1_000 {
            speculation.times.record(run_us * 100);
        }
        let found = speculation.times.third_quartile_us().expect("enough");
        assert!((75_000..=94_000).contains(&found), "{found}");
        for run_us in [0, 1, 2, 3, u64::MAX] {
            speculation.times.record(run_us);
        }
    }
}

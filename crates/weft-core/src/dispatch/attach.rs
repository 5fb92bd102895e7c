//! Nodes that come, change, and go.

use std::collections::BTreeMap;

use weft_placement::{Availability, Candidate, ClosedReason};
use weft_types::{JobId, NodeId, Reason, TaskState};

use crate::{Epoch, Monotonic};

use super::Machine;
use super::node::candidate;
use super::results::Entry;
use super::speculate::Role;
use super::table::{Cell, MAX_ATTEMPT, Phase};
use super::vocabulary::{Held, Output, TaskRef};

/// What a node says of itself when it opens a session.
pub(super) struct NewSession {
    pub(super) epoch: Epoch,
    pub(super) candidate: Candidate,
    pub(super) max_held: u32,
}

/// A task that a node held.
type Lost = (u32, TaskRef);

impl Machine {
    pub(super) fn on_node_up(
        &mut self,
        now: Monotonic,
        id: &NodeId,
        session: NewSession,
        held: Held,
        out: &mut Vec<Output>,
    ) {
        let epoch = session.epoch;
        let Some(slot) = self.nodes.intern(id, self.config.breaker) else {
            // More nodes than there may be: it holds nothing of ours and gets nothing.
            out.push(Output::Attached {
                node: id.clone(),
                epoch,
                adopted: 0,
                stop: held,
            });
            return;
        };
        if self
            .nodes
            .get(slot)
            .is_some_and(|node| node.epoch >= Some(epoch))
        {
            return;
        }
        let before = self.held_by(slot);
        self.open(slot, session);
        let claims: BTreeMap<(JobId, u32), u32> = held
            .iter()
            .map(|at| ((at.job, at.task), at.attempt))
            .collect();
        let lost: Vec<Lost> = before
            .into_iter()
            .filter(|(_, at)| claims.get(&(at.job, at.task)) != Some(&at.attempt))
            .collect();
        self.lose(&lost, out);
        let mut stop = Vec::new();
        let mut adopted = 0;
        for ((job, task), attempt) in claims {
            let at = TaskRef { job, task, attempt };
            match self.claim(now, slot, at) {
                Claim::Adopted => adopted += 1,
                Claim::Pending => {}
                Claim::Refused if planted!(StaleNotStopped) => {}
                Claim::Refused => stop.push(at),
            }
        }
        if let Some(node) = self.nodes.get_mut(slot) {
            node.promote(slot, &mut self.index);
        }
        self.sync_availability(slot);
        self.sync_probe(slot);
        out.push(Output::Attached {
            node: id.clone(),
            epoch,
            adopted,
            stop,
        });
        self.reattached(id);
    }

    fn open(&mut self, slot: u16, session: NewSession) {
        let Some(node) = self.nodes.get_mut(slot) else {
            return;
        };
        node.clear(slot, &mut self.index);
        node.epoch = Some(session.epoch);
        node.max_held = session.max_held;
        node.availability = session.candidate.state;
        let provider = &session.candidate.provider;
        node.substrate = self
            .substrates
            .intern(provider, self.config.substrate_breaker);
        self.index.upsert(candidate(slot), session.candidate);
    }

    /// Lets a node go on with a task it says it holds, when nobody else has it and nothing newer
    /// is known.
    fn claim(&mut self, now: Monotonic, node: u16, at: TaskRef) -> Claim {
        let Some(slot) = self.jobs.slot(at.job) else {
            return Claim::Refused;
        };
        let Some(job) = self.jobs.at_mut(slot) else {
            return Claim::Refused;
        };
        let Some(cell) = job.table.get(at.task) else {
            return Claim::Refused;
        };
        if job.role(node, at) == Some(Role::Second) {
            let class = job.class;
            if let Some(node) = self.nodes.get_mut(node) {
                node.hold(slot, class, 1, 0);
            }
            return Claim::Adopted;
        }
        let mine = cell.node() == Some(node) && cell.attempt() == at.attempt;
        match cell.phase() {
            Phase::Recording if mine => return Claim::Pending,
            Phase::Assigned | Phase::Running if mine => {}
            phase if phase.waits() && may_adopt(cell, mine, job.recovered, at.attempt) => {}
            phase if phase.waits() => {
                // Whatever it ran is stopped; the next attempt is newer than that all the same.
                let floor = at.attempt.min(MAX_ATTEMPT - 1);
                if let Some(cell) = job.table.get_mut(at.task)
                    && job.recovered
                    && cell.attempt() < floor
                {
                    cell.set_attempt(floor);
                    cell.set_spent(true);
                }
                return Claim::Refused;
            }
            _ => {
                job.outbid(at);
                return Claim::Refused;
            }
        }
        if let Some(cell) = job.table.get_mut(at.task) {
            cell.set_attempt(at.attempt);
            cell.set_node(Some(node));
        }
        if !cell.phase().is_held() {
            job.set_phase(at.task, Phase::Assigned);
        }
        job.started = true;
        let class = job.class;
        if job.speculation.is_some() {
            job.began(at.task, now);
            self.watch_stragglers(now);
        }
        if let Some(node) = self.nodes.get_mut(node) {
            node.hold(slot, class, 1, 0);
        }
        self.requeue_lane(slot);
        Claim::Adopted
    }

    pub(super) fn on_node_changed(&mut self, id: &NodeId, changed: Candidate) {
        let Some(slot) = self.nodes.slot(id) else {
            return;
        };
        let Some(node) = self.nodes.get_mut(slot) else {
            return;
        };
        if node.epoch.is_none() {
            return;
        }
        node.availability = changed.state;
        let provider = &changed.provider;
        node.substrate = self
            .substrates
            .intern(provider, self.config.substrate_breaker);
        self.index.upsert(candidate(slot), changed);
        node.promote(slot, &mut self.index);
        self.sync_availability(slot);
    }

    pub(super) fn on_availability(
        &mut self,
        id: &NodeId,
        availability: Availability,
        out: &mut Vec<Output>,
    ) {
        let Some(slot) = self.nodes.slot(id) else {
            return;
        };
        let Some(node) = self.nodes.get_mut(slot) else {
            return;
        };
        if node.epoch.is_none() {
            return;
        }
        let evacuate = matches!(
            availability,
            Availability::Closed(ClosedReason::Cordoned | ClosedReason::Draining)
        );
        node.availability = availability;
        self.sync_availability(slot);
        if evacuate {
            self.recall_unstarted(slot, out);
        }
    }

    pub(super) fn on_node_down(&mut self, id: &NodeId, epoch: Epoch, out: &mut Vec<Output>) {
        let attached = self.nodes.current(id, epoch);
        if let Some(slot) = attached {
            self.close(slot, out);
        }
        // Judged dead after a restart without ever having come back.
        let up = self.nodes.slot(id).and_then(|slot| self.nodes.get(slot));
        if up.is_none_or(|node| node.epoch.is_none()) {
            self.reattached(id);
        }
    }

    pub(super) fn on_node_removed(&mut self, id: &NodeId, out: &mut Vec<Output>) {
        if let Some(slot) = self.nodes.slot(id) {
            self.close(slot, out);
            self.index.remove(candidate(slot));
            if let Some(node) = self.nodes.get_mut(slot) {
                node.removed = true;
            }
        }
        self.reattached(id);
    }

    fn close(&mut self, slot: u16, out: &mut Vec<Output>) {
        let lost = self.held_by(slot);
        if let Some(node) = self.nodes.get_mut(slot) {
            node.clear(slot, &mut self.index);
            node.epoch = None;
            node.availability = Availability::Closed(ClosedReason::Offline);
        }
        self.sync_availability(slot);
        self.sync_probe(slot);
        self.lose(&lost, out);
    }

    /// What a node holds, in the order of jobs and tasks.
    pub(super) fn held_by(&self, slot: u16) -> Vec<Lost> {
        let Some(node) = self.nodes.get(slot) else {
            return Vec::new();
        };
        let mut held = Vec::with_capacity(node.held as usize);
        for (&job_slot, &count) in &node.jobs {
            let Some(job) = self.jobs.at(job_slot) else {
                continue;
            };
            held.extend(job.seconds_on(slot).map(|at| (job_slot, at)));
            let on_node = |cell: Cell| cell.phase().is_held() && cell.node() == Some(slot);
            let tasks = job.table.iter().filter(|(_, cell)| on_node(*cell));
            held.extend(tasks.take(count as usize).map(|(task, cell)| {
                let (job, attempt) = (job.id, cell.attempt());
                (job_slot, TaskRef { job, task, attempt })
            }));
        }
        held
    }

    /// Tasks whose node is gone go back to the front of their queues; one that has lost too many
    /// nodes is a dead letter, lest it kill every node in turn.
    fn lose(&mut self, lost: &[Lost], out: &mut Vec<Output>) {
        self.tell_lost(lost, out);
        let mut dead = Vec::new();
        for &(slot, at) in lost.iter().rev() {
            if self
                .jobs
                .at_mut(slot)
                .is_some_and(|job| job.lose_attempt(at))
            {
                continue;
            }
            if self.move_on(slot, at, Reason::NodeLost) {
                dead.push(Entry {
                    slot,
                    at,
                    state: TaskState::Dead,
                });
            } else if let Some(job) = self.jobs.at_mut(slot) {
                if planted!(LostWorkForgotten) {
                    job.set_phase(at.task, Phase::Delayed);
                    continue;
                }
                job.enqueue(at.task, true);
                job.ready.sweep(&job.table, job.count(Phase::Queued));
            }
            self.requeue_lane(slot);
        }
        self.record_own(dead, out);
    }

    /// Names the attempts that were running, for their history.
    fn tell_lost(&self, lost: &[Lost], out: &mut Vec<Output>) {
        let running = |&(slot, at): &Lost| {
            let cell = self.jobs.at(slot)?.table.get(at.task)?;
            (cell.phase() == Phase::Running).then_some((cell.node()?, at))
        };
        let running: Vec<_> = lost.iter().filter_map(running).collect();
        // They are all of one node.
        let node = running.first().and_then(|(node, _)| self.nodes.id(*node));
        if let Some(node) = node {
            out.push(Output::Lost {
                node: node.clone(),
                tasks: running.iter().map(|(_, at)| *at).collect(),
            });
        }
    }

    /// Counts a move of a task; answers whether it was the last one it may have.
    pub(super) fn move_on(&mut self, slot: u32, at: TaskRef, reason: Reason) -> bool {
        let max_moves = self.config.max_moves;
        let Some(job) = self.jobs.at_mut(slot) else {
            return false;
        };
        let retry = job.retry;
        let Some(cell) = job.table.get_mut(at.task) else {
            return false;
        };
        cell.set_moves(cell.moves() + 1);
        let counted = reason == Reason::NodeLost && retry.counts_lost_nodes();
        if counted {
            cell.set_failures(cell.failures() + 1);
        }
        let is_last = cell.moves() > max_moves
            || (counted && cell.failures() >= retry.attempts())
            || cell.attempt() >= MAX_ATTEMPT;
        if is_last {
            self.begin_recording(slot, at.task, Some(reason));
        }
        is_last
    }
}

/// What becomes of a task that a node says it holds.
enum Claim {
    Adopted,
    /// Its report is being written; it will be acknowledged.
    Pending,
    Refused,
}

/// Whether a waiting task may be gone on with: it is the attempt that its last holder had, or one
/// from before a restart that the journal does not know.
fn may_adopt(cell: Cell, mine: bool, recovered: bool, attempt: u32) -> bool {
    // What waits for other tasks has never been handed out, whatever a node says.
    if cell.phase() == Phase::Blocked {
        return false;
    }
    let known = mine && !cell.is_spent();
    let from_before = recovered && attempt > cell.attempt() && attempt < MAX_ATTEMPT;
    known || from_before
}

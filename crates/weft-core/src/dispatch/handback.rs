//! Tasks that begin, and tasks that a node gives back.

use weft_types::{NodeId, Reason, TaskState};

use crate::{Epoch, Monotonic, retry};

use super::Machine;
use super::results::Entry;
use super::speculate::Role;
use super::table::{MAX_ATTEMPT, Phase};
use super::timers::Timer;
use super::vocabulary::{Outcome, Output, TaskRef};

/// The first wait after a node rejected a task, in milliseconds; doubles with each move.
const REJECTED_WAIT_MS: u64 = 100;
/// The longest wait after a node rejected a task, in milliseconds.
const MAX_REJECTED_WAIT_MS: u64 = 10_000;

impl Machine {
    pub(super) fn on_started(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        epoch: Epoch,
        tasks: &[TaskRef],
    ) {
        let Some(node) = self.nodes.current(node, epoch) else {
            return;
        };
        for &at in tasks {
            if let Some(slot) = self.holder_of(node, at)
                && let Some(job) = self.jobs.at_mut(slot)
            {
                job.set_phase(at.task, Phase::Running);
                job.began(at.task, now);
            }
        }
    }

    pub(super) fn on_handback(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        epoch: Epoch,
        tasks: &[TaskRef],
        reason: Option<Reason>,
        out: &mut Vec<Output>,
    ) {
        let Some(node_slot) = self.nodes.current(node, epoch) else {
            return;
        };
        let mut dead = Vec::new();
        for &at in tasks.iter().rev() {
            if self.give_back_second(node_slot, at) {
                continue;
            }
            let Some(slot) = self.holder_of(node_slot, at) else {
                continue;
            };
            self.give_back(node_slot, slot, at);
            if self
                .jobs
                .at_mut(slot)
                .is_some_and(|job| job.promote_second(at.task))
            {
                continue;
            }
            if let Some(reason) = self.last_rejection(slot, at, reason) {
                self.begin_recording(slot, at.task, Some(reason));
                dead.push(Entry {
                    slot,
                    at,
                    state: TaskState::Dead,
                });
            } else if reason.is_some() {
                self.wait_after_rejection(now, slot, at);
            } else if let Some(job) = self.jobs.at_mut(slot) {
                job.enqueue(at.task, true);
                job.ready.sweep(&job.table, job.count(Phase::Queued));
            }
            self.requeue_lane(slot);
        }
        if let Some(reason) = reason
            && let Some(first) = tasks.first()
        {
            let failed = self.nodes.get_mut(node_slot);
            let changed =
                failed.is_some_and(|node| node.breaker.failed(now, reason, first.job.0, false));
            self.sync_breaker(node_slot, changed, out);
            let (job, outcome) = (first.job.0, Outcome::Failed(reason));
            self.judge_substrate(now, node_slot, outcome, job, false, out);
        } else {
            self.sync_breaker(node_slot, false, out);
        }
        self.record_own(dead, out);
    }

    /// The slot of a task's job, when the node holds the task under that attempt.
    pub(super) fn holder_of(&self, node: u16, at: TaskRef) -> Option<u32> {
        let slot = self.jobs.slot(at.job)?;
        let cell = self.jobs.at(slot)?.table.get(at.task)?;
        let holds =
            cell.phase().is_held() && cell.node() == Some(node) && cell.attempt() == at.attempt;
        holds.then_some(slot)
    }

    /// A second attempt that a node gives back is not made good for; answers whether it was one.
    fn give_back_second(&mut self, node_slot: u16, at: TaskRef) -> bool {
        let Some(slot) = self.jobs.slot(at.job) else {
            return false;
        };
        let (Some(job), Some(node)) = (self.jobs.at_mut(slot), self.nodes.get_mut(node_slot))
        else {
            return false;
        };
        if job.role(node_slot, at) != Some(Role::Second) {
            return false;
        }
        job.end_second(at.task);
        node.let_go(node_slot, slot, job.class, &mut self.index);
        true
    }

    fn give_back(&mut self, node_slot: u16, slot: u32, at: TaskRef) {
        let (Some(job), Some(node)) = (self.jobs.at_mut(slot), self.nodes.get_mut(node_slot))
        else {
            return;
        };
        node.let_go(node_slot, slot, job.class, &mut self.index);
        if let Some(cell) = job.table.get_mut(at.task) {
            cell.set_spent(true);
        }
    }

    /// Why a task is a dead letter now; `None` while it may be tried on. A node that is merely
    /// full does not count: the task waits for room, however long that takes.
    fn last_rejection(&mut self, slot: u32, at: TaskRef, reason: Option<Reason>) -> Option<Reason> {
        let exhausted = at.attempt >= MAX_ATTEMPT;
        match reason {
            None | Some(Reason::InsufficientResources) => exhausted.then_some(Reason::Internal),
            Some(reason) => self.move_on(slot, at, reason).then_some(reason),
        }
    }

    fn wait_after_rejection(&mut self, now: Monotonic, slot: u32, at: TaskRef) {
        let random = self.random();
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        let moves = job.table.get(at.task).map_or(0, |cell| cell.moves());
        let bound_ms = (REJECTED_WAIT_MS << moves.min(16)).min(MAX_REJECTED_WAIT_MS);
        job.set_phase(at.task, Phase::Delayed);
        let timer = Timer::Retry {
            job: at.job,
            task: at.task,
            attempt: at.attempt,
        };
        let due = now.plus_ms(1 + retry::full_jitter(bound_ms, random));
        self.timers.set(due, timer);
    }
}

//! After a restart: jobs from the journal, and nodes that may still run parts of them.
//!
//! Assignments are not written down. So what was unfinished waits until every known node has told
//! what it holds, or until its lease is over; then whatever nobody holds is handed out again. New
//! jobs do not wait.

use std::collections::BTreeSet;

use weft_types::NodeId;

use crate::Monotonic;

use super::Machine;
use super::table::Phase;
use super::vocabulary::{Output, Recovered};

/// Waiting for nodes after a restart.
pub(super) struct Reattachment {
    missing: BTreeSet<NodeId>,
    deadline: Monotonic,
    /// Slots of the jobs on hold.
    jobs: Vec<u32>,
}

impl Reattachment {
    pub(super) fn deadline(&self) -> Monotonic {
        self.deadline
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = &NodeId> {
        self.missing.iter()
    }
}

impl Machine {
    pub(super) fn on_await_nodes(&mut self, nodes: Vec<NodeId>, deadline: Monotonic) {
        if !nodes.is_empty() {
            self.reattachment = Some(Reattachment {
                missing: nodes.into_iter().collect(),
                deadline,
                jobs: Vec::new(),
            });
        }
    }

    pub(super) fn on_recovered(
        &mut self,
        now: Monotonic,
        recovered: &Recovered,
        out: &mut Vec<Output>,
    ) {
        if self.jobs.get(recovered.submission.id).is_some() {
            return;
        }
        let slot = self.insert(now, &recovered.submission, out);
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        job.recovered = true;
        for run in &recovered.finals {
            if planted!(FinalsNotRecovered) {
                break;
            }
            let Some(phase) = Phase::of_final(run.state) else {
                continue;
            };
            let end = run.first.saturating_add(run.len).min(job.table.len());
            for task in run.first..end {
                job.set_phase(task, phase);
                if let Some(cell) = job.table.get_mut(task) {
                    cell.set_reason(run.reason);
                }
            }
        }
        // Whatever follows from these was announced before the restart.
        for run in &recovered.finals {
            for task in run.first..run.first.saturating_add(run.len).min(job.table.len()) {
                if job.dependents.is_some() {
                    job.settle(task, &mut Vec::new());
                }
            }
        }
        for &(task, failures) in &recovered.failures {
            if let Some(cell) = job.table.get_mut(task)
                && cell.phase() == Phase::Queued
            {
                cell.set_failures(failures);
                cell.set_attempt(failures);
                cell.set_spent(true);
            }
        }
        for &(task, attempt) in &recovered.attempts {
            if let Some(cell) = job.table.get_mut(task)
                && attempt >= cell.attempt()
            {
                cell.set_attempt(attempt);
                cell.set_spent(true);
            }
        }
        job.started = job.finished() > 0;
        if let Some(reason) = recovered.cancelled {
            job.cancelled = Some(reason);
            let all = 0..job.table.len();
            // Nobody waits for these: whoever asked has been told before the restart.
            self.cancel_tasks(slot, all, reason, &mut Vec::new());
        }
        self.settle_recovered(slot);
    }

    fn settle_recovered(&mut self, slot: u32) {
        if let Some(job) = self.jobs.at_mut(slot) {
            job.is_final = job.is_over();
            if job.is_final {
                self.speculating.remove(&slot);
            }
            if let Some(waiting) = &mut self.reattachment
                && !job.is_final
            {
                job.on_hold = true;
                waiting.jobs.push(slot);
            }
        }
        self.requeue_lane(slot);
    }

    /// A node has told what it holds, or never will.
    pub(super) fn reattached(&mut self, node: &NodeId) {
        if let Some(waiting) = &mut self.reattachment {
            waiting.missing.remove(node);
            if waiting.missing.is_empty() {
                self.end_hold();
            }
        }
    }

    pub(super) fn reattachment_due(&mut self, now: Monotonic) {
        if self
            .reattachment
            .as_ref()
            .is_some_and(|waiting| waiting.deadline <= now)
        {
            self.end_hold();
        }
    }

    fn end_hold(&mut self) {
        let Some(waiting) = self.reattachment.take() else {
            return;
        };
        for slot in waiting.jobs {
            if let Some(job) = self.jobs.at_mut(slot) {
                job.on_hold = false;
            }
            self.requeue_lane(slot);
        }
    }
}

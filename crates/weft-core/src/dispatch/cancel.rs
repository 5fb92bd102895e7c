//! What people ask for: cancel, requeue; and what time brings.

use std::collections::BTreeMap;

use weft_types::{JobId, Reason, TaskState};

use crate::Monotonic;

use super::Machine;
use super::table::Phase;
use super::timers::Timer;
use super::vocabulary::{FinalTask, Output, TaskRef};

impl Machine {
    pub(super) fn on_cancel(
        &mut self,
        id: JobId,
        tasks: Option<&[u32]>,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        let Some(slot) = self.jobs.slot(id) else {
            return;
        };
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        match tasks {
            Some(tasks) => self.cancel_tasks(slot, tasks.iter().copied(), reason, out),
            None if job.is_final => return,
            None => {
                job.cancelled = Some(reason);
                let all = 0..job.table.len();
                self.cancel_tasks(slot, all, reason, out);
            }
        }
        self.requeue_lane(slot);
        self.finish_if_over(slot, out);
    }

    /// Cancels what is not final and not being written: what a node has reported, counts.
    pub(super) fn cancel_tasks(
        &mut self,
        slot: u32,
        tasks: impl Iterator<Item = u32>,
        reason: Reason,
        out: &mut Vec<Output>,
    ) {
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        let (id, class) = (job.id, job.class);
        let mut finals = Vec::new();
        let mut stop: BTreeMap<u16, Vec<TaskRef>> = BTreeMap::new();
        for task in tasks {
            let Some(cell) = job.table.get_mut(task) else {
                continue;
            };
            let phase = cell.phase();
            if !phase.waits() && !phase.is_held() {
                continue;
            }
            let attempt = cell.attempt();
            let at = TaskRef {
                job: id,
                task,
                attempt,
            };
            cell.set_reason(Some(reason));
            if phase.is_held()
                && let Some(node_slot) = cell.node()
                && let Some(node) = self.nodes.get_mut(node_slot)
            {
                node.let_go(node_slot, slot, class, &mut self.index);
                stop.entry(node_slot).or_default().push(at);
            }
            if let Some((node_slot, attempt)) = job.end_second(task)
                && let Some(node) = self.nodes.get_mut(node_slot)
            {
                node.let_go(node_slot, slot, class, &mut self.index);
                let second = TaskRef { attempt, ..at };
                stop.entry(node_slot).or_default().push(second);
            }
            job.set_phase(task, Phase::Cancelled);
            finals.push(FinalTask {
                at,
                state: TaskState::Cancelled,
                reason: Some(reason),
            });
        }
        for position in 0..finals.len() {
            job.settle(finals[position].at.task, &mut finals);
        }
        if !finals.is_empty() {
            out.push(Output::Finals(finals));
        }
        for (node_slot, tasks) in stop {
            self.sync_breaker(node_slot, false, out);
            if let Some(node) = self.nodes.get(node_slot)
                && let Some(epoch) = node.epoch
            {
                out.push(Output::Stop {
                    node: node.id.clone(),
                    epoch,
                    tasks,
                    reason,
                });
            }
        }
    }

    /// Dead and failed tasks get all their attempts again.
    pub(super) fn on_requeue(&mut self, id: JobId, tasks: Option<&[u32]>) {
        let Some(slot) = self.jobs.slot(id) else {
            return;
        };
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        if job.cancelled.is_some() {
            return;
        }
        let wanted: Box<dyn Iterator<Item = u32>> = match tasks {
            Some(tasks) => Box::new(tasks.iter().copied()),
            None => Box::new(0..job.table.len()),
        };
        let mut requeued = Vec::new();
        for task in wanted {
            let Some(cell) = job.table.get_mut(task) else {
                continue;
            };
            if !matches!(cell.phase(), Phase::Dead | Phase::Failed) {
                continue;
            }
            cell.set_failures(0);
            cell.set_moves(0);
            cell.set_reason(None);
            cell.set_spent(true);
            job.enqueue(task, false);
            job.is_final = false;
            requeued.push(task);
        }
        job.revive_dependents(&requeued);
        if job.speculation.is_some() && !requeued.is_empty() {
            self.speculating.insert(slot);
        }
        self.requeue_lane(slot);
    }

    pub(super) fn on_tick(&mut self, now: Monotonic, out: &mut Vec<Output>) {
        self.reattachment_due(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Retry { job, task, attempt } => self.on_retry_due(job, task, attempt),
                Timer::Deadline { job } => {
                    if let Some(found) = self.jobs.get(job)
                        && !found.is_over()
                        && found.cancelled.is_none()
                    {
                        out.push(Output::CancelDue {
                            job,
                            reason: Reason::Timeout,
                            because: None,
                        });
                    }
                }
                Timer::Substrate { substrate } => self.on_substrate_due(now, substrate, out),
                Timer::Breaker { node } => {
                    let found = self.nodes.get_mut(node);
                    let changed = found.is_some_and(|node| node.breaker.tick(now));
                    self.sync_breaker(node, changed, out);
                }
            }
        }
        self.steal(now, out);
        self.speculate(now, out);
    }

    fn on_retry_due(&mut self, id: JobId, task: u32, attempt: u32) {
        let Some(slot) = self.jobs.slot(id) else {
            return;
        };
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        let is_current = job
            .table
            .get(task)
            .is_some_and(|cell| cell.phase() == Phase::Delayed && cell.attempt() == attempt);
        if is_current && !planted!(RetryForgotten) {
            job.enqueue(task, false);
            self.requeue_lane(slot);
        }
    }
}

//! Reports of nodes: filtered, written down by the shell, then final.

use weft_types::{JobId, NodeId, Reason, TaskState};

use crate::{Epoch, Monotonic};

use super::Machine;
use super::job::{Job, smooth};
use super::speculate::Role;
use super::table::{Cell, Phase};
use super::timers::Timer;
use super::vocabulary::{BatchId, FinalTask, Outcome, Output, TaskRef, TaskResult, Verdict};

/// What to do with a batch of reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// One a report, in their order.
    pub verdicts: Vec<Verdict>,
    /// Names those that say [`Verdict::Record`]; `None` when there are none.
    pub batch: Option<BatchId>,
}

/// A task whose outcome is being written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) slot: u32,
    pub(super) at: TaskRef,
    pub(super) state: TaskState,
}

/// A batch that is being written.
#[derive(Debug)]
pub(super) struct Recording {
    /// Who reported it, under which epoch; `None` when the machine itself decided.
    pub(super) node: Option<(u16, Epoch)>,
    pub(super) entries: Vec<Entry>,
}

/// Who reports, and when.
#[derive(Clone, Copy)]
struct Reporter {
    now: Monotonic,
    node: u16,
}

impl Machine {
    /// Takes a batch of reports of a node in: tells for each what to do, and frees the capacity
    /// that the attempts had. See the module's documentation for what the shell does next.
    pub fn accept(
        &mut self,
        now: Monotonic,
        node: &NodeId,
        epoch: Epoch,
        results: &[TaskResult],
        out: &mut Vec<Output>,
    ) -> Accepted {
        let Some(node_slot) = self.nodes.current(node, epoch) else {
            return Accepted {
                verdicts: vec![Verdict::Fenced; results.len()],
                batch: None,
            };
        };
        let reporter = Reporter {
            now,
            node: node_slot,
        };
        let mut entries = Vec::new();
        let mut forget = Vec::new();
        let mut verdicts = Vec::with_capacity(results.len());
        for result in results {
            let verdict = self.judge(reporter, result, &mut entries, out);
            if matches!(verdict, Verdict::Retry | Verdict::Ignore) {
                forget.push(result.at);
            }
            verdicts.push(verdict);
        }
        if !forget.is_empty() {
            out.push(Output::Ack {
                node: node.clone(),
                tasks: forget,
            });
        }
        let batch = (!entries.is_empty()).then(|| self.begin(Some((node_slot, epoch)), entries));
        Accepted { verdicts, batch }
    }

    fn judge(
        &mut self,
        reporter: Reporter,
        result: &TaskResult,
        entries: &mut Vec<Entry>,
        out: &mut Vec<Output>,
    ) -> Verdict {
        let at = result.at;
        let Some(slot) = self.jobs.slot(at.job) else {
            return Verdict::Ignore;
        };
        let Some(job) = self.jobs.at_mut(slot) else {
            return Verdict::Ignore;
        };
        let Some(cell) = job.table.get(at.task) else {
            return Verdict::Ignore;
        };
        let role = job.role(reporter.node, at);
        let late_second =
            planted!(SecondResultCounts) && cell.phase() == Phase::Completed && job.was_second(at);
        if role.is_none() && !late_second && !planted!(FencingSkipped) {
            return Verdict::Ignore;
        }
        match cell.phase() {
            Phase::Assigned | Phase::Running => {}
            Phase::Completed if planted!(FinalAgain) || late_second => {
                let state = TaskState::Completed;
                self.begin_recording(slot, at.task, None);
                entries.push(Entry { slot, at, state });
                return Verdict::Record(state);
            }
            Phase::Recording => return Verdict::Pending,
            _ => return Verdict::Ignore,
        }
        if role == Some(Role::Second) {
            job.swap_attempts(at.task);
        }
        let end = end_of(job, cell, result.outcome);
        if result.outcome == Outcome::Completed {
            job.measure(result.run_us);
        }
        self.free(reporter, slot, result, out);
        match end {
            Some(state) => {
                self.stop_second(slot, at.task, out);
                let reason = reason_of(result.outcome);
                self.begin_recording(slot, at.task, reason);
                entries.push(Entry { slot, at, state });
                Verdict::Record(state)
            }
            None if self.goes_on(slot, at) => Verdict::Retry,
            None => {
                self.delay(reporter.now, slot, at, result.outcome, out);
                Verdict::Retry
            }
        }
    }

    /// The attempt is over for its node: capacity, breaker and mean times.
    fn free(&mut self, reporter: Reporter, slot: u32, result: &TaskResult, out: &mut Vec<Output>) {
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        let class = job.class;
        let works = job.works_on.is_some();
        let works_elsewhere = job.works_on.is_some_and(|on| on != reporter.node);
        if result.outcome == Outcome::Completed {
            job.works_on = Some(reporter.node);
            if let Some(class) = self.classes.get_mut(class) {
                class.run_us = smooth(class.run_us, result.run_us);
            }
        }
        let Some(node) = self.nodes.get_mut(reporter.node) else {
            return;
        };
        node.let_go(reporter.node, slot, class, &mut self.index);
        let changed = match result.outcome {
            Outcome::Completed => node.breaker.succeeded(),
            Outcome::Failed(reason) => {
                node.breaker
                    .failed(reporter.now, reason, result.at.job.0, works_elsewhere)
            }
        };
        self.sync_breaker(reporter.node, changed, out);
        let (now, job) = (reporter.now, result.at.job.0);
        self.judge_substrate(now, reporter.node, result.outcome, job, works, out);
    }

    /// Tells the index what the breaker of a node says, and announces a change.
    pub(super) fn sync_breaker(&mut self, slot: u16, changed: bool, out: &mut Vec<Output>) {
        let Some(node) = self.nodes.get(slot) else {
            return;
        };
        let state = node.breaker.state();
        if !changed && state == crate::breaker::State::Closed {
            return self.sync_probe(slot);
        }
        if changed {
            if let Some(until) = node.breaker.until() {
                self.timers.set(until, Timer::Breaker { node: slot });
            }
            out.push(Output::Breaker {
                node: node.id.clone(),
                state,
            });
        }
        self.sync_availability(slot);
    }

    /// An attempt failed that would be tried again: when another one is out that goes on, the
    /// failure is only counted.
    fn goes_on(&mut self, slot: u32, at: TaskRef) -> bool {
        let Some(job) = self.jobs.at_mut(slot) else {
            return false;
        };
        if !job.promote_second(at.task) {
            return false;
        }
        if let Some(cell) = job.table.get_mut(at.task) {
            cell.set_failures(cell.failures() + 1);
        }
        true
    }

    /// A task waits for its next attempt.
    fn delay(
        &mut self,
        now: Monotonic,
        slot: u32,
        at: TaskRef,
        outcome: Outcome,
        out: &mut Vec<Output>,
    ) {
        let random = self.random();
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        let Some(cell) = job.table.get_mut(at.task) else {
            return;
        };
        let failures = cell.failures() + 1;
        cell.set_failures(failures);
        cell.set_spent(true);
        let due = now.plus_ms(job.retry.wait_ms(failures, random));
        job.set_phase(at.task, Phase::Delayed);
        let timer = Timer::Retry {
            job: at.job,
            task: at.task,
            attempt: at.attempt,
        };
        self.timers.set(due, timer);
        if let Outcome::Failed(reason) = outcome {
            out.push(Output::Retrying { at, reason, due });
        }
    }

    pub(super) fn begin_recording(&mut self, slot: u32, task: u32, reason: Option<Reason>) {
        if let Some(job) = self.jobs.at_mut(slot) {
            if let Some(cell) = job.table.get_mut(task) {
                cell.set_reason(reason);
            }
            job.set_phase(task, Phase::Recording);
        }
    }

    pub(super) fn begin(&mut self, node: Option<(u16, Epoch)>, entries: Vec<Entry>) -> BatchId {
        let batch = BatchId(self.next_batch);
        self.next_batch += 1;
        if let Some((slot, _)) = node
            && let Some(node) = self.nodes.get_mut(slot)
        {
            node.recording += entries.len() as u32;
        }
        self.recording.insert(batch, Recording { node, entries });
        batch
    }

    /// Asks the shell to write down what the machine decided by itself.
    pub(super) fn record_own(&mut self, entries: Vec<Entry>, out: &mut Vec<Output>) {
        if entries.is_empty() {
            return;
        }
        let tasks = entries
            .iter()
            .map(|entry| FinalTask {
                at: entry.at,
                state: entry.state,
                reason: self.reason(entry.slot, entry.at.task),
            })
            .collect();
        let batch = self.begin(None, entries);
        out.push(Output::Record { batch, tasks });
    }

    fn reason(&self, slot: u32, task: u32) -> Option<Reason> {
        self.jobs.at(slot)?.table.get(task)?.reason()
    }

    fn end(&mut self, batch: BatchId) -> Option<Recording> {
        let recording = self.recording.remove(&batch)?;
        if let Some((slot, _)) = recording.node
            && let Some(node) = self.nodes.get_mut(slot)
        {
            node.recording -= recording.entries.len() as u32;
        }
        Some(recording)
    }

    pub(super) fn on_recorded(&mut self, batch: BatchId, out: &mut Vec<Output>) {
        let Some(recording) = self.end(batch) else {
            return;
        };
        let mut finals = Vec::with_capacity(recording.entries.len());
        let mut cancelled = Vec::new();
        let mut settled = Vec::new();
        let mut over = Vec::new();
        for entry in &recording.entries {
            let Some(job) = live(self.jobs.at_mut(entry.slot), entry.at.job) else {
                continue;
            };
            let Some(phase) = Phase::of_final(entry.state) else {
                continue;
            };
            job.set_phase(entry.at.task, phase);
            let reason = job.table.get(entry.at.task).and_then(Cell::reason);
            finals.push(FinalTask {
                at: entry.at,
                state: entry.state,
                reason,
            });
            if job.dependents.is_some() {
                job.settle(entry.at.task, &mut cancelled);
                settled.push(entry.slot);
            }
            if job.is_over() {
                over.push(entry.slot);
            }
        }
        let tasks = finals.iter().map(|task| task.at).collect();
        finals.append(&mut cancelled);
        out.push(Output::Finals(finals));
        settled.dedup();
        for slot in settled {
            self.requeue_lane(slot);
        }
        if let Some((slot, _)) = recording.node
            && let Some(node) = self.nodes.id(slot)
        {
            out.push(Output::Ack {
                node: node.clone(),
                tasks,
            });
        }
        for slot in over {
            self.finish_if_over(slot, out);
        }
    }

    /// The tasks are where they were before the report. When the session that reported them is
    /// over, nobody would report them again over it: they are queued.
    pub(super) fn on_record_failed(&mut self, batch: BatchId, out: &mut Vec<Output>) {
        let Some(recording) = self.end(batch).filter(|_| !planted!(RecordFailureIgnored)) else {
            return;
        };
        let holder = recording.node.filter(|&(slot, epoch)| {
            let node = self.nodes.get(slot);
            node.is_some_and(|node| node.epoch == Some(epoch))
        });
        for entry in recording.entries.iter().rev() {
            let task = entry.at.task;
            let Some(job) = live(self.jobs.at_mut(entry.slot), entry.at.job) else {
                continue;
            };
            if let Some(cell) = job.table.get_mut(task) {
                cell.set_reason(None);
            }
            let class = job.class;
            match holder {
                Some((node, _)) if job.cancelled.is_none() => {
                    job.set_phase(task, Phase::Running);
                    if let Some(held) = self.nodes.get_mut(node) {
                        held.hold(entry.slot, class, 1, 0);
                        held.promote(node, &mut self.index);
                    }
                }
                _ => job.enqueue(task, true),
            }
            if let Some(reason) = self.jobs.at(entry.slot).and_then(|job| job.cancelled) {
                self.cancel_tasks(entry.slot, task..task + 1, reason, out);
            }
            self.requeue_lane(entry.slot);
            self.finish_if_over(entry.slot, out);
        }
    }
}

/// The job of a slot, when the slot has not been given to another since.
fn live(job: Option<&mut Job>, id: JobId) -> Option<&mut Job> {
    job.filter(|job| job.id == id)
}

fn reason_of(outcome: Outcome) -> Option<Reason> {
    match outcome {
        Outcome::Completed => None,
        Outcome::Failed(reason) => Some(reason),
    }
}

/// The final state that an outcome leads to; `None` when it is tried again.
fn end_of(job: &Job, cell: Cell, outcome: Outcome) -> Option<TaskState> {
    match outcome {
        Outcome::Completed => Some(TaskState::Completed),
        Outcome::Failed(Reason::Cancelled) => Some(TaskState::Cancelled),
        Outcome::Failed(reason) if !job.retry.retries(reason) => Some(TaskState::Failed),
        Outcome::Failed(_) if cell.failures() + 1 >= job.retry.attempts() => Some(TaskState::Dead),
        Outcome::Failed(_) => None,
    }
}

//! Nodes: their sessions, what they report and what they are sent.

use std::sync::Arc;
use std::time::Instant;

use weft_core::dispatch::{BatchId, Input, TaskRef, TaskResult, Verdict};
use weft_core::{Epoch, Monotonic};
use weft_types::{NodeId, Reason};

use super::attempts::AttemptNote;
use super::command::{Command, NodeReport, Report};
use super::log::TaskRecord;
use super::shell::{Shell, answer};
use super::work::{Outbound, SessionEnd, Work};

/// A node's session.
pub(super) struct Session {
    pub(super) epoch: Epoch,
    pub(super) outbound: Outbound,
}

impl Shell {
    pub(super) fn node(&mut self, now: Monotonic, node: NodeId, epoch: Epoch, report: NodeReport) {
        match report {
            NodeReport::Up {
                candidate,
                max_held,
                held,
                outbound,
            } => {
                let session = Session { epoch, outbound };
                if let Some(old) = self.sessions.insert(node.clone(), session) {
                    let _ = old.outbound.try_send(Work::End(SessionEnd::Replaced));
                }
                let candidate = self.reserved.up(&node, *candidate);
                self.step(
                    now,
                    Input::NodeUp {
                        node,
                        epoch,
                        candidate,
                        max_held,
                        held,
                    },
                );
            }
            NodeReport::Offers(capacity) => {
                let session = self.sessions.get(&node);
                if session.is_some_and(|session| session.epoch == epoch)
                    && let Some(candidate) = self.reserved.offers(&node, *capacity)
                {
                    self.step(now, Input::NodeChanged { node, candidate });
                }
            }
            NodeReport::Results(reports) => self.results(now, &node, epoch, reports),
            NodeReport::Started(tasks) => self.step(now, Input::Started { node, epoch, tasks }),
            NodeReport::Handback { tasks, reason } => {
                self.note_rejected(&node, &tasks, reason);
                self.step(
                    now,
                    Input::Handback {
                        node,
                        epoch,
                        tasks,
                        reason,
                    },
                );
            }
        }
    }

    /// A node that refuses a task used up an attempt of it, unless it was merely full.
    fn note_rejected(&self, node: &NodeId, tasks: &[TaskRef], reason: Option<Reason>) {
        let Some(reason) = reason.filter(|reason| *reason != Reason::InsufficientResources) else {
            return;
        };
        let is_held = |at: &TaskRef| {
            let task = self.machine.task(at.job, at.task);
            task.is_some_and(|(_, attempt, holder)| attempt == at.attempt && holder == Some(node))
        };
        let tasks = tasks.iter().copied().filter(is_held).collect();
        self.note_unreported(node, tasks, reason);
    }

    /// Attempts that end without a report go into the history as well.
    pub(super) fn note_unreported(&self, node: &NodeId, tasks: Vec<TaskRef>, reason: Reason) {
        if tasks.is_empty() {
            return;
        }
        self.metrics.failed(reason, tasks.len() as u64);
        let now = self.clock.wall();
        let notes = tasks
            .into_iter()
            .map(|at| AttemptNote::unreported(at, reason, node, now));
        self.log.note_attempts(notes.collect());
    }

    /// Sorts reports into those to record and those to let go, and writes the first.
    fn results(&mut self, now: Monotonic, node: &NodeId, epoch: Epoch, reports: Vec<Report>) {
        let results: Vec<TaskResult> = reports.iter().map(|report| report.result).collect();
        let accepted = self
            .machine
            .accept(now, node, epoch, &results, &mut self.out);
        let mut records = Vec::new();
        let mut notes = Vec::new();
        let mut ended = 0;
        for (report, verdict) in reports.into_iter().zip(accepted.verdicts) {
            let at = report.result.at;
            let reason = match report.result.outcome {
                weft_core::dispatch::Outcome::Completed => None,
                weft_core::dispatch::Outcome::Failed(reason) => Some(reason),
            };
            match verdict {
                Verdict::Record(state) => records.push(TaskRecord {
                    at,
                    state,
                    reason,
                    outcome: report.outcome,
                }),
                Verdict::Retry => notes.push(AttemptNote {
                    at,
                    reason,
                    counted: true,
                    outcome: report.outcome,
                }),
                Verdict::Pending | Verdict::Ignore => continue,
                Verdict::Fenced => return self.end_session(node, epoch, SessionEnd::LeaseLost),
            }
            ended += 1;
            self.metrics.attempt(reason, report.result.run_us);
        }
        self.metrics.activity.ended(node, ended);
        if !notes.is_empty() {
            self.log.note_attempts(notes);
        }
        if let Some(batch) = accepted.batch {
            self.append(batch, records);
        }
    }

    pub(super) fn append(&self, batch: BatchId, records: Vec<TaskRecord>) {
        let answers = self.answers.clone();
        let metrics = Arc::clone(&self.metrics);
        let started = Instant::now();
        self.log.append_results(records, move |written| {
            metrics
                .journal_append_s
                .observe(started.elapsed().as_secs_f64());
            if let Err(error) = &written {
                tracing::error!(%error, "results could not be written; the nodes keep them");
            }
            answer(
                &answers,
                Command::Recorded {
                    batch,
                    written: written.is_ok(),
                },
            );
        });
    }

    pub(super) fn recorded(&mut self, now: Monotonic, batch: BatchId, written: bool) {
        self.step(
            now,
            if written {
                Input::Recorded { batch }
            } else {
                Input::RecordFailed { batch }
            },
        );
    }

    pub(super) fn lease_lost(&mut self, now: Monotonic, node: NodeId, epoch: Epoch) {
        self.end_session(&node, epoch, SessionEnd::LeaseLost);
        self.step(now, Input::NodeDown { node, epoch });
    }

    pub(super) fn removed(&mut self, now: Monotonic, node: NodeId) {
        if let Some(session) = self.sessions.remove(&node) {
            let _ = session.outbound.try_send(Work::End(SessionEnd::Removed));
        }
        self.metrics.activity.removed(&node);
        self.reserved.removed(&node);
        self.step(now, Input::NodeRemoved { node });
    }

    fn end_session(&mut self, node: &NodeId, epoch: Epoch, end: SessionEnd) {
        if self
            .sessions
            .get(node)
            .is_some_and(|session| session.epoch == epoch)
            && let Some(session) = self.sessions.remove(node)
        {
            let _ = session.outbound.try_send(Work::End(end));
        }
    }

    pub(super) fn end_sessions(&mut self, end: SessionEnd) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            let _ = session.outbound.try_send(Work::End(end));
        }
    }

    /// A session that is too far behind is dropped; the node comes back and says what it holds.
    pub(super) fn send(&mut self, node: &NodeId, work: Work) {
        let Some(session) = self.sessions.get(node) else {
            return;
        };
        if session.outbound.try_send(work).is_err() {
            tracing::warn!(%node, "its session is too far behind and is dropped");
            self.sessions.remove(node);
        }
    }
}

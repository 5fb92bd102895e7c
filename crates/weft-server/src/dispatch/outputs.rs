//! Carries out what the machine says, and lets go of jobs whose time is over.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use weft_core::Monotonic;
use weft_core::dispatch::{BatchId, FinalTask, Input, Output, TaskRun};
use weft_types::{JobId, JobState, Reason, TaskState};

use super::attempts::own_outcome;
use super::endings::Reply;
use super::log::TaskRecord;
use super::shell::{Shell, unknown};
use super::work::Work;
use crate::Error;

/// The most jobs that are forgotten in one round.
const MAX_FORGOTTEN_A_ROUND: usize = 256;

impl Shell {
    pub(super) fn carry_out(&mut self, now: Monotonic) {
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Assign { node, runs, .. } => {
                    self.count_assigned(&runs);
                    let with_spec = |run: TaskRun| (run, self.spec(run.job).unwrap_or_default());
                    let work = Work::Assign(runs.into_iter().map(with_spec).collect());
                    self.send(&node, work);
                }
                Output::Attached { node, stop, .. } => self.send(&node, Work::Attached { stop }),
                Output::Stop {
                    node,
                    tasks,
                    reason,
                    ..
                } => self.send(&node, Work::Stop { tasks, reason }),
                Output::Recall { node, tasks, .. } => self.send(&node, Work::Recall(tasks)),
                Output::Ack { node, tasks } => self.send(&node, Work::Ack(tasks)),
                Output::Record { batch, tasks } => self.record_own(batch, tasks),
                Output::CancelDue {
                    job,
                    reason,
                    because,
                } => self.cancel(job, self.cancellation(reason, because), None),
                Output::JobStarted { job } => self.job_started(job),
                Output::Finals(tasks) => self.finals(&tasks),
                Output::Lost { node, tasks } => {
                    self.note_unreported(&node, tasks, Reason::NodeLost);
                }
                Output::Retrying { at, reason, due } => {
                    self.metrics.retries.inc();
                    tracing::debug!(job = %at.job, task = at.task, %reason, in_ms = due.since_ms(now), "tried again");
                }
                Output::JobFinal { job, state, .. } => self.job_final(job, state),
                Output::SubstrateBreaker { substrate, state } => {
                    let data = json!({ "state": format!("{state:?}").to_lowercase() });
                    self.events
                        .emit(self.clock.wall(), "substrate.breaker", &substrate, data);
                }
                Output::Breaker { node, state } => {
                    self.metrics.activity.breaker(&node, state);
                    let data = json!({ "state": format!("{state:?}").to_lowercase() });
                    self.events
                        .emit(self.clock.wall(), "node.breaker", node.as_str(), data);
                }
            }
        }
    }

    /// Counts what is handed out, and how long it has waited since its job was on disk. Later
    /// attempts have waited for something else as well, and are not measured.
    fn count_assigned(&self, runs: &[TaskRun]) {
        let now = Instant::now();
        for run in runs {
            self.metrics.tasks_assigned.inc_by(run.len.into());
            let accepted = self.jobs.get(&run.job).and_then(|record| record.accepted);
            if let Some(accepted) = accepted.filter(|_| run.attempt == 1) {
                let waited = now.saturating_duration_since(accepted);
                self.metrics.dispatched(waited, run.len);
            }
        }
    }

    /// Outcomes that no node reported: cancelled, or dead because its nodes were lost.
    fn record_own(&self, batch: BatchId, tasks: Vec<FinalTask>) {
        let now = self.clock.wall();
        let record = |task: FinalTask| TaskRecord {
            at: task.at,
            state: task.state,
            reason: task.reason,
            outcome: match task.reason.filter(|_| task.state == TaskState::Dead) {
                Some(reason) => own_outcome("", reason.sentence().to_owned(), now),
                None => Bytes::new(),
            },
        };
        self.append(batch, tasks.into_iter().map(record).collect());
    }

    fn job_started(&mut self, job: JobId) {
        if let Some(record) = self.jobs.get_mut(&job) {
            record.started = Some(self.clock.wall());
        }
        self.watchers.notify(job);
    }

    fn finals(&mut self, tasks: &[FinalTask]) {
        let mut last = None;
        for task in tasks {
            self.metrics.task_final(task.state);
            if task.state == TaskState::Dead {
                self.died(task);
            }
            if last != Some(task.at.job) {
                last = Some(task.at.job);
                self.watchers.notify(task.at.job);
            }
        }
    }

    /// A dead letter more. Told at 1, 10, 100 and so on of a job: an event each would drown the rest.
    fn died(&mut self, task: &FinalTask) {
        let job = task.at.job;
        let count = self.dead.add(job, task.at.task);
        if count.to_string().trim_end_matches('0') == "1" {
            let reason = task.reason.unwrap_or(Reason::Internal);
            let data = json!({
                "dead": count, "task": task.at.task, "reason": reason.as_str(),
                "detail": reason.sentence(), "next": format!("weft dlq ls --job {job}"),
            });
            self.events
                .emit(self.clock.wall(), "job.dead-letter", &job.to_string(), data);
        }
    }

    fn job_final(&mut self, job: JobId, state: JobState) {
        let wall = self.clock.wall();
        let Some(record) = self.jobs.get_mut(&job) else {
            return;
        };
        record.finished = Some(wall);
        // A job of one task that went well is told by its result; an event each would drown the rest.
        let counts = self.machine.counts(job).unwrap_or_default();
        if counts.total > 1 || state != JobState::Succeeded {
            let data = json!({ "state": state.as_str(), "name": &*record.name, "tasks": counts });
            self.events.emit(wall, "job.ended", &job.to_string(), data);
        }
        let state = self.stored_state(job, None);
        self.log.append_state_unhurried(job, &state);
        self.expiring.push_back((wall.plus(self.result_ttl), job));
        self.watchers.notify(job);
        for reply in self.endings.take(job) {
            let _ = reply.send(self.stats(job));
        }
    }

    /// Answers at once when there is nothing to wait for: the job has ended, or is not known.
    pub(super) fn tell_end(&mut self, job: JobId, reply: Reply) {
        if self
            .machine
            .job_state(job)
            .is_some_and(|state| !state.is_final())
        {
            self.endings.wait(job, reply);
        } else {
            let _ = reply.send(self.stats(job));
        }
    }

    pub(super) fn forget(&mut self, now: Monotonic, job: JobId) -> Result<(), Error> {
        let state = self.machine.job_state(job).ok_or_else(|| unknown(job))?;
        if !state.is_final() {
            return Err(Error::NotFinal(job));
        }
        self.step(now, Input::Forget { job });
        self.dead.remove_job(job);
        if let Some(key) = self.jobs.remove(&job).and_then(|record| record.key) {
            self.keys.remove(&*key);
        }
        self.log.remove(job);
        self.watchers.notify(job);
        Ok(())
    }

    pub(super) fn expire(&mut self) {
        let wall = self.clock.wall();
        for _ in 0..MAX_FORGOTTEN_A_ROUND {
            let Some(&(due, job)) = self.expiring.front() else {
                return;
            };
            if due > wall {
                return;
            }
            self.expiring.pop_front();
            let _ = self.forget(self.now(), job);
        }
    }
}

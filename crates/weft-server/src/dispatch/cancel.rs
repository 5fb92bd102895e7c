//! Jobs that are cancelled: by a person, at their deadline, or because of a job they waited for.

use tokio::sync::oneshot;
use weft_core::Monotonic;
use weft_core::dispatch::Input;
use weft_types::{JobId, JobState, Reason, TaskState};

use super::command::Command;
use super::job::Cancellation;
use super::shell::{Shell, answer, unknown};
use crate::Error;

/// How long the thread waits before it tries again to write that a job is cancelled.
const CANCEL_AGAIN_MS: u64 = 1_000;

impl Shell {
    pub(super) fn cancel(
        &mut self,
        job: JobId,
        cancellation: Cancellation,
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    ) {
        let Some(state) = self.machine.job_state(job) else {
            if let Some(reply) = reply {
                let _ = reply.send(Err(unknown(job)));
            }
            return;
        };
        if state.is_final() {
            if let Some(reply) = reply {
                let _ = reply.send(Ok(()));
            }
            return;
        }
        let answers = self.answers.clone();
        let stored = self.stored_state(job, Some(&cancellation));
        self.log.append_state(job, stored, move |written| {
            let written = written.is_ok();
            answer(
                &answers,
                Command::Cancelled {
                    job,
                    cancellation,
                    written,
                    reply,
                },
            );
        });
    }

    pub(super) fn cancelled(
        &mut self,
        now: Monotonic,
        job: JobId,
        cancellation: Cancellation,
        written: bool,
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    ) {
        if written {
            let reason = cancellation.reason;
            if let Some(record) = self.jobs.get_mut(&job) {
                record.cancelled.get_or_insert(cancellation);
            }
            self.step(
                now,
                Input::Cancel {
                    job,
                    tasks: None,
                    reason,
                },
            );
        } else if reply.is_none() {
            let due = now.plus_ms(CANCEL_AGAIN_MS);
            self.cancel_again.push((due, job, cancellation));
        }
        if let Some(reply) = reply {
            let _ = reply.send(if written {
                Ok(())
            } else {
                Err(Error::not_written("the cancellation"))
            });
        }
    }

    /// Tries again to write cancellations down that the machine asked for.
    pub(super) fn cancel_due(&mut self, now: Monotonic) {
        let (due, later) = std::mem::take(&mut self.cancel_again)
            .into_iter()
            .partition(|(due, ..)| *due <= now);
        self.cancel_again = later;
        let due: Vec<(Monotonic, JobId, Cancellation)> = due;
        for (_, job, cancellation) in due {
            self.cancel(job, cancellation, None);
        }
    }

    /// The sentence for a job that the machine wants cancelled.
    pub(super) fn cancellation(&self, reason: Reason, because: Option<JobId>) -> Cancellation {
        let detail = match because {
            None if reason == Reason::Timeout => "the job's deadline passed".to_owned(),
            None => String::new(),
            Some(earlier) => {
                let name = self.jobs.get(&earlier).map_or("", |record| &record.name);
                let end = match self.machine.job_state(earlier) {
                    Some(JobState::Cancelled) => "was cancelled",
                    _ => "failed",
                };
                format!("{earlier} ({name}), which it waited for, {end}")
            }
        };
        Cancellation {
            reason,
            detail: detail.into(),
        }
    }

    /// Why a task was cancelled for which no node has reported anything.
    pub fn cancelled_for(&self, id: JobId, task: u32) -> Cancellation {
        if let Some(cause) = self.machine.cause(id, task) {
            let end = match self.machine.task(id, cause).map(|(state, ..)| state) {
                Some(TaskState::Cancelled) => "was cancelled",
                Some(TaskState::Dead) => "failed as often as it may",
                _ => "failed",
            };
            return Cancellation {
                reason: Reason::Cancelled,
                detail: format!("task {cause}, which it waits for, {end}").into(),
            };
        }
        let known = self
            .jobs
            .get(&id)
            .and_then(|record| record.cancelled.clone());
        known.unwrap_or(Cancellation {
            reason: Reason::Cancelled,
            detail: Box::default(),
        })
    }
}

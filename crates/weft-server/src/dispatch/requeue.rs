//! What people decide about failed tasks: to try them again, or to drop them from the list.
//!
//! Both are on disk before they are acknowledged. Whoever asks names the attempts it has seen:
//! what has changed since is left alone.

use serde_json::json;
use tokio::sync::oneshot;
use weft_core::Monotonic;
use weft_core::dispatch::{Input, TaskRef};
use weft_types::{JobId, TaskState};

use super::attempts::AttemptNote;
use super::command::Command;
use super::shell::{Shell, answer, unknown};
use crate::Error;

/// Told how many tasks were changed.
pub(super) type Changed = oneshot::Sender<Result<u64, Error>>;

/// What is done to final tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// They get all their attempts again.
    Requeue,
    /// They leave the list of dead letters.
    Drop,
}

impl Shell {
    /// Writes down what shall become of tasks; [`Shell::changed`] follows.
    pub(super) fn change(
        &mut self,
        change: Change,
        job: JobId,
        mut tasks: Vec<AttemptNote>,
        reply: Changed,
    ) {
        if !self.jobs.contains_key(&job) {
            let _ = reply.send(Err(unknown(job)));
            return;
        }
        if change == Change::Requeue && self.machine.is_cancelled(job) {
            let _ = reply.send(Err(Error::JobCancelled(job)));
            return;
        }
        tasks.retain(|task| {
            self.may_change(change, task.at) && self.dead.begin_change(job, task.at.task)
        });
        if tasks.is_empty() {
            let _ = reply.send(Ok(0));
            return;
        }
        let at: Vec<TaskRef> = tasks.iter().map(|task| task.at).collect();
        let answers = self.answers.clone();
        let done = move |written| {
            let command = Command::Changed {
                change,
                job,
                tasks: at,
                written,
                reply,
            };
            answer(&answers, command);
        };
        match change {
            Change::Requeue => self.log.append_requeued(tasks, done),
            Change::Drop => self.log.append_dropped(tasks, done),
        }
    }

    /// Whether a task is still as whoever asks has seen it.
    fn may_change(&self, change: Change, at: TaskRef) -> bool {
        let Some((state, attempt, _)) = self.machine.task(at.job, at.task) else {
            return false;
        };
        let fits = match change {
            Change::Requeue => matches!(state, TaskState::Failed | TaskState::Dead),
            Change::Drop => self.dead.contains(at.job, at.task),
        };
        fits && attempt == at.attempt
    }

    /// The wish is on disk, or could not be written.
    pub(super) fn changed(
        &mut self,
        now: Monotonic,
        change: Change,
        job: JobId,
        tasks: Vec<TaskRef>,
        written: Result<(), Error>,
        reply: Changed,
    ) {
        for at in &tasks {
            self.dead.end_change(job, at.task);
        }
        if let Err(error) = written {
            let _ = reply.send(Err(error));
            return;
        }
        for at in &tasks {
            self.dead.remove(job, at.task);
        }
        let count = tasks.len() as u64;
        if change == Change::Requeue {
            self.requeued(now, job, tasks);
        }
        let kind = match change {
            Change::Requeue => "job.requeued",
            Change::Drop => "job.dropped",
        };
        let data = json!({ "tasks": count });
        self.events
            .emit(self.clock.wall(), kind, &job.to_string(), data);
        let _ = reply.send(Ok(count));
    }

    fn requeued(&mut self, now: Monotonic, job: JobId, tasks: Vec<TaskRef>) {
        let Some(record) = self.jobs.get_mut(&job) else {
            return;
        };
        if record.finished.take().is_some() {
            self.expiring.retain(|(_, expiring)| *expiring != job);
            // Lest a restart takes the job for one that ended long ago.
            let state = self.stored_state(job, None);
            self.log.append_state_unhurried(job, &state);
        }
        let tasks = Some(tasks.iter().map(|at| at.task).collect());
        self.step(now, Input::Requeue { job, tasks });
        self.watchers.notify(job);
    }
}

//! Jobs in: a submission has its number at once and is answered once it is on disk.

use std::time::Instant;

use tokio::sync::oneshot;
use weft_core::Monotonic;
use weft_core::dispatch::Input;
use weft_types::JobId;

use super::command::{Command, NewJob};
use super::job::JobRecord;
use super::shell::{Shell, answer};
use crate::Error;

/// A job that is being written, and everybody who waits for that.
pub(super) struct Submitting {
    job: Box<NewJob>,
    replies: Vec<oneshot::Sender<Result<JobId, Error>>>,
}

impl Shell {
    /// Room for a job's tasks, and its number: greater than all before, and about the time.
    pub(super) fn admit(&mut self, tasks: u64) -> Result<JobId, Error> {
        self.machine.admit(tasks)?;
        self.last_id = (self.last_id + 1).max(self.clock.wall().as_millis() << 20);
        Ok(JobId(self.last_id))
    }

    pub(super) fn submit(
        &mut self,
        mut job: Box<NewJob>,
        reply: oneshot::Sender<Result<JobId, Error>>,
    ) {
        let Some(reply) = self.unless_known(&job, reply) else {
            return;
        };
        let id = match self.admit(job.submission.weight()) {
            Ok(id) => id,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        job.submission.id = id;
        let answers = self.answers.clone();
        self.log
            .append_job(id, &job, self.clock.wall(), move |written| {
                answer(&answers, Command::Submitted { id, written });
            });
        self.is_submitting(job, reply);
    }

    /// Completes a streamed job, unless an earlier one has its key.
    pub(super) fn seal(&mut self, job: Box<NewJob>, reply: oneshot::Sender<Result<JobId, Error>>) {
        let (id, tasks) = (job.submission.id, job.submission.tasks);
        // It was opened before anybody knew how many tasks it has.
        self.machine.abandon(0);
        let Some(reply) = self.unless_known(&job, reply) else {
            return self.log.remove(id);
        };
        if let Err(error) = self.machine.admit(job.submission.weight()) {
            let _ = reply.send(Err(error.into()));
            return self.log.remove(id);
        }
        let answers = self.answers.clone();
        let dependent = job.submission.graph.is_some();
        self.log.seal_job(id, tasks, dependent, move |written| {
            answer(&answers, Command::Submitted { id, written });
        });
        self.is_submitting(job, reply);
    }

    /// Answers a submission whose key an earlier one had; otherwise gives the reply back.
    fn unless_known(
        &mut self,
        job: &NewJob,
        reply: oneshot::Sender<Result<JobId, Error>>,
    ) -> Option<oneshot::Sender<Result<JobId, Error>>> {
        let known = job.idempotency_key.as_ref();
        let Some(&known) = known.and_then(|key| self.keys.get(key)) else {
            return Some(reply);
        };
        match self.submitting.get_mut(&known) {
            Some(submitting) => submitting.replies.push(reply),
            None => drop(reply.send(Ok(known))),
        }
        None
    }

    /// A job is on its way to the disk.
    fn is_submitting(&mut self, job: Box<NewJob>, reply: oneshot::Sender<Result<JobId, Error>>) {
        let id = job.submission.id;
        if let Some(key) = &job.idempotency_key {
            self.keys.insert(key.clone(), id);
        }
        let replies = vec![reply];
        self.submitting.insert(id, Submitting { job, replies });
    }

    pub(super) fn submitted(&mut self, now: Monotonic, id: JobId, written: Result<(), Error>) {
        let Some(Submitting { job, replies }) = self.submitting.remove(&id) else {
            return;
        };
        match written {
            Ok(()) => {
                self.accept_job(now, job);
                for reply in replies {
                    let _ = reply.send(Ok(id));
                }
            }
            Err(error) => {
                self.machine.abandon(job.submission.weight());
                if let Some(key) = &job.idempotency_key {
                    self.keys.remove(key);
                }
                self.log.remove(id);
                let detail = error.to_string();
                for reply in replies {
                    let _ = reply.send(Err(Error::not_written(&detail)));
                }
            }
        }
    }

    /// A job is on disk: it exists from now on.
    fn accept_job(&mut self, now: Monotonic, job: Box<NewJob>) {
        let NewJob {
            submission,
            name,
            runtime,
            spec,
            idempotency_key,
            ..
        } = *job;
        let record = JobRecord {
            name: name.into(),
            namespace: submission.namespace.clone(),
            runtime,
            priority: submission.priority,
            spec,
            created: self.clock.wall(),
            started: None,
            finished: None,
            accepted: Some(Instant::now()),
            key: idempotency_key.map(Into::into),
            cancelled: None,
            dependent_tasks: submission.graph.is_some(),
        };
        if let Some(key) = &record.key {
            self.keys.insert(key.to_string(), submission.id);
        }
        self.jobs.insert(submission.id, record);
        self.metrics.jobs_submitted.inc();
        self.metrics
            .tasks_submitted
            .inc_by(u64::from(submission.tasks));
        self.step(now, Input::Submit(submission));
    }
}

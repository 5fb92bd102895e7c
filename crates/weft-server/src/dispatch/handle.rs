//! The handle everybody but the dispatcher's thread holds.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use weft_core::Epoch;
use weft_placement::Availability;
use weft_types::{JobId, NodeId, Reason, Resources};

use super::attempts::AttemptNote;
use super::command::{Command, NewJob, NodeReport};
use super::job::JobStats;
use super::requeue::Change;
use super::shell::Shell;
use super::work::SessionEnd;
use crate::Error;

/// The most commands that wait for the dispatcher's thread.
pub(super) const MAX_WAITING_COMMANDS: usize = 8_192;

/// Who waits for news of which job; made when somebody waits, gone when nobody does.
#[derive(Default)]
pub(super) struct Watchers {
    jobs: Mutex<HashMap<JobId, watch::Sender<()>>>,
}

impl Watchers {
    /// Tells those who wait for a job that something of it became final.
    pub(super) fn notify(&self, job: JobId) {
        let mut jobs = self.jobs.lock();
        if let Some(sender) = jobs.get(&job)
            && sender.send(()).is_err()
        {
            jobs.remove(&job);
        }
    }

    fn watch(&self, job: JobId) -> watch::Receiver<()> {
        self.jobs
            .lock()
            .entry(job)
            .or_insert_with(|| watch::channel(()).0)
            .subscribe()
    }

    fn drop_idle(&self, job: JobId) {
        let mut jobs = self.jobs.lock();
        if jobs
            .get(&job)
            .is_some_and(|sender| sender.receiver_count() == 0)
        {
            jobs.remove(&job);
        }
    }
}

/// News of a job; dropping it stops the watching.
pub struct JobNews {
    watchers: Arc<Watchers>,
    job: JobId,
    receiver: Option<watch::Receiver<()>>,
}

impl JobNews {
    /// Resolves when something of the job became final since the last call, or was forgotten.
    pub async fn changed(&mut self) {
        if let Some(receiver) = &mut self.receiver {
            // An error means that the sender is gone; the caller looks again and finds out.
            let _ = receiver.changed().await;
        }
    }
}

impl Drop for JobNews {
    fn drop(&mut self) {
        self.receiver = None;
        self.watchers.drop_idle(self.job);
    }
}

/// The way to the dispatcher.
#[derive(Clone)]
pub struct Dispatcher {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) watchers: Arc<Watchers>,
}

impl Dispatcher {
    /// Takes a job; resolves when it is on disk.
    ///
    /// # Errors
    /// When the queue or the disk is full.
    pub async fn submit(&self, job: NewJob) -> Result<JobId, Error> {
        self.call(|reply| Command::Submit {
            job: Box::new(job),
            reply,
        })
        .await?
    }

    /// Makes room for a job whose tasks are streamed into the journal before it is submitted.
    ///
    /// # Errors
    /// When the queue is full.
    pub async fn open(&self, tasks: u64) -> Result<JobId, Error> {
        self.call(|reply| Command::Open { tasks, reply }).await?
    }

    /// All tasks of the streamed job are in the journal; its submission carries its id. Resolves
    /// when it is complete there, with the id of an earlier job that has its key if there is one.
    ///
    /// # Errors
    /// When the queue or the disk is full.
    pub async fn seal(&self, job: NewJob) -> Result<JobId, Error> {
        self.call(|reply| Command::Seal {
            job: Box::new(job),
            reply,
        })
        .await?
    }

    /// The streamed job will not come: its room is free again.
    pub async fn abandoned(&self, tasks: u64) {
        let _ = self.send(Command::Abandoned { tasks }).await;
    }

    /// A node reports.
    ///
    /// # Errors
    /// When the server stops.
    pub async fn node(&self, node: &NodeId, epoch: Epoch, report: NodeReport) -> Result<(), Error> {
        self.send(Command::Node {
            node: node.clone(),
            epoch,
            report,
        })
        .await
    }

    /// A node takes work or does not.
    pub fn availability(&self, node: &NodeId, availability: Availability) {
        self.post(Command::Availability {
            node: node.clone(),
            availability,
        });
    }

    /// Units of services reserve this much of a node.
    pub fn units_reserve(&self, node: &NodeId, reserve: Resources) {
        self.post(Command::UnitsReserve {
            node: node.clone(),
            reserve,
        });
    }

    /// A node's lease ended.
    pub fn lease_lost(&self, node: &NodeId, epoch: Epoch) {
        self.post(Command::LeaseLost {
            node: node.clone(),
            epoch,
        });
    }

    /// A node was removed for good.
    pub fn removed(&self, node: &NodeId) {
        self.post(Command::Removed { node: node.clone() });
    }

    /// Cancels a job; resolves when that is on disk.
    ///
    /// # Errors
    /// When the job is not known or the disk is full.
    pub async fn cancel(&self, job: JobId) -> Result<(), Error> {
        self.call(|reply| Command::Cancel {
            job,
            reason: Reason::Cancelled,
            reply,
        })
        .await?
    }

    /// Queues failed and dead tasks of a job again, as long as they are as the caller has seen
    /// them; how many it were. Resolves when that is on disk.
    ///
    /// # Errors
    /// When the job is not known or was cancelled, or the disk is full.
    pub async fn requeue(&self, job: JobId, tasks: Vec<AttemptNote>) -> Result<u64, Error> {
        self.change(Change::Requeue, job, tasks).await
    }

    /// Takes dead letters off the list, as long as they are as the caller has seen them; how many
    /// it were. The notes carry their whole outcomes. Resolves when that is on disk.
    ///
    /// # Errors
    /// When the job is not known or the disk is full.
    pub async fn drop_dead(&self, job: JobId, tasks: Vec<AttemptNote>) -> Result<u64, Error> {
        self.change(Change::Drop, job, tasks).await
    }

    async fn change(
        &self,
        change: Change,
        job: JobId,
        tasks: Vec<AttemptNote>,
    ) -> Result<u64, Error> {
        self.call(|reply| Command::Change {
            change,
            job,
            tasks,
            reply,
        })
        .await?
    }

    /// Forgets a job that has ended.
    ///
    /// # Errors
    /// When the job is not known, has not ended, or the disk is full.
    pub async fn forget(&self, job: JobId) -> Result<(), Error> {
        self.call(|reply| Command::Forget { job, reply }).await?
    }

    /// Asks something of the dispatcher's state.
    ///
    /// # Errors
    /// When the server stops.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Shell) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.call(|reply| {
            Command::Ask(Box::new(move |shell| {
                let _ = reply.send(question(shell));
            }))
        })
        .await
    }

    /// A job once it has ended; `None` when it is not known.
    ///
    /// # Errors
    /// When the server stops.
    pub async fn ended(&self, job: JobId) -> Result<Option<JobStats>, Error> {
        self.call(|reply| Command::Ended { job, reply }).await
    }

    /// News of a job, from now on.
    pub fn watch(&self, job: JobId) -> JobNews {
        JobNews {
            watchers: Arc::clone(&self.watchers),
            job,
            receiver: Some(self.watchers.watch(job)),
        }
    }

    /// Ends every session and the thread.
    pub async fn stop(&self) {
        let _ = self
            .call(|reply| Command::Stop {
                end: SessionEnd::Shutdown,
                reply,
            })
            .await;
    }

    async fn call<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.map_err(|_| Error::Stopping)
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands
            .send(command)
            .await
            .map_err(|_| Error::Stopping)
    }

    /// For callers that must not wait. When the queue is full the command is carried by a thread
    /// that may; this happens only when the dispatcher is far behind.
    fn post(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            let commands = self.commands.clone();
            std::thread::spawn(move || commands.blocking_send(command));
        }
    }
}

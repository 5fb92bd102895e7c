//! One queue's way to the dispatcher and back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_api::{JobView, rfc3339};
use weft_intake::{Acked, DeadLetter, Delivery, Limits, WorkQueue};
use weft_types::{JobId, Reason};

use super::answer::{answer, gone};
use super::backoff::{Away, Backoff};
use super::codec::{Codec, Incoming, Refusal};
use super::metrics::QueueMetrics;
use super::working::Working;
use crate::Error;
use crate::dispatch::NewJob;
use crate::state::Server;

/// The most jobs that are taken at once.
const MAX_BATCH: usize = 256;
/// The longest that one call of the queue waits for a job.
const TAKE_WAIT: Duration = Duration::from_secs(2);
/// The most kilobytes of jobs, as they were pushed, that are in memory.
const MAX_KILOBYTES: u32 = 128 << 10;
/// The most ended jobs of a door that are remembered, so that a repeated one is recognised.
/// They would fill the dispatcher otherwise: whoever pushes has the result in the queue.
const MAX_REMEMBERED: usize = 10_000;
/// How often a job is submitted: the one that its key led to may be forgotten at that moment.
const MAX_SUBMISSIONS: usize = 2;

/// What a job in flight takes: one of the jobs, and its bytes.
type Room = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// One queue's way to the dispatcher and back.
pub(super) struct Door {
    server: Arc<Server>,
    queue: Arc<dyn WorkQueue>,
    codec: Codec,
    max_deliveries: u32,
    batch: usize,
    room: Arc<Semaphore>,
    kilobytes: Arc<Semaphore>,
    metrics: QueueMetrics,
    working: Working,
    ended: Mutex<VecDeque<JobId>>,
}

impl Door {
    pub(super) fn new(
        server: Arc<Server>,
        queue: Arc<dyn WorkQueue>,
        codec: Codec,
        limits: Limits,
    ) -> Self {
        Self {
            metrics: server.metrics.intake.of(codec.queue()),
            server,
            queue,
            codec,
            max_deliveries: limits.max_deliveries,
            batch: MAX_BATCH.min(limits.max_in_flight),
            room: Arc::new(Semaphore::new(limits.max_in_flight)),
            kilobytes: Arc::new(Semaphore::new(MAX_KILOBYTES as usize)),
            working: Working::default(),
            ended: Mutex::default(),
        }
    }

    /// Takes and works on jobs until the server stops.
    pub(super) async fn run(self: Arc<Self>) {
        let stopping = self.server.stopping.clone();
        tokio::select! {
            () = Arc::clone(&self).take_all() => {}
            () = self.renew_all() => {}
            () = stopping.cancelled() => {}
        }
        self.metrics.connected.set(0);
        // What is left goes to another server at once, or comes back to this one.
        if let Err(error) = self.queue.close().await {
            tracing::debug!(queue = self.codec.queue(), %error, "not closed");
        }
    }

    async fn take_all(self: Arc<Self>) {
        let mut away = Away::new(self.codec.queue());
        loop {
            let Some(mut permits) = self.permits().await else {
                return;
            };
            match self.queue.take(permits.len(), TAKE_WAIT).await {
                Ok(taken) => {
                    away.answered();
                    self.metrics.connected.set(1);
                    for delivery in taken {
                        let Some(bytes) = self.room_for_bytes(&delivery).await else {
                            return;
                        };
                        let room = (permits.pop(), bytes);
                        tokio::spawn(Arc::clone(&self).one(delivery, room));
                    }
                }
                Err(error) => {
                    self.metrics.connected.set(0);
                    self.metrics.errors.inc();
                    drop(permits);
                    away.wait(&error).await;
                }
            }
        }
    }

    /// Room for at least one job and at most a batch.
    async fn permits(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = Arc::clone(&self.room).acquire_owned().await.ok()?;
        let mut permits = vec![first];
        while permits.len() < self.batch {
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
                break;
            };
            permits.push(permit);
        }
        Some(permits)
    }

    /// Room for the bytes of a job, which are in memory until it ends.
    async fn room_for_bytes(&self, delivery: &Delivery) -> Option<OwnedSemaphorePermit> {
        let kilobytes = u32::try_from(delivery.body.len().div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let wanted = kilobytes.clamp(1, MAX_KILOBYTES);
        let room = Arc::clone(&self.kilobytes).acquire_many_owned(wanted);
        room.await.ok()
    }

    /// Keeps what is held, and looks how much waits.
    async fn renew_all(&self) {
        loop {
            tokio::time::sleep(self.queue.lease() / 4).await;
            if let Err(error) = self.queue.renew().await {
                self.metrics.errors.inc();
                tracing::debug!(queue = self.codec.queue(), %error, "not renewed");
            }
            if let Ok(depth) = self.queue.depth().await {
                let waiting = i64::try_from(depth.waiting).unwrap_or(i64::MAX);
                self.metrics.waiting.set(waiting);
            }
        }
    }

    /// Works on one job; ends early when the server stops, which leaves the job in the queue.
    async fn one(self: Arc<Self>, delivery: Delivery, room: Room) {
        self.metrics.taken.inc();
        if delivery.receipt.deliveries > 1 {
            self.metrics.redelivered.inc();
        }
        self.metrics.in_flight.inc();
        let stopping = self.server.stopping.clone();
        tokio::select! {
            () = self.work(delivery) => {}
            () = stopping.cancelled() => {}
        }
        self.metrics.in_flight.dec();
        drop(room);
    }

    async fn work(&self, delivery: Delivery) {
        let incoming = match self.read(&delivery) {
            Ok(incoming) => incoming,
            Err(refusal) => return self.reject(&delivery, refusal).await,
        };
        let Incoming { id, job } = incoming;
        let key = job.idempotency_key.clone().unwrap_or_default();
        if !self.working.begin(&key, &job) {
            return self.reject(&delivery, Refusal::duplicate(id)).await;
        }
        let worked = self.submit_and_end(&delivery, &id, job).await;
        self.working.end(&key);
        if let Err(refusal) = worked {
            self.reject(&delivery, refusal).await;
        }
    }

    fn read(&self, delivery: &Delivery) -> Result<Incoming, Refusal> {
        let incoming = self.codec.read(delivery, self.server.clock.wall())?;
        if delivery.receipt.deliveries > self.max_deliveries {
            return Err(Refusal {
                id: Some(incoming.id),
                reason: Reason::Internal,
                detail: format!(
                    "delivered {} times without an end; whoever took it stopped each time",
                    delivery.receipt.deliveries - 1
                ),
            });
        }
        Ok(incoming)
    }

    async fn submit_and_end(
        &self,
        delivery: &Delivery,
        id: &str,
        job: NewJob,
    ) -> Result<(), Refusal> {
        // A job that comes back may have been encoded by another version: it is the same anyway.
        if delivery.receipt.deliveries == 1 && self.differs(&job).await {
            return Err(Refusal::duplicate(id.to_owned()));
        }
        let ended = self.submit_and_wait(&job).await.map_err(|error| Refusal {
            id: Some(id.to_owned()),
            reason: error.reason(),
            detail: error.to_string(),
        })?;
        if self.ack(delivery, id, ended.as_ref()).await == Acked::NameTaken {
            return Err(Refusal::duplicate(id.to_owned()));
        }
        if let Some(view) = ended {
            self.remember(view.id).await;
        }
        Ok(())
    }

    /// The job once it is final; `None` when somebody removed it.
    async fn submit_and_wait(&self, job: &NewJob) -> Result<Option<JobView>, Error> {
        for _ in 0..MAX_SUBMISSIONS {
            let id = self.submit(job).await?;
            if let Some(view) = self.finished(id).await {
                return Ok(Some(view));
            }
        }
        Ok(None)
    }

    /// Whether the key belongs to another job that is still known.
    async fn differs(&self, job: &NewJob) -> bool {
        let key = job.idempotency_key.clone().unwrap_or_default();
        let known = self.server.dispatcher.ask(move |shell| {
            let known = shell.job_of_key(&key)?;
            Some((known, shell.spec(known)?))
        });
        let Ok(Some((known, spec))) = known.await else {
            return false;
        };
        if spec != job.spec {
            return true;
        }
        let count = u32::try_from(job.payloads.len()).unwrap_or(u32::MAX);
        match self.server.log.payloads(known, 0, count).await {
            Some(payloads) => count > 0 && payloads != job.payloads,
            None => false,
        }
    }

    /// Submits a job, again and again while there is no room or the disk is full.
    async fn submit(&self, job: &NewJob) -> Result<JobId, Error> {
        let mut backoff = Backoff::new();
        loop {
            match self.server.dispatcher.submit(job.clone()).await {
                Ok(id) => return Ok(id),
                // This task ends with the server, and the job stays in the queue.
                Err(Error::Stopping) => std::future::pending().await,
                Err(error @ (Error::Dispatch(_) | Error::NotWritten(_) | Error::Journal(_))) => {
                    tracing::debug!(queue = self.codec.queue(), %error, "no room for a job yet");
                    tokio::time::sleep(backoff.next_wait()).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The job once it is final; `None` when somebody removed it.
    async fn finished(&self, id: JobId) -> Option<JobView> {
        let mut news = self.server.dispatcher.watch(id);
        loop {
            let stats = self.server.dispatcher.ask(move |shell| shell.stats(id));
            match stats.await {
                Ok(Some(stats)) if stats.state.is_final() => return Some(stats.view()),
                Ok(Some(_)) => news.changed().await,
                Ok(None) => return None,
                // The server stops, and this task with it.
                Err(_) => std::future::pending().await,
            }
        }
    }

    async fn ack(&self, delivery: &Delivery, id: &str, view: Option<&JobView>) -> Acked {
        let mut backoff = Backoff::new();
        loop {
            let acked = match self.try_ack(delivery, id, view).await {
                Ok(acked) => acked,
                Err(error) => {
                    self.failed(&error, &mut backoff).await;
                    continue;
                }
            };
            match acked {
                Acked::Done => self.metrics.acked.inc(),
                Acked::Stale => self.metrics.stale.inc(),
                Acked::NameTaken => 0,
            };
            return acked;
        }
    }

    async fn try_ack(
        &self,
        delivery: &Delivery,
        id: &str,
        view: Option<&JobView>,
    ) -> Result<Acked, Error> {
        let done = match view {
            Some(view) => answer(&self.server, &*self.queue, self.codec, id, view).await?,
            None => gone(self.codec, id, rfc3339(self.server.clock.wall())),
        };
        Ok(self.queue.ack(&delivery.receipt, &done).await?)
    }

    async fn reject(&self, delivery: &Delivery, refusal: Refusal) {
        let at = rfc3339(self.server.clock.wall());
        let letter = DeadLetter::new(delivery, refusal.id, refusal.reason, refusal.detail, at);
        tracing::info!(
            queue = self.codec.queue(),
            id = letter.job_id,
            detail = letter.detail,
            "a dead letter"
        );
        let mut backoff = Backoff::new();
        loop {
            match self.queue.reject(&delivery.receipt, &letter).await {
                Ok(Acked::Done) => {
                    self.metrics.rejected.inc();
                    return;
                }
                Ok(Acked::Stale | Acked::NameTaken) => {
                    self.metrics.stale.inc();
                    return;
                }
                Err(error) => self.failed(&error.into(), &mut backoff).await,
            }
        }
    }

    /// A job's end could not be told: waits before it is tried again. That the queue is away is
    /// said in the log by whoever takes from it, once for all jobs.
    async fn failed(&self, error: &Error, backoff: &mut Backoff) {
        self.metrics.errors.inc();
        tracing::debug!(queue = self.codec.queue(), %error, "an end could not be told yet");
        tokio::time::sleep(backoff.next_wait()).await;
    }

    /// Forgets the oldest of the jobs that this door brought in, once there are many.
    async fn remember(&self, job: JobId) {
        let oldest = {
            let mut ended = self.ended.lock();
            if ended.back() != Some(&job) {
                ended.push_back(job);
            }
            if ended.len() > MAX_REMEMBERED {
                ended.pop_front()
            } else {
                None
            }
        };
        if let Some(oldest) = oldest
            && let Err(error) = self.server.dispatcher.forget(oldest).await
        {
            tracing::debug!(%error, "already gone");
        }
    }
}

impl Refusal {
    fn duplicate(id: String) -> Self {
        Self {
            detail: format!("job_id: another job was given the id {id:?}; its result stands"),
            id: Some(id),
            reason: Reason::InvalidSpec,
        }
    }
}

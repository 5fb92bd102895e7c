//! The queue port: durable at-least-once queues that others push work into, and their backends.
//!
//! A consumer takes jobs, works on them for as long as it keeps renewing its hold, and ends each
//! with [`WorkQueue::ack`] or [`WorkQueue::reject`]. The result is durable before the job leaves
//! the queue, so a consumer may be killed at any instruction: what it held is delivered again, to
//! another consumer once its lease is over or to itself when it comes back. A job may therefore
//! be run twice; its result is recorded once, by whoever holds the job then.
//!
//! Architecture invariant: what a job means, this crate does not know. A backend is done when it
//! passes [`conformance`] against its real engine.

mod embedded;
mod error;
mod letter;
mod settings;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(feature = "nats")]
pub mod nats;
#[cfg(feature = "redis")]
pub mod redis;

use std::time::Duration;

use bytes::Bytes;

pub use embedded::EmbeddedQueue;
pub use error::Error;
pub use letter::DeadLetter;
pub use settings::{Limits, NatsSettings, RedisSettings};

/// The largest job that is taken as a whole, in bytes; of a larger one only its beginning is.
pub const MAX_JOB_BYTES: usize = 32 << 20;
/// How much of a job that is too large is taken, to say which one it was.
pub const PREFIX_BYTES: usize = 4 << 10;
/// The most bytes of jobs that one call of [`WorkQueue::take`] brings, a single larger job aside.
pub const MAX_TAKEN_BYTES: usize = 16 << 20;
/// How long results are kept for those who asked for them.
pub const RESULT_TTL: Duration = Duration::from_secs(24 * 3600);
/// The most dead letters that are kept; the oldest go first.
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// A queue as one consumer sees it.
///
/// One task calls `take`; the other calls may come from any task at any time.
#[async_trait::async_trait]
pub trait WorkQueue: Send + Sync + 'static {
    /// How long what this consumer holds stays its own without [`WorkQueue::renew`].
    fn lease(&self) -> Duration;

    /// At most `max` jobs, the oldest first; waits up to `wait` for the first one. Jobs of dead
    /// consumers come before new ones.
    ///
    /// # Errors
    /// When the engine cannot be reached or refuses. Nothing is lost: what was taken and not
    /// returned is delivered later.
    async fn take(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, Error>;

    /// Records one part of a large result. A part that is there already stays as it is.
    ///
    /// # Errors
    /// When it could not be recorded; try again.
    async fn part(&self, result: &str, number: u32, body: Bytes) -> Result<(), Error>;

    /// Makes the result durable and then removes the job.
    ///
    /// # Errors
    /// When it is not known whether that happened; try again.
    async fn ack(&self, receipt: &Receipt, done: &Done) -> Result<Acked, Error>;

    /// Moves the job to the dead letters.
    ///
    /// # Errors
    /// When it is not known whether that happened; try again.
    async fn reject(&self, receipt: &Receipt, letter: &DeadLetter) -> Result<Acked, Error>;

    /// Begins the lease of everything this consumer holds anew; to be called a few times a lease.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn renew(&self) -> Result<(), Error>;

    /// Lets others have at once what this consumer holds.
    ///
    /// # Errors
    /// When the engine cannot be reached; the lease then ends by itself.
    async fn close(&self) -> Result<(), Error>;

    /// How many jobs wait and are held.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    async fn depth(&self) -> Result<Depth, Error>;
}

/// A job in the hands of this consumer.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What ends it.
    pub receipt: Receipt,
    /// Its bytes as they were pushed; only the first [`PREFIX_BYTES`] of one that is too large.
    pub body: Bytes,
    /// How many bytes were pushed.
    pub size: usize,
    /// The producer's own name for it, or one that is as good as unique; where the engine has such.
    pub key: Option<String>,
}

impl Delivery {
    /// Whether the body is all of it.
    pub fn is_whole(&self) -> bool {
        self.size == self.body.len()
    }
}

/// What ends a delivery. It is worth nothing once the job was delivered to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Receipt {
    pub(crate) sequence: u64,
    /// How often the job was delivered, this time included; from 1.
    pub deliveries: u32,
}

/// A job's end.
#[derive(Clone, Debug)]
pub struct Done {
    /// The name under which the result is asked for.
    pub result: String,
    /// The result.
    pub body: Bytes,
    /// A line for whoever measures, where the engine keeps such.
    pub measure: Option<Bytes>,
}

/// What became of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// It counts.
    Done,
    /// Somebody else has the job by now, or ended it.
    Stale,
    /// Another job has a result under this name, which stands. The job is still held.
    NameTaken,
}

/// How many jobs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// In the queue.
    pub waiting: u64,
    /// Held by this consumer.
    pub held: u64,
}

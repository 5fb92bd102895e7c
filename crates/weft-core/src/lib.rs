//! The decisions of the control plane as pure state machines.
//!
//! | module | decides |
//! | --- | --- |
//! | [`liveness`] | which nodes live: leases, epochs, suspicion, cordon and drain |
//! | [`dispatch`] | which task goes to which node, and what becomes of its reports |
//! | [`retry`] | how long a failed task waits before it is tried again |
//! | [`service`] | which units a service has, where, and when they are replaced |
//! | [`unit`] | what a node does next with one unit, and what it reports of it |
//! | [`breaker`] | when a node that fails everything gets no more work |
//!
//! Every machine has the shape `(state, now, input) → outputs`. A shell (the server, or the
//! simulator) feeds it from the network, the journal and the clock, and carries out what it
//! returns.
//!
//! Architecture invariant: nothing here does I/O, reads a clock or draws random numbers. Time
//! comes in as [`Monotonic`], randomness as a seed. Decisions never depend on the iteration order
//! of a hash map.

/// Whether a bug of that name is planted: never, without the feature `planted`.
macro_rules! planted {
    ($bug:ident) => {{
        #[cfg(feature = "planted")]
        {
            crate::planted::is_planted(crate::planted::Bug::$bug)
        }
        #[cfg(not(feature = "planted"))]
        {
            false
        }
    }};
}

pub mod breaker;
pub mod dispatch;
pub mod liveness;
#[cfg(feature = "planted")]
pub mod planted;
pub mod retry;
pub mod service;
pub mod unit;

mod idmap;
mod time;

pub use time::Monotonic;

/// Grows with each registration of a node; whoever holds a smaller one is stale and is ignored.
pub type Epoch = u64;

/// What a caller did wrong, or what does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The dispatcher holds as much as it may; try again later.
    #[error(
        "the queue is full: {tasks} tasks of {jobs} jobs are waiting; try again in {retry_after_ms} ms"
    )]
    Full {
        /// Tasks in memory.
        tasks: u64,
        /// Jobs in memory.
        jobs: u64,
        /// When to try again, in milliseconds.
        retry_after_ms: u64,
    },
    /// A job that others are to wait for is not known.
    #[error("{0} is not known, so nothing can wait for it")]
    UnknownDependency(weft_types::JobId),
    /// A job that waits for itself, or for one that is submitted after it.
    #[error("{0} would wait for itself")]
    DependencyCycle(weft_types::JobId),
}

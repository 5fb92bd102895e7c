//! The shell of the dispatch machine: jobs in, work out, results recorded.
//!
//! One thread owns the machine ([`shell`]). Everybody else holds a [`Dispatcher`], a handle with
//! a bounded queue of commands. The thread takes all waiting commands at once, feeds them to the
//! machine, appends what must be durable to the journal in one go, and lets the machine hand out
//! work; it never waits for the disk, because the journal answers with a command of its own.
//!
//! The shell knows names, times and specifications of jobs; it deliberately knows no payloads and
//! no outcomes: these go between the journal and the sessions.

mod attempts;
mod cancel;
mod command;
mod dead;
mod endings;
mod find;
mod handle;
mod job;
mod log;
mod nodes;
mod outputs;
mod questions;
mod recover;
mod requeue;
mod reserved;
mod shell;
mod submit;
mod work;

pub use attempts::{AttemptNote, StoredAttempt};
pub use command::{NewJob, NodeReport, Report};
pub use dead::{BadTask, DeadCursor, DeadFilter};
pub use handle::{Dispatcher, JobNews};
pub use job::JobStats;
pub use log::{Log, unpack_state};
pub use questions::Gauges;
pub use recover::Dispatching;
pub use shell::Shell;
pub use work::{MAX_WAITING_WORK, Work};

//! The port behind which units of services are run: containers, Compose applications and virtual
//! machines.
//!
//! A [`UnitRuntime`] makes one [`Unit`] true on this machine and tells how it is. Every call is
//! idempotent, and may be repeated after the caller was killed at any instruction of the one
//! before: what is ours is found again by labels that the backend puts on everything it makes.
//!
//! ```text
//!  prepare ──► start ──► observe … observe ──► stop ──► remove
//!  images,     makes     running, exited,      asks,    instance and what was
//!  volumes     and runs  with what and why     kills    made for it alone
//! ```
//!
//! Architecture invariant: a backend decides nothing. When something is started again, whether it
//! is healthy, what is kept and where it should run is decided by its caller; it knows no server,
//! fetches no secrets and never touches what it did not make.

mod error;
mod logs;
mod runtime;
mod sizes;
mod stats;
mod unit;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use error::{Error, Missing, Step};
pub use logs::{LogLine, LogStream, LogsWanted, MAX_LOG_LINE_BYTES};
pub use runtime::{
    CleanPolicy, Cleaned, ExecInput, ExecOutput, ExecSession, ExecWanted, Owned, Probe, Progress,
    UnitRuntime,
};
pub use sizes::Sizes;
pub use stats::Usage;
pub use unit::{
    Credentials, Observed, PartStatus, Phase, Secrets, Unit, UnitWork, labels, publish_address,
};

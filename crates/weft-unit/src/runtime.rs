//! The port: what every backend can do.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use weft_types::{RuntimeKind, UnitId};

use crate::{Error, LogStream, LogsWanted, Missing, Observed, Unit, Usage};

/// What a backend can do on this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Probe {
    /// Its version, as the engine says it.
    pub version: String,
    /// Capabilities of the node: `kvm`, `runsc`, `pool:fast`, …
    pub capabilities: Vec<String>,
    /// What it cannot do.
    pub missing: Vec<Missing>,
}

/// What is being done, for people who wait: "pulling 3 of 7 layers, 40 of 120 MB".
pub type Progress = watch::Sender<String>;

/// Something of ours that is there, found by its labels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owned {
    /// Of which unit.
    pub unit: UnitId,
    /// Of which revision; 0 when the labels do not say.
    pub revision: u64,
}

/// What to run inside a unit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExecWanted {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Which part; the first one when empty.
    pub part: String,
    /// With a terminal, of this many columns and rows.
    pub tty: Option<(u16, u16)>,
}

/// What is told to a command inside a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Stdin(Bytes),
    /// Its standard input is at its end.
    Eof,
    /// The terminal has another size: columns, rows.
    Resize(u16, u16),
}

/// What a command inside a unit prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExecOutput {
    /// To its standard output, or to the terminal.
    Stdout(Bytes),
    /// To its standard error.
    Stderr(Bytes),
}

/// A command that runs inside a unit. Dropping `input` closes its standard input; dropping the
/// whole session ends the command.
#[derive(Debug)]
pub struct ExecSession {
    /// To the command.
    pub input: mpsc::Sender<ExecInput>,
    /// From the command; ends with its output.
    pub output: mpsc::Receiver<ExecOutput>,
    /// Its exit code; 128 + n when a signal ended it.
    pub exit: oneshot::Receiver<Result<i32, Error>>,
}

/// What of caches may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanPolicy {
    /// Whatever no unit has used for this long goes.
    pub unused_for: Duration,
    /// With fewer free bytes than this, whatever no unit uses goes, the oldest first.
    pub min_free_bytes: u64,
}

/// What was cleaned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cleaned {
    /// Images, sources or disks.
    pub items: u64,
    /// Bytes that are free now.
    pub bytes: u64,
}

/// A backend that runs units of one kind.
///
/// Every method may be called at any time, also for units that are not there, also twice at once
/// for different units. A call whose future is dropped may be half done; the next call finds that.
#[async_trait]
pub trait UnitRuntime: Send + Sync + 'static {
    /// Which kind of work it runs.
    fn kind(&self) -> RuntimeKind;

    /// Its name: `docker`, `podman`, `oci`, `compose`, `qemu`.
    fn name(&self) -> &'static str;

    /// Whether it works on this machine, found by trying.
    ///
    /// # Errors
    /// What the machine would need.
    async fn probe(&self) -> Result<Probe, Missing>;

    /// Fetches what the unit is made of and makes its volumes, so that the start is short. Does
    /// nothing when all is there.
    ///
    /// # Errors
    /// `image-not-found`, `image-pull-failed`, `artifact-corrupt`, `storage-error`, …
    async fn prepare(&self, unit: &Unit, progress: &Progress) -> Result<(), Error>;

    /// Makes the instance and starts it, within its limits. One that runs already is left as it
    /// is; one that ended is started again, with a new writable layer or with its old disks as
    /// the kind has it.
    ///
    /// # Errors
    /// What hindered it; nothing of the attempt is left running.
    async fn start(&self, unit: &Unit) -> Result<(), Error>;

    /// How the instance is.
    ///
    /// # Errors
    /// When the engine does not answer; that says nothing about the instance.
    async fn observe(&self, id: UnitId) -> Result<Observed, Error>;

    /// Resolves when an instance of this backend may have changed; the caller looks at all, and
    /// anyway now and then. A backend that is told nothing never resolves.
    async fn changed(&self) {
        std::future::pending().await
    }

    /// What the instance printed.
    ///
    /// # Errors
    /// When there is none, or the engine does not answer.
    async fn logs(&self, id: UnitId, wanted: LogsWanted) -> Result<LogStream, Error>;

    /// Runs a command inside the instance.
    ///
    /// # Errors
    /// When it does not run, or the kind has no way in.
    async fn exec(&self, id: UnitId, wanted: ExecWanted) -> Result<ExecSession, Error>;

    /// What the instance uses.
    ///
    /// # Errors
    /// When it does not run, or the engine does not answer.
    async fn stats(&self, id: UnitId) -> Result<Usage, Error>;

    /// Lets the instance stand still, or go on; its memory stays. Does nothing when it is so
    /// already. One that stands still can be stopped and removed like any other.
    ///
    /// # Errors
    /// When it does not run.
    async fn set_paused(&self, id: UnitId, is_paused: bool) -> Result<(), Error>;

    /// Asks the instance to end and kills it when it has not after `grace`. Done when it has
    /// ended; does nothing when it has already.
    ///
    /// # Errors
    /// When it could not be ended.
    async fn stop(&self, id: UnitId, grace: Duration) -> Result<(), Error>;

    /// Removes the instance and everything that was made for it alone: processes, mounts,
    /// networks, control groups, scratch space, and its volumes unless they are to be retained or
    /// `keep_volumes` says that another unit takes them over. Ends it first if it runs.
    ///
    /// # Errors
    /// What could not be removed; the next call goes on.
    async fn remove(&self, id: UnitId, keep_volumes: bool) -> Result<(), Error>;

    /// Everything of this node that is there, in whatever state, also what a killed agent left
    /// half made.
    ///
    /// # Errors
    /// When the engine does not answer.
    async fn list(&self) -> Result<Vec<Owned>, Error>;

    /// Lets go of images, sources and other caches.
    ///
    /// # Errors
    /// When the engine does not answer.
    async fn clean(&self, policy: CleanPolicy) -> Result<Cleaned, Error>;
}

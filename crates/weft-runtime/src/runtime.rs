//! The port: what every backend can do.

use async_trait::async_trait;
use weft_types::RuntimeKind;

use crate::{Control, Outcome, TaskRun};

/// Something that runs tasks of one kind.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Which kind of work it runs.
    fn kind(&self) -> RuntimeKind;

    /// Whether it works on this machine, found by trying.
    async fn probe(&self) -> Probe;

    /// Runs a task to its end. Everything the task started is gone when this returns, however it ended.
    ///
    /// Whatever goes wrong is told by the outcome. Dropping the future stops the task as [`Control::cancel`]
    /// does, without waiting for its end.
    async fn run(&self, task: TaskRun, control: Control) -> Outcome;
}

/// What a runtime can do on this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Probe {
    /// Whether it can run anything at all.
    pub available: bool,
    /// What it can do beyond that, as capabilities of the node (`sandbox`).
    pub capabilities: Vec<String>,
    /// What it cannot do.
    pub missing: Vec<Missing>,
}

/// Something a runtime would need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// Why, as the system said.
    pub why: String,
    /// What to do about it.
    pub fix: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}); {}", self.what, self.why, self.fix)
    }
}

//! The handle on a task that runs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::OutputLog;

/// Cancels a task and gives access to its output while it runs. Clones control the same task.
#[derive(Clone, Debug, Default)]
pub struct Control {
    cancel: CancellationToken,
    output: Arc<OutputLog>,
}

impl Control {
    /// Control of a task to be started.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the task to stop. A process gets SIGTERM, and SIGKILL a second later. Its outcome is `cancelled`
    /// unless it had ended already.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Whether somebody asked the task to stop.
    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Resolves when somebody asks the task to stop.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// What it wrote so far.
    pub fn output(&self) -> &Arc<OutputLog> {
        &self.output
    }
}

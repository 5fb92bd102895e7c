//! The runtimes of one node.

use std::sync::Arc;

use weft_types::{Failure, Reason, RuntimeKind};

use crate::{Control, Outcome, Probe, Runtime, TaskRun};

/// The runtimes of one node, at most one a kind.
#[derive(Clone, Default)]
pub struct Runtimes {
    runtimes: Vec<Arc<dyn Runtime>>,
}

impl Runtimes {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this one, in place of another of its kind.
    #[must_use]
    pub fn with(mut self, runtime: Arc<dyn Runtime>) -> Self {
        self.runtimes.retain(|other| other.kind() != runtime.kind());
        self.runtimes.push(runtime);
        self
    }

    /// The one of this kind.
    pub fn get(&self, kind: RuntimeKind) -> Option<&Arc<dyn Runtime>> {
        self.runtimes.iter().find(|runtime| runtime.kind() == kind)
    }

    /// Tries each of them.
    pub async fn probe(&self) -> Vec<(RuntimeKind, Probe)> {
        let mut probes = Vec::with_capacity(self.runtimes.len());
        for runtime in &self.runtimes {
            probes.push((runtime.kind(), runtime.probe().await));
        }
        probes
    }

    /// Runs a task with the runtime it needs; `runtime-unavailable` when there is none.
    pub async fn run(&self, task: TaskRun, control: Control) -> Outcome {
        let kind = task.work.kind();
        match self.get(kind) {
            Some(runtime) => runtime.run(task, control).await,
            None => Outcome::failed(Failure::new(
                Reason::RuntimeUnavailable,
                format!("this node does not run {kind} tasks"),
            )),
        }
    }
}

impl std::fmt::Debug for Runtimes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = self.runtimes.iter().map(|runtime| runtime.kind());
        f.debug_list().entries(kinds).finish()
    }
}

//! The backends that run units on this node.

use std::sync::Arc;
use std::time::Duration;

use weft_types::{NodeCapacity, NodeId, RuntimeKind};
use weft_unit::UnitRuntime;

use crate::Config;

/// How long a backend may take to find out whether it works.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// The backends that this node may use, in the order in which they are tried.
pub(crate) fn backends(_config: &Config, _node: &NodeId) -> Vec<Arc<dyn UnitRuntime>> {
    Vec::new()
}

/// The backends that work on this node, one a kind.
#[derive(Clone, Default)]
pub(crate) struct UnitRuntimes {
    working: Vec<Arc<dyn UnitRuntime>>,
    capabilities: Vec<String>,
    missing: Vec<String>,
}

impl UnitRuntimes {
    /// Tries backends in their order: of each kind the first one that works is used. What others of
    /// the kind lack does not matter then.
    pub(crate) async fn probe(backends: Vec<Arc<dyn UnitRuntime>>) -> Self {
        let mut runtimes = Self::default();
        let mut lacking: Vec<(RuntimeKind, String)> = Vec::new();
        for backend in backends {
            let kind = backend.kind();
            if runtimes.get(kind).is_some() {
                continue;
            }
            match tokio::time::timeout(PROBE_TIMEOUT, backend.probe()).await {
                Ok(Ok(probe)) => {
                    tracing::info!(runtime = backend.name(), version = probe.version, "{kind}");
                    runtimes.capabilities.extend(probe.capabilities);
                    let missing = probe.missing.iter().map(ToString::to_string);
                    runtimes.missing.extend(missing);
                    runtimes.working.push(backend);
                }
                Ok(Err(missing)) => lacking.push((kind, format!("{kind}: {missing}"))),
                Err(_) => {
                    let name = backend.name();
                    let timeout = PROBE_TIMEOUT.as_secs();
                    let text = format!("{kind}: {name} does not answer within {timeout} s");
                    lacking.push((kind, text));
                }
            }
        }
        for (kind, missing) in lacking {
            if runtimes.get(kind).is_none() {
                runtimes.missing.push(missing);
            }
        }
        runtimes
    }

    /// The backend of a kind.
    pub(crate) fn get(&self, kind: RuntimeKind) -> Option<Arc<dyn UnitRuntime>> {
        let found = self.working.iter().find(|runtime| runtime.kind() == kind);
        found.map(Arc::clone)
    }

    /// All that work.
    pub(crate) fn all(&self) -> &[Arc<dyn UnitRuntime>] {
        &self.working
    }

    /// Adds to what the node offers, and to what it lacks.
    pub(crate) fn describe(&self, capacity: &mut NodeCapacity, missing: &mut Vec<String>) {
        let kinds = self.working.iter().map(|runtime| runtime.kind());
        capacity.runtimes.extend(kinds);
        capacity.capabilities.extend(self.capabilities.clone());
        capacity.capabilities.sort();
        capacity.capabilities.dedup();
        missing.extend(self.missing.clone());
    }
}

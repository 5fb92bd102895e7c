//! Services: what is kept running. The server's side of the declarative path.
//!
//! ```text
//!  POST /v1/workloads ─ apply ─▶ store ─ watch ─▶ cache ─▶ scheduler ─▶ store (assignments)
//!                                                   │
//!        agent ◀─ session ◀─ units, endpoints ◀─────┘
//!        agent ─ session ─▶ reports ─▶ store (statuses) ─ watch ─▶ cache ─▶ …
//! ```
//!
//! - [`cache`]: everything the store has of services, fed by its watch alone.
//! - [`apply`], [`change`], [`rights`], [`diff`], [`ports`]: writing what somebody wants.
//! - [`find`], [`view`], [`plan`]: what the API shows.
//! - [`scheduler`], [`leader`], [`nodes`]: the loop that plans, on the server that leads.
//! - [`sessions`], [`units`], [`endpoints`]: what nodes are told.
//! - [`reports`], [`loads`], [`port_errors`]: what nodes say.
//! - [`tunnels`], [`logs`]: streams into units.
//! - [`secrets`], [`resolve`]: sealed values, and who gets them.
//! - [`hooks`]: pushes to Git repositories.
//!
//! Every loop looks at how things are, not at what changed, and may be killed anywhere.

pub mod apply;
pub mod cache;
pub mod change;
pub mod diff;
pub mod endpoints;
pub mod find;
pub mod hooks;
pub mod leader;
pub mod loads;
pub mod logs;
pub mod metrics;
pub mod nodes;
pub mod plan;
pub mod port_errors;
pub mod ports;
pub mod reports;
pub mod resolve;
pub mod rights;
pub mod scheduler;
pub mod secrets;
pub mod sessions;
pub mod tunnels;
pub mod units;
pub mod view;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use weft_core::service::{Board, Summary};
use weft_types::{Namespace, WorkloadId};

/// What the parts of a server share of services.
pub struct Services {
    /// The records.
    pub workloads: cache::Workloads,
    /// Opens secrets.
    pub sealer: secrets::Sealer,
    /// The open sessions of nodes.
    pub sessions: sessions::Sessions,
    /// The published ports.
    pub endpoints: endpoints::Endpoints,
    /// Published ports that nodes cannot serve.
    pub port_errors: port_errors::PortErrors,
    /// What units use.
    pub loads: loads::Loads,
    /// Streams into units.
    pub tunnels: tunnels::Tunnels,
    /// Nodes and what is reserved on them, as the scheduler sees them.
    pub board: Mutex<Board>,
    /// Bounds pushes.
    pub hooks: hooks::Rate,
    /// What the last plan said of each service.
    pub summaries: Summaries,
    /// The namespaces whose containers may have rights over their nodes.
    pub allow_privileged: BTreeSet<Namespace>,
}

/// What the last plan said of each service: of those that wait, why.
#[derive(Default)]
pub struct Summaries {
    summaries: Mutex<BTreeMap<WorkloadId, Summary>>,
}

impl Summaries {
    /// What the last plan of a service said.
    pub fn of(&self, id: WorkloadId) -> Option<Summary> {
        self.summaries.lock().get(&id).cloned()
    }

    /// A service was planned.
    pub fn set(&self, id: WorkloadId, summary: Summary) {
        self.summaries.lock().insert(id, summary);
    }

    /// A service is gone.
    pub fn forget(&self, id: WorkloadId) {
        self.summaries.lock().remove(&id);
    }
}

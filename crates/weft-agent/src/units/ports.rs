//! The seam to the proxy of published ports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use parking_lot::Mutex;
use weft_proto::v1;
use weft_types::UnitId;

/// Published ports of this node.
#[derive(Default)]
pub(crate) struct Ports {
    local: Mutex<BTreeMap<UnitId, Local>>,
}

/// What is told of a unit of this node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Local {
    /// Whether requests may go there.
    pub(crate) is_ready: bool,
    /// Where its ports answer.
    pub(crate) targets: BTreeMap<u16, SocketAddr>,
}

impl Ports {
    pub(crate) fn set_table(&self, _endpoints: v1::Endpoints) {}

    pub(crate) fn peer_port(&self) -> u16 {
        0
    }

    pub(crate) fn set_local(&self, unit: UnitId, local: Local) {
        self.local.lock().insert(unit, local);
    }

    pub(crate) fn remove_local(&self, unit: UnitId) {
        self.local.lock().remove(&unit);
    }

    /// Sends a unit nothing new, and waits until what it has is answered, for this long at most.
    pub(crate) async fn drain(&self, unit: UnitId, _timeout: Duration) {
        if let Some(local) = self.local.lock().get_mut(&unit) {
            local.is_ready = false;
        }
    }

    /// Requests a unit has answered since it was made known.
    pub(crate) fn requests(&self, _unit: UnitId) -> u64 {
        0
    }
}

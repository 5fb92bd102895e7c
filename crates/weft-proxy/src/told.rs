//! What is wrong with published ports now, for whoever watches.

use std::collections::{BTreeMap, HashSet};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::PortError;

/// The errors of all ports.
#[derive(Debug)]
pub(crate) struct Told {
    parts: Mutex<Parts>,
    all: watch::Sender<Vec<PortError>>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Ports that two services want.
    conflicts: Vec<PortError>,
    /// Ports that cannot be listened on.
    unbound: BTreeMap<u16, PortError>,
}

impl Told {
    pub(crate) fn new() -> Self {
        Self {
            parts: Mutex::default(),
            all: watch::Sender::new(Vec::new()),
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Vec<PortError>> {
        self.all.subscribe()
    }

    /// The table has changed: which services it could not give their port, and which ports it has.
    pub(crate) fn table(&self, conflicts: &[PortError], ports: &HashSet<u16>) {
        self.change(|parts| {
            parts.conflicts = conflicts.to_vec();
            parts.unbound.retain(|port, _| ports.contains(port));
        });
    }

    /// A port cannot be listened on.
    pub(crate) fn unbound(&self, error: PortError) {
        self.change(|parts| {
            parts.unbound.insert(error.port, error);
        });
    }

    /// A port is listened on.
    pub(crate) fn bound(&self, port: u16) {
        self.change(|parts| {
            parts.unbound.remove(&port);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Parts)) {
        let mut parts = self.parts.lock();
        change(&mut parts);
        let all: Vec<_> = parts
            .conflicts
            .iter()
            .chain(parts.unbound.values())
            .cloned()
            .collect();
        self.all.send_if_modified(|told| {
            let changed = *told != all;
            *told = all;
            changed
        });
    }
}

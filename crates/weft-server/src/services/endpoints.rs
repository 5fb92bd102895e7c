//! Every published port with the replicas behind it: what the proxies of all nodes go by.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_core::service::record::Intent;
use weft_proto::v1;
use weft_types::{NodeId, Protocol, WorkloadId};

use super::apply::name_of;
use super::cache::Tables;
use super::ports::published;
use crate::state::Server;

/// The table is sent this often at most while only replicas are added.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// The table of published ports.
pub struct Endpoints {
    table: watch::Sender<Arc<v1::Endpoints>>,
    /// Held while the table is made, so that an older one never takes the place of a newer one.
    making: Mutex<()>,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self {
            table: watch::channel(Arc::default()).0,
            making: Mutex::default(),
        }
    }
}

impl Endpoints {
    /// The table, whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<v1::Endpoints>> {
        self.table.subscribe()
    }

    /// Makes the table from how everything is now; tells whether it changed.
    pub fn refresh(&self, server: &Server) -> bool {
        let _making = self.making.lock();
        let table = current(server);
        self.table.send_if_modified(|old| {
            let changed = **old != table;
            if changed {
                *old = Arc::new(table);
            }
            changed
        })
    }
}

fn current(server: &Server) -> v1::Endpoints {
    let peers = server.services.sessions.peers();
    let workloads = &server.services.workloads;
    let nodes = server.nodes.all().into_iter();
    v1::Endpoints {
        nodes: nodes.map(|record| record.id.to_string()).collect(),
        ..workloads.read(|tables| table(tables, &peers))
    }
}

/// Keeps the table as it should be until the server stops.
pub async fn keep(server: Arc<Server>) {
    let mut records = server.services.workloads.subscribe();
    let mut sessions = server.services.sessions.subscribe();
    let mut last = Instant::now();
    loop {
        let endpoints = &server.services.endpoints;
        let old = Arc::clone(&endpoints.table.borrow());
        let new = current(&server);
        // A replica that leaves is told at once; those that come wait for each other.
        if leaves(&old, &new) || last.elapsed() >= MIN_INTERVAL {
            if endpoints.refresh(&server) {
                last = Instant::now();
            }
        } else if *old != new {
            tokio::select! {
                () = tokio::time::sleep_until(last + MIN_INTERVAL) => {}
                () = server.stopping.cancelled() => return,
            }
            continue;
        }
        tokio::select! {
            changed = records.changed() => if changed.is_err() { return },
            changed = sessions.changed() => if changed.is_err() { return },
            () = server.stopping.cancelled() => return,
        }
    }
}

/// Whether something of the old table is not in the new one.
fn leaves(old: &v1::Endpoints, new: &v1::Endpoints) -> bool {
    let removed = old.nodes.iter().any(|node| !new.nodes.contains(node));
    removed
        || old.ports.iter().any(|port| {
            let same = |other: &&v1::ServicePort| other.port == port.port;
            match new.ports.iter().find(same) {
                None => true,
                Some(now) => port
                    .endpoints
                    .iter()
                    .any(|one| !now.endpoints.contains(one)),
            }
        })
}

fn table(tables: &Tables, peers: &BTreeMap<NodeId, SocketAddr>) -> v1::Endpoints {
    let mut ports: BTreeMap<(WorkloadId, u16), v1::ServicePort> = BTreeMap::new();
    for kept in tables.workloads() {
        let record = &kept.value;
        for (_, port) in published(&record.spec) {
            let protocol = match port.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Http => "http",
            };
            ports.insert(
                (record.id, port.port),
                v1::ServicePort {
                    workload: record.id.to_string(),
                    name: name_of(&record.spec).to_owned(),
                    port: port.port.into(),
                    protocol: protocol.to_owned(),
                    endpoints: Vec::new(),
                },
            );
        }
    }
    for kept in tables.assignments() {
        let assignment = &kept.value;
        let status = tables.status(assignment.unit).map(|kept| &kept.value);
        let serves = status.is_some_and(|status| status.ready && !status.gone);
        if assignment.intent == Intent::Stop || !serves {
            continue;
        }
        // Of the unit's own specification: a port that it does not have cannot reach it.
        for (_, port) in published(&assignment.spec) {
            let Some(published) = ports.get_mut(&(assignment.unit.workload, port.port)) else {
                continue;
            };
            published.endpoints.push(v1::Endpoint {
                unit: assignment.unit.to_string(),
                node: assignment.node.to_string(),
                peer: peers
                    .get(&assignment.node)
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                target: port.target.into(),
            });
        }
    }
    v1::Endpoints {
        ports: ports.into_values().collect(),
        nodes: Vec::new(),
    }
}

//! What all connections of a proxy share: the table, the units of this node, the other nodes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_pki::PeerTls;
use weft_types::{NodeId, UnitId};

use crate::backend::{Backend, BackendKey, Flight, Place};
use crate::metrics::{Counting, bump};
use crate::peer::{self, Hello, Kind, Members};
use crate::routes::{Route, Routes};
use crate::unit::Unit;
use crate::wire::{self, AnyWire, Counted};
use crate::{Endpoint, Limits, Local, Options, PortError, ServicePort};

/// How often idle connections are looked through for those that are too old.
const SWEEP: Duration = Duration::from_secs(5);

/// The state behind a proxy.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) node: NodeId,
    pub(crate) limits: Limits,
    pub(crate) trust_forwarded: bool,
    pub(crate) tls: Option<Arc<PeerTls>>,
    pub(crate) routes: ArcSwap<Routes>,
    known: Mutex<Known>,
    pub(crate) members: Members,
    /// Woken when a replica may have become ready.
    pub(crate) changed: watch::Sender<()>,
    pub(crate) metrics: Counting,
    /// Cancelled when the proxy stops.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// Units and backends by name. Locked for changes of the table and of units, and for each new
/// connection between nodes; never while requests are routed.
#[derive(Debug, Default)]
struct Known {
    units: HashMap<UnitId, Arc<Unit>>,
    backends: HashMap<BackendKey, Arc<Backend>>,
}

/// A connection to a replica.
pub(crate) struct Opened {
    pub(crate) wire: AnyWire,
    /// Cancelled when it is to be cut.
    pub(crate) cut: CancellationToken,
}

impl Core {
    pub(crate) fn new(options: &Options) -> Self {
        let stop = CancellationToken::new();
        Self {
            node: options.node.clone(),
            limits: options.limits,
            trust_forwarded: options.trust_forwarded,
            tls: options.peers.as_ref().map(|peers| peers.tls.clone()),
            routes: ArcSwap::default(),
            known: Mutex::default(),
            members: Members::new(stop.clone()),
            changed: watch::Sender::new(()),
            metrics: Counting::default(),
            stop,
            tasks: TaskTracker::new(),
        }
    }

    /// Replaces the table.
    pub(crate) fn set_table(&self, table: Vec<ServicePort>) {
        let nodes = table.iter().flat_map(|port| &port.endpoints);
        let nodes: HashSet<_> = nodes.map(|endpoint| endpoint.node.clone()).collect();
        self.members.set_in_table(nodes);
        let mut known = self.known.lock();
        let routes = self.routes_of(&mut known, table);
        self.routes.store(Arc::new(routes));
        known.forget_unused();
        drop(known);
        self.changed.send_replace(());
    }

    fn routes_of(&self, known: &mut Known, table: Vec<ServicePort>) -> Routes {
        let mut routes = Routes::default();
        let mut owners: HashMap<u16, String> = HashMap::new();
        for port in table {
            if let Some(owner) = owners.get(&port.port) {
                routes.conflicts.push(conflict(&port, owner));
                continue;
            }
            owners.insert(port.port, port.name.clone());
            let backends = port.endpoints.iter();
            let backends = backends.filter_map(|endpoint| self.backend_of(known, endpoint));
            let route = Route {
                workload: port.workload,
                backends: backends.collect(),
                name: port.name,
                protocol: port.protocol,
            };
            routes.ports.insert(port.port, Arc::new(route));
        }
        routes
    }

    /// `None` for a replica of a node that cannot be reached.
    fn backend_of(&self, known: &mut Known, endpoint: &Endpoint) -> Option<Arc<Backend>> {
        let place = if endpoint.node == self.node {
            Place::Here
        } else {
            self.tls.as_ref()?;
            Place::Peer(endpoint.node.clone(), endpoint.peer?)
        };
        let key = BackendKey {
            unit: endpoint.unit,
            target: endpoint.target,
            place,
        };
        Some(self.backend(known, key))
    }

    fn backend(&self, known: &mut Known, key: BackendKey) -> Arc<Backend> {
        let unit = match key.place {
            Place::Here => Some(self.unit(known, key.unit)),
            Place::Peer(..) => None,
        };
        let max_idle = self.limits.idle_connections;
        let backend = known.backends.entry(key.clone());
        Arc::clone(backend.or_insert_with(|| Arc::new(Backend::new(key, unit, max_idle))))
    }

    fn unit(&self, known: &mut Known, id: UnitId) -> Arc<Unit> {
        let unit = known.units.entry(id);
        Arc::clone(unit.or_insert_with(|| Arc::new(Unit::new(id, self.stop.clone()))))
    }

    pub(crate) fn set_local(&self, id: UnitId, local: Local) {
        let mut known = self.known.lock();
        self.unit(&mut known, id).set(local);
        known.close_idle(id);
        drop(known);
        self.changed.send_replace(());
    }

    pub(crate) fn remove_local(&self, id: UnitId) {
        let mut known = self.known.lock();
        if let Some(unit) = known.units.get(&id) {
            unit.remove();
        }
        known.close_idle(id);
        known.forget_unused();
    }

    /// Nothing new goes to the unit from now on; `None` when it does not run here.
    pub(crate) fn seal(&self, id: UnitId) -> Option<Arc<Unit>> {
        let unit = self.local_unit(id)?;
        unit.seal();
        self.known.lock().close_idle(id);
        Some(unit)
    }

    /// A unit that runs here.
    pub(crate) fn local_unit(&self, id: UnitId) -> Option<Arc<Unit>> {
        let unit = self.known.lock().units.get(&id).map(Arc::clone)?;
        unit.is_here().then_some(unit)
    }

    /// All units that run here.
    pub(crate) fn local_units(&self) -> Vec<Arc<Unit>> {
        let known = self.known.lock();
        known
            .units
            .values()
            .filter(|u| u.is_here())
            .cloned()
            .collect()
    }

    /// A port of a unit that runs here, for a request of another node, whether or not this node's
    /// table has it yet.
    pub(crate) fn local_backend(&self, id: UnitId, target: u16) -> Option<Arc<Backend>> {
        let mut known = self.known.lock();
        let targets = known.units.get(&id)?.targets()?;
        targets.iter().find(|(known, _)| *known == target)?;
        let key = BackendKey {
            unit: id,
            target,
            place: Place::Here,
        };
        Some(self.backend(&mut known, key))
    }

    /// Connects to the replica of a flight.
    pub(crate) async fn open(&self, flight: &Flight, kind: Kind) -> io::Result<Opened> {
        let opened = self.reach(flight, kind).await;
        match &opened {
            Ok(_) => flight.backend.welcome(),
            Err(_) => flight.backend.avoid(),
        }
        opened
    }

    async fn reach(&self, flight: &Flight, kind: Kind) -> io::Result<Opened> {
        let key = &flight.backend.key;
        if let Some(local) = &flight.local {
            let stream = wire::connect(flight.address, self.limits.connect).await?;
            if kind == Kind::Tcp {
                bump(&local.unit.totals.connections);
            }
            return Ok(Opened {
                wire: Box::new(Counted::new(stream, Arc::clone(&local.unit))),
                cut: local.gone.clone(),
            });
        }
        let Place::Peer(node, address) = &key.place else {
            return Err(io::Error::other("the replica has gone"));
        };
        let hello = Hello {
            kind,
            unit: key.unit,
            target: key.target,
        };
        let (stream, cut): (TlsStream<_>, _) = peer::dial(self, node, *address, hello).await?;
        Ok(Opened {
            wire: Box::new(stream),
            cut,
        })
    }

    /// Closes idle connections that are too old, until the proxy stops.
    pub(crate) async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stop.cancelled() => return self.known.lock().close_all(),
            }
            let backends: Vec<_> = self.known.lock().backends.values().cloned().collect();
            for backend in backends {
                backend.pool.sweep(self.limits.idle_age);
            }
        }
    }
}

impl Known {
    /// Closes the idle connections to a unit that takes nothing any more, or has moved.
    fn close_idle(&self, id: UnitId) {
        let of_unit = |backend: &&Arc<Backend>| backend.key.unit == id && backend.is_local();
        for backend in self.backends.values().filter(of_unit) {
            if !backend.takes() {
                backend.pool.clear();
            }
        }
    }

    fn close_all(&self) {
        self.backends.values().for_each(|b| b.pool.clear());
    }

    /// Drops what neither the table, nor the agent, nor a connection names any more.
    fn forget_unused(&mut self) {
        self.backends
            .retain(|_, backend| Arc::strong_count(backend) > 1);
        self.units
            .retain(|_, unit| unit.is_here() || Arc::strong_count(unit) > 1);
    }
}

fn conflict(port: &ServicePort, owner: &str) -> PortError {
    PortError {
        port: port.port,
        workload: port.workload,
        text: format!(
            "port {} of service {} belongs to service {owner} already; give one of them another port",
            port.port, port.name
        ),
    }
}

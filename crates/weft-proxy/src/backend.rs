//! A replica as this node reaches it: directly when it runs here, through its node's proxy
//! otherwise. Lives as long as the table names it, so that counts and idle connections survive
//! changes of the table.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use weft_types::{NodeId, UnitId};

use crate::http::Pool;
use crate::unit::{Refused, Unit, UnitFlight};

/// How long a replica that could not be reached is tried only when there is no other.
const AVOID: Duration = Duration::from_secs(1);

/// Where a replica runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Place {
    /// On this node.
    Here,
    /// On another node, whose proxy listens at the address.
    Peer(NodeId, SocketAddr),
}

/// What a backend is known by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct BackendKey {
    pub(crate) unit: UnitId,
    pub(crate) target: u16,
    pub(crate) place: Place,
}

/// A port of a replica, as this node reaches it.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) key: BackendKey,
    /// The unit, when it runs here.
    pub(crate) unit: Option<Arc<Unit>>,
    in_flight: AtomicUsize,
    /// Until when it is avoided, in milliseconds of [`millis`].
    avoid_until: AtomicU64,
    pub(crate) pool: Pool,
}

impl Backend {
    pub(crate) fn new(key: BackendKey, unit: Option<Arc<Unit>>, max_idle: usize) -> Self {
        Self {
            key,
            unit,
            in_flight: AtomicUsize::new(0),
            avoid_until: AtomicU64::new(0),
            pool: Pool::new(max_idle),
        }
    }

    pub(crate) fn is_local(&self) -> bool {
        self.unit.is_some()
    }

    /// Whether it may be given something now.
    pub(crate) fn takes(&self) -> bool {
        match &self.unit {
            Some(unit) => unit.address(self.key.target).is_ok(),
            None => true,
        }
    }

    /// What is in flight there, as far as this node knows.
    pub(crate) fn load(&self) -> usize {
        match &self.unit {
            Some(unit) => unit.in_flight(),
            None => self.in_flight.load(Ordering::Relaxed),
        }
    }

    /// It could not be reached, or refused: others come first for a while.
    pub(crate) fn avoid(&self) {
        let until = millis() + AVOID.as_millis() as u64;
        self.avoid_until.store(until, Ordering::Relaxed);
    }

    /// It answers.
    pub(crate) fn welcome(&self) {
        if self.avoid_until.load(Ordering::Relaxed) != 0 {
            self.avoid_until.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_avoided(&self) -> bool {
        let until = self.avoid_until.load(Ordering::Relaxed);
        until != 0 && millis() < until
    }

    /// Counts a request or connection as in flight there.
    pub(crate) fn begin(self: &Arc<Self>) -> Result<Flight, Refused> {
        let (local, address) = match (&self.unit, &self.key.place) {
            (Some(unit), _) => {
                let (flight, address) = unit.begin(self.key.target)?;
                (Some(flight), address)
            }
            (None, Place::Peer(_, address)) => (None, *address),
            (None, Place::Here) => return Err(Refused::Unknown),
        };
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight {
            backend: Arc::clone(self),
            local,
            address,
        })
    }
}

/// A request or connection in flight at a replica; ends when dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) backend: Arc<Backend>,
    /// Set when the replica runs here.
    pub(crate) local: Option<UnitFlight>,
    /// Of the replica, or of its node's proxy.
    pub(crate) address: SocketAddr,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.backend.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Milliseconds since the first call, from 1.
fn millis() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> =
        std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed().as_millis() as u64 + 1
}

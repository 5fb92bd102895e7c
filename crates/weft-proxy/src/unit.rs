//! A unit of this node: whether it takes requests, what it has in flight, what it has done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_types::UnitId;

use crate::{Local, UnitCounts};

/// Why a unit does not take a request or connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// It does not run here, or has no such port.
    Unknown,
    /// It is not ready, or is about to be stopped.
    NotReady,
}

/// A unit that runs on this node, or that the table says does.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) id: UnitId,
    state: ArcSwap<State>,
    /// Set by a drain, for good: the unit is about to be stopped, whatever is said of it later.
    sealed: AtomicBool,
    in_flight: AtomicUsize,
    ended: Notify,
    pub(crate) totals: Totals,
    /// Cancelled when the proxy stops, and all connections with it.
    stop: CancellationToken,
}

#[derive(Debug)]
struct State {
    local: Option<Local>,
    /// Cancelled when the unit has gone; its connections are then cut.
    gone: CancellationToken,
}

/// Totals since the unit was made known.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) requests: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
}

impl Unit {
    pub(crate) fn new(id: UnitId, stop: CancellationToken) -> Self {
        Self {
            id,
            state: ArcSwap::from_pointee(State {
                local: None,
                gone: stop.child_token(),
            }),
            stop,
            sealed: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            ended: Notify::new(),
            totals: Totals::default(),
        }
    }

    /// What the agent says of it now. The caller serialises the calls for one unit.
    pub(crate) fn set(&self, local: Local) {
        let old = self.state.load_full();
        let gone = match &old.local {
            Some(_) => old.gone.clone(),
            None => {
                self.sealed.store(false, Ordering::SeqCst);
                self.stop.child_token()
            }
        };
        self.state.store(Arc::new(State {
            local: Some(local),
            gone,
        }));
    }

    /// It has gone: what it still has is cut.
    pub(crate) fn remove(&self) {
        let old = self.state.swap(Arc::new(State {
            local: None,
            gone: self.stop.child_token(),
        }));
        old.gone.cancel();
    }

    pub(crate) fn is_here(&self) -> bool {
        self.state.load().local.is_some()
    }

    /// Where a target is reached, when the unit takes requests for it.
    pub(crate) fn address(&self, target: u16) -> Result<SocketAddr, Refused> {
        let state = self.state.load();
        let local = state.local.as_ref().ok_or(Refused::Unknown)?;
        let address = local.targets.get(&target).ok_or(Refused::Unknown)?;
        if !local.ready || local.draining || self.sealed.load(Ordering::SeqCst) {
            return Err(Refused::NotReady);
        }
        Ok(*address)
    }

    /// The targets and their addresses, whether or not the unit is ready; `None` when not here.
    pub(crate) fn targets(&self) -> Option<Vec<(u16, SocketAddr)>> {
        let state = self.state.load();
        let local = state.local.as_ref()?;
        Some(local.targets.iter().map(|(t, a)| (*t, *a)).collect())
    }

    pub(crate) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::SeqCst)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Nothing new goes there from now on.
    pub(crate) fn seal(&self) {
        self.sealed.store(true, Ordering::SeqCst);
    }

    /// Waits until nothing is in flight; what is left at `deadline`.
    pub(crate) async fn ended(&self, deadline: Instant) -> usize {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let left = self.in_flight();
            if left == 0 || tokio::time::timeout_at(deadline, ended).await.is_err() {
                return self.in_flight().min(left);
            }
        }
    }

    /// Counts something as in flight, whether or not the unit is ready.
    pub(crate) fn hold(self: &Arc<Self>) -> UnitFlight {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        UnitFlight {
            gone: self.state.load().gone.clone(),
            unit: Arc::clone(self),
        }
    }

    /// Counts a request or connection as in flight, when the unit takes it. Counted first and
    /// looked at second, so that a drain which begins in between either refuses or waits for it.
    pub(crate) fn begin(
        self: &Arc<Self>,
        target: u16,
    ) -> Result<(UnitFlight, SocketAddr), Refused> {
        let flight = self.hold();
        let address = self.address(target)?;
        Ok((flight, address))
    }

    pub(crate) fn counts(&self) -> UnitCounts {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        UnitCounts {
            requests: read(&self.totals.requests),
            connections: read(&self.totals.connections),
            bytes_in: read(&self.totals.bytes_in),
            bytes_out: read(&self.totals.bytes_out),
            in_flight: self.in_flight() as u64,
        }
    }
}

/// Something in flight at a unit; ends when dropped.
#[derive(Debug)]
pub(crate) struct UnitFlight {
    pub(crate) unit: Arc<Unit>,
    /// Cancelled when the unit has gone.
    pub(crate) gone: CancellationToken,
}

impl Drop for UnitFlight {
    fn drop(&mut self) {
        if self.unit.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.unit.ended.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weft_types::WorkloadId;

    const TARGET: u16 = 80;

    fn ready() -> Local {
        Local {
            ready: true,
            draining: false,
            targets: [(TARGET, ([127, 0, 0, 1], 1).into())].into(),
        }
    }

    fn unit() -> Arc<Unit> {
        let id = UnitId {
            workload: WorkloadId(1),
            number: 1,
        };
        let unit = Arc::new(Unit::new(id, CancellationToken::new()));
        unit.set(ready());
        unit
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn a_drain_waits_for_what_is_in_flight_and_for_nothing_new() {
        let unit = unit();
        let (flight, _) = unit.begin(TARGET).unwrap();
        unit.seal();
        assert_eq!(unit.begin(TARGET).unwrap_err(), Refused::NotReady);
        assert_eq!(unit.ended(soon()).await, 1);
        drop(flight);
        assert_eq!(unit.ended(soon()).await, 0);
    }

    #[test]
    fn a_drained_unit_stays_closed_whatever_is_said_of_it() {
        let unit = unit();
        unit.seal();
        unit.set(ready());
        assert_eq!(unit.address(TARGET), Err(Refused::NotReady));
        unit.remove();
        unit.set(ready());
        assert!(unit.address(TARGET).is_ok());
    }

    #[test]
    fn a_unit_that_goes_cuts_what_it_has() {
        let unit = unit();
        let (flight, _) = unit.begin(TARGET).unwrap();
        unit.remove();
        assert!(flight.gone.is_cancelled());
        assert_eq!(unit.address(TARGET), Err(Refused::Unknown));
    }
}

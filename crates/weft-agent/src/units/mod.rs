//! The units of services on this node: what the server wants, made true and kept so.
//!
//! ```text
//!  Units ─▶ desired (disk, at once) ─▶ one driver a unit ─▶ runtimes
//!                                       │ weft_core::unit decides
//!  server ◀─ reports, loads ◀───────────┘
//! ```
//!
//! Every decision about one unit is in [`weft_core::unit::Machine`]; what concerns several is here:
//! what the server lists replaces what is there, a greater epoch fences, what nobody wants goes.
//! Losing sight of the server changes nothing, but for exclusive units ([`crate::lease`]).

mod apply;
mod backend;
mod calls;
mod clean;
mod desired;
mod disk;
mod driver;
mod ghosts;
mod health;
mod logs;
mod observed;
mod outbox;
mod ports;
mod tunnel;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use weft_core::Monotonic;
use weft_core::service::record::UnitStatus;
use weft_proto::v1::agent_message::Message;
use weft_types::{NodeId, RuntimeKind, UnitId};
use weft_unit::Observed;

use crate::Error;
use crate::executor::Executor;
use crate::guard::{self, Guards};
use crate::lease::Lease;
use crate::runtimes::UnitRuntimes;
use desired::Desired;
use disk::Disk;
use logs::Shelf;
use outbox::Outbox;

pub(crate) use ports::Ports;
pub(crate) use tunnel::Tunnels;

/// How often is looked whether exclusive units have ended.
const QUIET_INTERVAL: Duration = Duration::from_millis(10);
/// How long the first report of a session waits for the first look at what was running.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// The units of this node; cloning shares them.
#[derive(Clone)]
pub(crate) struct Units {
    shared: Arc<Shared>,
}

/// What units are made of.
pub(crate) struct Parts {
    pub(crate) node: NodeId,
    pub(crate) runtimes: UnitRuntimes,
    pub(crate) executor: Executor,
    pub(crate) lease: Lease,
    pub(crate) guards: Guards,
    pub(crate) ports: Ports,
}

struct Shared {
    node: NodeId,
    runtimes: UnitRuntimes,
    executor: Executor,
    lease: Lease,
    guards: Guards,
    ports: Ports,
    disk: Disk,
    shelf: Shelf,
    table: Mutex<BTreeMap<UnitId, Entry>>,
    /// A unit has gone: what waits for that looks again.
    gone: Notify,
    /// Grows when instances may have changed.
    looks: watch::Sender<u64>,
    outbox: Outbox,
    /// Everything is to go: what the server wants does not count any more.
    is_closing: AtomicBool,
    stop: CancellationToken,
    tokio: tokio::runtime::Handle,
}

/// A unit that is here, or was until just now.
struct Entry {
    desired: watch::Sender<Desired>,
    view: Arc<Mutex<View>>,
    /// What its instance has written, for its driver.
    written: watch::Sender<Written>,
    driver: AbortHandle,
}

/// A reading of what an instance has written to its own layer.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// When it was begun.
    since: Monotonic,
    bytes: u64,
}

/// What others than its driver may know of a unit.
#[derive(Clone, Debug)]
struct View {
    kind: RuntimeKind,
    status: UnitStatus,
    observed: Option<Observed>,
    is_running: bool,
    is_exclusive: bool,
    /// Whether something of it may run, as far as is known.
    may_run: bool,
    /// Whether it has been looked at since the agent started.
    is_settled: bool,
}

impl Units {
    /// Goes on with what was there before: looks at it, adopts it, removes what nobody wants.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub(crate) fn start(data_dir: &Path, parts: Parts) -> Result<Self, Error> {
        let dir = data_dir.join("units");
        let disk = Disk::open(dir.clone()).map_err(Error::file(&dir))?;
        let records = disk.load().map_err(Error::file(&dir))?;
        let logs = data_dir.join("logs");
        let shared = Arc::new(Shared {
            node: parts.node,
            runtimes: parts.runtimes,
            executor: parts.executor,
            lease: parts.lease,
            guards: parts.guards,
            ports: parts.ports,
            disk,
            shelf: Shelf::open(logs.clone()).map_err(Error::file(&logs))?,
            table: Mutex::default(),
            gone: Notify::new(),
            looks: watch::Sender::new(0),
            outbox: Outbox::default(),
            is_closing: AtomicBool::new(false),
            stop: CancellationToken::new(),
            tokio: tokio::runtime::Handle::current(),
        });
        let kinds = records.iter().map(|it| it.assignment.spec.runtime);
        shared.runtimes.recall(&kinds.collect::<BTreeSet<_>>());
        let units = Self { shared };
        units.adopt(records);
        units.spawn_loops(data_dir);
        Ok(units)
    }

    fn spawn_loops(&self, data_dir: &Path) {
        for kind in self.shared.runtimes.kinds() {
            let shared = Arc::clone(&self.shared);
            let watch = self
                .shared
                .runtimes
                .clone()
                .watch(kind, move || shared.look());
            self.spawn(watch);
            self.spawn(ghosts::follow(Arc::clone(&self.shared), kind));
        }
        self.spawn(guard::keep(self.shared.guards.clone()));
        self.spawn(usage::measure(Arc::clone(&self.shared)));
        let shared = Arc::clone(&self.shared);
        self.spawn(async move {
            let outbox = &shared.outbox;
            shared
                .ports
                .follow_errors(|errors| outbox.ports(errors))
                .await;
        });
        self.spawn(clean::clean(
            Arc::clone(&self.shared),
            data_dir.to_path_buf(),
        ));
        let shared = Arc::clone(&self.shared);
        self.spawn(async move {
            let _ = tokio::time::timeout(SETTLE_TIMEOUT, shared.all_settled()).await;
            shared.outbox.settled();
        });
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.shared.stop.clone();
        self.shared.tokio.spawn(async move {
            let _ = stop.run_until_cancelled(work).await;
        });
    }

    /// A session began: everything has to be told anew.
    pub(crate) fn session_began(&self) {
        self.shared.outbox.begin();
    }

    /// Every published port, with the replicas that are ready.
    pub(crate) fn endpoints(&self, endpoints: weft_proto::v1::Endpoints) {
        self.shared.ports.set_table(endpoints);
    }

    /// Where other nodes reach this one's replicas.
    pub(crate) fn peer_port(&self) -> u16 {
        self.shared.ports.peer_port()
    }

    /// Presents a renewed certificate to other nodes.
    pub(crate) fn present(&self, credentials: &weft_pki::Credentials) {
        self.shared.ports.present(credentials);
    }

    /// Resolves when there may be something to send.
    pub(crate) async fn outgoing(&self) {
        self.shared.outbox.changed().await;
    }

    /// The next message to send; `None` when there is nothing.
    pub(crate) fn next_message(&self) -> Option<Message> {
        let status = |unit: &UnitId| {
            let table = self.shared.table.lock();
            table
                .get(unit)
                .map(|entry| entry.view.lock().status.clone())
        };
        let all = || {
            let table = self.shared.table.lock();
            let views = table.values().map(|entry| entry.view.lock().status.clone());
            views.collect()
        };
        self.shared.outbox.next(status, all)
    }

    /// Ends exclusive units, which must not run without somebody who renews the lease; waits until
    /// none runs any more or the time is over.
    pub(crate) async fn end_exclusive(&self, timeout: Duration) {
        let has_any = {
            let table = self.shared.table.lock();
            table.values().any(|entry| entry.view.lock().is_exclusive)
        };
        if !has_any {
            return;
        }
        self.shared.lease.leave();
        let quiet = async {
            while self.shared.may_run_exclusive() {
                tokio::time::sleep(QUIET_INTERVAL).await;
            }
        };
        if tokio::time::timeout(timeout, quiet).await.is_err() {
            tracing::warn!("exclusive units take long to end: their guard sees to it");
        }
    }

    /// Leaves every unit as it is and ends what watches them.
    pub(crate) fn leave(&self) {
        self.shared.guards.leave(!self.shared.may_run_exclusive());
        self.shared.stop.cancel();
        for entry in self.shared.table.lock().values() {
            entry.driver.abort();
        }
    }

    /// Stops and removes every unit, and waits until nothing is left or the time is over, which begins
    /// when the last one has had its grace.
    pub(crate) async fn remove_all(&self, why: &str, timeout: Duration) {
        self.shared.is_closing.store(true, Ordering::Relaxed);
        let desired: Vec<_> = {
            let table = self.shared.table.lock();
            table.values().map(|entry| entry.desired.clone()).collect()
        };
        let mut grace = Duration::ZERO;
        for desired in desired {
            grace = grace.max(desired.borrow().stop_grace());
            desired.send_modify(|desired| desired.end(why));
        }
        let _ = tokio::time::timeout(grace + timeout, self.shared.none_left()).await;
    }
}

impl Shared {
    /// Resolves when every unit is gone.
    async fn none_left(&self) {
        loop {
            let gone = self.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            let is_gone = |entry: &Entry| entry.view.lock().status.gone;
            if self.table.lock().values().all(is_gone) {
                return;
            }
            gone.await;
        }
    }

    async fn all_settled(&self) {
        loop {
            let is_settled = |entry: &Entry| entry.view.lock().is_settled;
            if self.table.lock().values().all(is_settled) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn view(&self, unit: UnitId) -> Option<View> {
        let table = self.table.lock();
        table.get(&unit).map(|entry| entry.view.lock().clone())
    }

    /// Whether an exclusive unit runs, or may.
    fn may_run_exclusive(&self) -> bool {
        let table = self.table.lock();
        table.values().any(|entry| {
            let view = entry.view.lock();
            view.is_exclusive && (view.may_run || !view.is_settled)
        })
    }

    /// What runs.
    fn running(&self) -> Vec<(UnitId, RuntimeKind)> {
        let table = self.table.lock();
        let running = table.iter().filter_map(|(unit, entry)| {
            let view = entry.view.lock();
            view.is_running.then_some((*unit, view.kind))
        });
        running.collect()
    }

    /// Tells the driver of a unit what its instance has written.
    fn wrote(&self, unit: UnitId, written: Written) {
        if let Some(entry) = self.table.lock().get(&unit) {
            entry.written.send_replace(written);
        }
    }

    fn look(&self) {
        self.looks.send_modify(|looks| *looks += 1);
    }
}

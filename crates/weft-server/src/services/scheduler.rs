//! The loop that plans services, on the one server that leads.
//!
//! It looks at how everything is, asks [`weft_core::service::plan`] what to do next, and writes
//! that in one transaction which holds only if this server still leads and nothing of what the
//! plan rests on has changed. It remembers nothing that matters: killed anywhere, the next one
//! begins where the store says.

mod transaction;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_core::service::record::{Assignment, UnitStatus};
use weft_core::service::{Action, Moment, Plan, ReadyTimes, UnitView, View, plan};
use weft_types::{NodeId, Resources, UnitId, WorkloadId};

use super::cache::{Kept, Service};
use super::leader::Leadership;
use super::nodes::KnownNodes;
use crate::Error;
use crate::state::Server;

/// How long to wait before trying to lead again.
const ELECTION_INTERVAL: Duration = Duration::from_secs(1);
/// How often nodes and what tasks reserve are looked at when nothing is told.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// When a plan that the store refuses is made anew, in milliseconds.
const UNWRITABLE_DELAY_MS: u64 = 30_000;
/// Services that are planned before news are looked at again.
const MAX_BATCH: usize = 128;

/// Leads whenever nobody else does, until the server stops.
pub async fn run(server: Arc<Server>) {
    while !server.stopping.is_cancelled() {
        match Leadership::acquire(&server).await {
            Ok(Some(leadership)) => {
                tracing::info!("this server schedules services");
                let lost = lead(&server, leadership).await;
                if let Err(error) = lost {
                    tracing::warn!(%error, "this server schedules services no longer");
                }
                leadership.resign(&server).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "nobody could be found to schedule services"),
        }
        tokio::select! {
            () = tokio::time::sleep(ELECTION_INTERVAL) => {}
            () = server.stopping.cancelled() => return,
        }
    }
}

/// Plans until the right to is lost or the server stops.
async fn lead(server: &Arc<Server>, leadership: Leadership) -> Result<(), Error> {
    let now_ms = server.clock.steady().as_millis();
    let mut scheduler = Scheduler {
        server,
        leadership,
        since_ms: now_ms,
        nodes: KnownNodes::default(),
        ready: ReadyTimes::new(),
        board_units: BTreeMap::new(),
        due: BTreeSet::new(),
        wakes: BTreeMap::new(),
        waiting: BTreeSet::new(),
        lonely: BTreeSet::new(),
        is_settled: false,
    };
    *server.services.board.lock() = weft_core::service::Board::new();
    let all = |tables: &super::cache::Tables| -> Vec<WorkloadId> {
        tables.workloads().map(|kept| kept.value.id).collect()
    };
    server.services.workloads.take_changed();
    for id in server.services.workloads.read(all) {
        scheduler.note(id);
    }
    // Beside the plans: a round of many on a slow disk takes longer than the right to make them.
    tokio::select! {
        ended = scheduler.run() => ended,
        lost = leadership.keep(server) => lost,
    }
}

struct Scheduler<'a> {
    server: &'a Arc<Server>,
    leadership: Leadership,
    since_ms: u64,
    nodes: KnownNodes,
    ready: ReadyTimes,
    /// The units of each service that the board has.
    board_units: BTreeMap<WorkloadId, BTreeSet<UnitId>>,
    /// Services to plan.
    due: BTreeSet<WorkloadId>,
    /// When to plan again even if nothing changes.
    wakes: BTreeMap<WorkloadId, u64>,
    /// Services that wait for room.
    waiting: BTreeSet<WorkloadId>,
    /// Of these, those that wait for another service to have a unit somewhere.
    lonely: BTreeSet<WorkloadId>,
    is_settled: bool,
}

impl Scheduler<'_> {
    /// Plans until the server stops.
    async fn run(&mut self) -> Result<(), Error> {
        let server = self.server;
        let mut news = server.services.workloads.subscribe();
        let mut nodes = server.nodes.subscribe();
        loop {
            news.mark_unchanged();
            nodes.mark_unchanged();
            self.round().await?;
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return Ok(()) },
                changed = nodes.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(self.sleep()) => {}
                () = server.stopping.cancelled() => return Ok(()),
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.server.clock.steady().as_millis()
    }

    /// Until the next thing that is due by itself.
    fn sleep(&self) -> Duration {
        if !self.due.is_empty() {
            return Duration::ZERO;
        }
        let now_ms = self.now_ms();
        let next = self.wakes.values().min();
        let wake = next.map(|at| Duration::from_millis(at.saturating_sub(now_ms)));
        wake.unwrap_or(LOOK_INTERVAL)
            .clamp(Duration::from_millis(1), LOOK_INTERVAL)
    }

    /// Takes in what changed, and plans what is due.
    async fn round(&mut self) -> Result<(), Error> {
        for id in self.server.services.workloads.take_changed() {
            self.note(id);
        }
        let now_ms = self.now_ms();
        let due = self.wakes.iter().filter(|(_, at)| **at <= now_ms);
        let due: Vec<WorkloadId> = due.map(|(id, _)| *id).collect();
        for id in due {
            self.wakes.remove(&id);
            self.due.insert(id);
        }
        let batch: Vec<WorkloadId> = {
            let due = self.due.iter().copied();
            due.take(MAX_BATCH).collect()
        };
        let services: Vec<Service> = self
            .server
            .services
            .workloads
            .read(|tables| batch.iter().filter_map(|id| tables.service(*id)).collect());
        // Only after the records were read: an exclusive unit rests on this order.
        let tasks = self.reserved_by_tasks().await;
        self.look_at_nodes(&tasks);
        self.server
            .services
            .loads
            .forget_old(self.server.clock.steady());
        for id in &batch {
            self.due.remove(id);
        }
        for service in services {
            self.carry_out(&service).await?;
        }
        Ok(())
    }

    /// Something of a service changed: the board follows, and it is planned.
    fn note(&mut self, id: WorkloadId) {
        let server = self.server;
        let now_ms = self.now_ms();
        let mut board = server.services.board.lock();
        let units: Vec<(Kept<Assignment>, Option<Kept<UnitStatus>>)> =
            server.services.workloads.read(|tables| {
                let units = tables.units_of(id);
                units
                    .map(|kept| (kept.clone(), tables.status(kept.value.unit).cloned()))
                    .collect()
            });
        let mut left = self.board_units.remove(&id).unwrap_or_default();
        let known = left.len();
        let mut present = BTreeSet::new();
        let mut frees = false;
        for (kept, status) in &units {
            let unit = kept.value.unit;
            let gone = status.as_ref().is_some_and(|status| status.value.gone);
            frees |= gone;
            board.set_unit(&kept.value, gone);
            match status {
                Some(status) => self.ready.note(now_ms, &status.value),
                None => self.ready.forget(unit),
            }
            left.remove(&unit);
            present.insert(unit);
        }
        for unit in &left {
            board.remove_unit(*unit);
            self.ready.forget(*unit);
        }
        drop(board);
        if frees || !left.is_empty() {
            self.due.extend(&self.waiting);
        }
        if present.len() > known - left.len() {
            self.due.extend(&self.lonely);
        }
        let exists = server
            .services
            .workloads
            .read(|tables| tables.by_id(id).is_some());
        if exists {
            self.due.insert(id);
        } else {
            self.due.remove(&id);
            self.wakes.remove(&id);
            self.waiting.remove(&id);
            self.lonely.remove(&id);
            server.services.summaries.forget(id);
        }
        if !present.is_empty() {
            self.board_units.insert(id, present);
        }
    }

    async fn reserved_by_tasks(&self) -> BTreeMap<NodeId, Resources> {
        let asked = self
            .server
            .dispatcher
            .ask(|shell| shell.reserved_by_tasks());
        asked.await.unwrap_or_default()
    }

    fn look_at_nodes(&mut self, tasks: &BTreeMap<NodeId, Resources>) {
        let server = self.server;
        let now_ms = self.now_ms();
        let mut board = server.services.board.lock();
        let changes = self.nodes.sync(server, &mut board, tasks, now_ms);
        let ttl_ms = server.liveness.config().ttl_ms;
        if !self.is_settled && now_ms.saturating_sub(self.since_ms) > ttl_ms {
            self.is_settled = true;
            board.settle();
            self.due.extend(self.board_units.keys());
        }
        drop(board);
        if changes.room {
            self.due.extend(&self.waiting);
        }
        server.services.workloads.read(|tables| {
            for node in &changes.health {
                let units = tables.units_of_node(node);
                self.due.extend(units.map(|kept| kept.value.unit.workload));
            }
        });
    }

    /// Plans one service and writes what the plan says.
    async fn carry_out(&mut self, service: &Service) -> Result<(), Error> {
        let server = self.server;
        let began = Instant::now();
        let id = service.record.value.id;
        let plan = self.plan(service);
        server.metrics.services.reconcile(began.elapsed());
        server.services.summaries.set(id, plan.summary.clone());
        match plan.wake_ms {
            Some(at) => self.wakes.insert(id, at),
            None => self.wakes.remove(&id),
        };
        self.waiting.remove(&id);
        self.lonely.remove(&id);
        if plan.summary.waiting.is_some() {
            self.waiting.insert(id);
            if !service.record.value.spec.placement.with.is_empty() {
                self.lonely.insert(id);
            }
        }
        if plan.actions.iter().any(Action::is_write) {
            let txn = self.transaction(service, &plan)?;
            let outcome = match server.records.txn(txn).await {
                Ok(outcome) => outcome,
                Err(Error::Store(weft_store::Error::Invalid { field, detail })) => {
                    // One service that cannot be written must not keep the others from it.
                    tracing::error!(workload = %id, field, detail, "a plan cannot be written");
                    self.wakes.insert(id, self.now_ms() + UNWRITABLE_DELAY_MS);
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            server.services.workloads.reached(outcome.revision).await;
            if !outcome.succeeded {
                server.metrics.services.conflict();
                if !self.leadership.holds(server).await? {
                    return Err(weft_store::Error::LeaseGone.into());
                }
                // Somebody was faster: planned again from what there is now.
                self.due.insert(id);
                return Ok(());
            }
            self.tell(service, &plan);
        }
        let frees = server.services.board.lock().apply(id, &plan);
        if frees {
            self.due.extend(&self.waiting);
        }
        Ok(())
    }

    fn plan(&self, service: &Service) -> Plan {
        let server = self.server;
        let now = server.clock.steady();
        let units: Vec<UnitView<'_>> = service
            .units
            .iter()
            .map(|(assignment, status)| UnitView {
                assignment: &assignment.value,
                status: status.as_ref().map(|kept| &*kept.value),
                ready_since_ms: self.ready.since_ms(assignment.value.unit),
                load: server.services.loads.of(assignment.value.unit, now),
            })
            .collect();
        let view = View {
            workload: &service.record.value,
            rollout: service.rollout.as_ref().map(|kept| &*kept.value),
            retry: service.retry.as_ref().map(|kept| &*kept.value),
            units: &units,
        };
        let moment = Moment {
            now_ms: now.as_millis(),
            leading_since_ms: self.since_ms,
        };
        plan(moment, &view, &server.services.board.lock())
    }
}

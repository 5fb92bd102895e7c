//! The scheduler's shell: two of them, of which one leads.

use std::collections::BTreeMap;

use weft_core::service::record::Assignment;
use weft_core::service::{
    Action, Board, Claim, Moment, NodeHealth, Plan, ReadyTimes, UnitView, View, plan,
};
use weft_placement::Candidate;
use weft_types::{Bytes, Millicores, NodeCapacity, NodeState, RuntimeKind, UnitId, WorkloadId};

use super::store::Basis;
use super::{Event, LEADER_TTL_MS, SLOTS, TTL_MS, World};
#[cfg(feature = "planted")]
use crate::planted::{Bug, is_planted};

/// How often a scheduler looks around.
pub(super) const LOOK_MS: u64 = 100;

/// One scheduler process.
pub(super) struct Scheduler {
    pub(super) incarnation: u64,
    pub(super) paused_until_ms: u64,
    /// What the wall clock was ahead of real time when it started: its steady clock keeps that.
    skew_ms: i64,
    started_ms: u64,
    /// The term it believes to lead in, and since when by its own clock.
    leading: Option<(u64, u64)>,
    board: Board,
    /// Whether nodes that are not known are gone for good.
    is_settled: bool,
    /// Room that plans of its term asked for, which the checker compares with what the board gives.
    claims: BTreeMap<WorkloadId, Claim>,
    ready: ReadyTimes,
    /// When which workload was planned last, and when it is due again.
    planned: BTreeMap<WorkloadId, Planned>,
    /// A plan on its way into the store.
    pub(super) pending: Option<(Basis, Plan)>,
}

/// What a scheduler remembers of a plan.
#[derive(Clone, Copy)]
struct Planned {
    seen: u64,
    health: u64,
    board: u64,
    wake_ms: Option<u64>,
    is_waiting: bool,
}

impl Scheduler {
    fn steady_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.skew_ms)
    }

    fn apply(&mut self, workload: WorkloadId, plan: &Plan) {
        if self.board.apply(workload, plan) {
            self.planned.retain(|_, planned| !planned.is_waiting);
        }
        match &plan.claim {
            Some(claim) => self.claims.insert(workload, claim.clone()),
            None => self.claims.remove(&workload),
        };
    }
}

fn is_fenced() -> bool {
    #[cfg(feature = "planted")]
    if is_planted(Bug::TermNotCompared) {
        return false;
    }
    true
}

impl World {
    pub(super) fn start_scheduler(&mut self, index: usize) {
        if self.schedulers[index].is_some() {
            return;
        }
        self.incarnations += 1;
        self.schedulers[index] = Some(Scheduler {
            incarnation: self.incarnations,
            paused_until_ms: 0,
            skew_ms: self.wall_skew_ms,
            started_ms: self.now_ms,
            leading: None,
            board: Board::new(),
            is_settled: false,
            claims: BTreeMap::new(),
            ready: ReadyTimes::new(),
            planned: BTreeMap::new(),
            pending: None,
        });
        let incarnation = self.incarnations;
        self.after(1, Event::Look { index, incarnation });
    }

    /// A scheduler looks around: leads if it can, and plans what has to be.
    pub(super) fn look(&mut self, index: usize, incarnation: u64) {
        let Some(mut scheduler) = self.schedulers[index].take() else {
            return;
        };
        if scheduler.incarnation != incarnation {
            self.schedulers[index] = Some(scheduler);
            return;
        }
        let wait_ms = scheduler.paused_until_ms.saturating_sub(self.now_ms);
        if wait_ms == 0 {
            self.campaign(index, &mut scheduler);
            if scheduler.leading.is_some() && scheduler.pending.is_none() {
                self.plan_next(index, &mut scheduler);
            }
        }
        self.schedulers[index] = Some(scheduler);
        self.after(wait_ms.max(LOOK_MS), Event::Look { index, incarnation });
    }

    fn campaign(&mut self, index: usize, scheduler: &mut Scheduler) {
        let leadership = &mut self.store.leadership;
        let is_mine = scheduler
            .leading
            .is_some_and(|(term, _)| term == leadership.term);
        if is_mine || leadership.until_ms <= self.now_ms {
            if !is_mine {
                leadership.term += 1;
                leadership.holder = index;
                let since_ms = scheduler.steady_ms(self.now_ms);
                scheduler.leading = Some((leadership.term, since_ms));
                scheduler.planned.clear();
                scheduler.board = Board::new();
                scheduler.is_settled = false;
                scheduler.claims.clear();
                scheduler.ready = ReadyTimes::new();
            }
            leadership.until_ms = self.now_ms + LEADER_TTL_MS;
        } else if is_fenced() || self.random.chance(10) {
            // It finds out; with the bug planted only after a while.
            scheduler.leading = None;
        }
    }

    /// Brings the board up to date and plans one of the workloads that are due: nothing may depend
    /// on which.
    fn plan_next(&mut self, index: usize, scheduler: &mut Scheduler) {
        self.refresh(scheduler);
        let due: Vec<WorkloadId> = self
            .store
            .workloads
            .keys()
            .filter(|id| self.is_due(scheduler, **id))
            .copied()
            .collect();
        let Some(last) = (due.len() as u64).checked_sub(1) else {
            return;
        };
        let workload = due[self.random.between(0, last) as usize];
        let Some((term, _)) = scheduler.leading else {
            return;
        };
        let made = self.make_plan(scheduler, workload);
        let basis = Basis {
            term,
            workload,
            written: self.store.written(workload),
        };
        let seen = self.store.touched.get(&workload).copied().unwrap_or(0);
        let planned = Planned {
            seen,
            health: self.health_version,
            board: self.store.revision,
            wake_ms: made.wake_ms,
            is_waiting: made.summary.waiting.is_some(),
        };
        scheduler.planned.insert(workload, planned);
        if !made.actions.iter().any(Action::is_write) {
            scheduler.apply(workload, &made);
            self.after(
                1,
                Event::LookOnce {
                    index,
                    incarnation: scheduler.incarnation,
                },
            );
            return;
        }
        scheduler.pending = Some((basis, made));
        let ms = self.random.between(1, 40);
        self.after(
            ms,
            Event::Commit {
                index,
                incarnation: scheduler.incarnation,
            },
        );
    }

    /// The next workload, without a look at the leadership.
    pub(super) fn look_once(&mut self, index: usize, incarnation: u64) {
        let Some(mut scheduler) = self.schedulers[index].take() else {
            return;
        };
        let is_idle = scheduler.pending.is_none() && scheduler.paused_until_ms <= self.now_ms;
        if scheduler.incarnation == incarnation && is_idle && scheduler.leading.is_some() {
            self.plan_next(index, &mut scheduler);
        }
        self.schedulers[index] = Some(scheduler);
    }

    fn is_due(&self, scheduler: &Scheduler, workload: WorkloadId) -> bool {
        let Some(planned) = scheduler.planned.get(&workload) else {
            return true;
        };
        let touched = self.store.touched.get(&workload).copied().unwrap_or(0);
        let steady_ms = scheduler.steady_ms(self.now_ms);
        touched > planned.seen
            || planned.wake_ms.is_some_and(|at_ms| at_ms <= steady_ms)
            // Health concerns every workload, the rest of the board only those that wait.
            || self.health_version > planned.health
            || (planned.is_waiting && self.store.revision > planned.board)
    }

    fn refresh(&self, scheduler: &mut Scheduler) {
        let now_ms = scheduler.steady_ms(self.now_ms);
        let has_waited = self.now_ms.saturating_sub(scheduler.started_ms) >= TTL_MS;
        if has_waited && !scheduler.is_settled {
            scheduler.is_settled = true;
            scheduler.board.settle();
            scheduler.planned.clear();
        }
        for (id, health) in self.healths() {
            scheduler.board.set_node(id, candidate(), health);
        }
        let known: Vec<_> = scheduler.board.nodes().map(|(id, ..)| id.clone()).collect();
        for id in known {
            if !self.store.nodes.contains_key(&id) && !self.removed.contains_key(&id) {
                scheduler.board.remove_node(&id);
            }
        }
        let old: Vec<UnitId> = scheduler.board.units().map(|(id, _)| id).collect();
        for unit in old {
            if !self.store.assignments.contains_key(&unit) {
                scheduler.board.remove_unit(unit);
                scheduler.ready.forget(unit);
            }
        }
        for (unit, assignment) in &self.store.assignments {
            let status = self.store.statuses.get(unit);
            scheduler
                .board
                .set_unit(assignment, status.is_some_and(|status| status.gone));
            if let Some(status) = status {
                scheduler.ready.note(now_ms, status);
            }
        }
    }

    fn make_plan(&mut self, scheduler: &Scheduler, workload: WorkloadId) -> Plan {
        let store = &self.store;
        let mine: Vec<&Assignment> = store
            .assignments
            .values()
            .filter(|assignment| assignment.unit.workload == workload)
            .collect();
        let units: Vec<UnitView<'_>> = mine
            .iter()
            .map(|assignment| UnitView {
                assignment,
                status: store.statuses.get(&assignment.unit),
                ready_since_ms: scheduler.ready.since_ms(assignment.unit),
                load: self.load(assignment.unit),
            })
            .collect();
        let view = View {
            workload: &store.workloads[&workload],
            rollout: store.rollouts.get(&workload),
            retry: store.retries.get(&workload),
            units: &units,
        };
        let now_ms = scheduler.steady_ms(self.now_ms);
        let now = Moment {
            now_ms,
            leading_since_ms: scheduler.leading.map_or(now_ms, |(_, since_ms)| since_ms),
        };
        let made = plan(now, &view, &scheduler.board);
        self.checker.planned(now, &view, &scheduler.board, &made);
        self.checker
            .room_taken(&view, &scheduler.board, &scheduler.claims, &made);
        if self.options.keep_log {
            self.note(format!("plan {workload} {:?}", brief(&made)));
        }
        made
    }

    /// A plan reaches the store.
    pub(super) fn commit(&mut self, index: usize, incarnation: u64) {
        let Some(mut scheduler) = self.schedulers[index].take() else {
            return;
        };
        if scheduler.incarnation == incarnation {
            let wait_ms = scheduler.paused_until_ms.saturating_sub(self.now_ms);
            if wait_ms > 0 {
                self.after(wait_ms, Event::Commit { index, incarnation });
            } else if let Some((basis, made)) = scheduler.pending.take() {
                self.commit_plan(&mut scheduler, basis, &made);
                self.after(1, Event::LookOnce { index, incarnation });
            }
        }
        self.schedulers[index] = Some(scheduler);
    }

    fn commit_plan(&mut self, scheduler: &mut Scheduler, basis: Basis, made: &Plan) {
        let steady_ms = scheduler.steady_ms(self.now_ms);
        if self.store.commit(basis, made, is_fenced(), steady_ms) {
            scheduler.apply(basis.workload, made);
            self.units_made += made
                .actions
                .iter()
                .filter(|action| matches!(action, Action::Assign(_)))
                .count() as u64;
            self.checker.committed(&self.store);
            self.push_all();
        } else {
            scheduler.planned.remove(&basis.workload);
        }
    }

    /// How nodes are, as liveness and people say.
    fn healths(&self) -> Vec<(weft_types::NodeId, NodeHealth)> {
        let mut healths = Vec::new();
        for (id, record) in &self.store.nodes {
            let state = self.liveness.state(id).unwrap_or(NodeState::Offline);
            let health = match state {
                NodeState::Suspect => NodeHealth::Suspect,
                NodeState::Offline => NodeHealth::LeaseLost {
                    since_ms: self.now_ms,
                },
                _ if record.is_draining => NodeHealth::Draining,
                _ if record.is_cordoned => NodeHealth::Cordoned,
                _ => NodeHealth::Usable,
            };
            healths.push((id.clone(), health));
        }
        let removed = self.removed.keys();
        healths.extend(removed.map(|id| (id.clone(), NodeHealth::Removed)));
        healths
    }
}

/// A node has a number of slots, of which each unit takes one.
pub(super) fn candidate() -> Candidate {
    Candidate {
        capacity: NodeCapacity {
            cpu: Millicores(SLOTS * 1_000),
            memory: Bytes(1 << 40),
            disk: Bytes(1 << 40),
            runtimes: vec![RuntimeKind::Container, RuntimeKind::Vm],
            ..NodeCapacity::default()
        },
        ..Candidate::default()
    }
}

/// The actions of a plan in a few words each.
fn brief(plan: &Plan) -> Vec<String> {
    let words = plan.actions.iter().map(|action| match action {
        Action::Assign(a) => format!("assign {} r{} to {}", a.unit.number, a.revision, a.node),
        Action::Stop(a) => format!("stop {}: {}", a.unit.number, a.why),
        Action::Forget { unit } => format!("forget {}", unit.number),
        Action::SetRollout(rollout) => format!("{:?}", rollout.state),
        Action::SetRetry(retry) => format!("retry {:?}", retry.as_ref().map(|r| r.next_ms)),
        Action::Preempt { unit, .. } => format!("preempt {unit}"),
        Action::DeleteWorkload => "delete".to_owned(),
        Action::Event { kind, .. } => (*kind).to_owned(),
    });
    let mut words: Vec<String> = words.collect();
    words.push(format!("{} {}", plan.summary.state, plan.summary.why));
    words
}

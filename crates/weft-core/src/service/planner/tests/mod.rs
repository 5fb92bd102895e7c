//! A workload and its nodes in memory, moved by hand.

mod data;
mod exclusive;
mod failures;
mod in_place;
mod life;
mod nodes;
mod property;
mod scaling;
mod updates;

use std::collections::BTreeMap;
use std::time::Duration;

use weft_placement::Candidate;
use weft_types::{
    Bytes, ContainerSpec, Millicores, NodeCapacity, NodeId, Reason, Replicas, Resources,
    RuntimeKind, UnitId, UpdateSpec, Workload, WorkloadId, WorkloadState,
};

use super::plan;
use crate::service::record::{
    Assignment, Intent, RECORD_VERSION, Retry, Rollout, RolloutState, UnitLoad, UnitStatus,
    WorkloadRecord,
};
use crate::service::{Action, Board, Moment, NodeHealth, Plan, ReadyTimes, UnitView, View};

/// No units.
pub(super) const NONE: [u32; 0] = [];
/// Where time begins: any number would do.
const START_MS: u64 = 1_000_000_000;

pub(super) struct Bench {
    pub(super) now_ms: u64,
    pub(super) leading_since_ms: u64,
    pub(super) record: WorkloadRecord,
    pub(super) rollout: Option<Rollout>,
    pub(super) retry: Option<Retry>,
    pub(super) assignments: BTreeMap<u32, Assignment>,
    pub(super) statuses: BTreeMap<u32, UnitStatus>,
    pub(super) loads: BTreeMap<u32, UnitLoad>,
    pub(super) ready: ReadyTimes,
    pub(super) board: Board,
    pub(super) is_deleted: bool,
}

pub(super) fn node(name: &str) -> NodeId {
    name.parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A node with this many cores and plenty of the rest.
pub(super) fn cores(count: u64) -> Candidate {
    Candidate {
        capacity: NodeCapacity {
            cpu: Millicores(count * 1_000),
            memory: Bytes(64 << 30),
            disk: Bytes(1 << 40),
            runtimes: vec![
                RuntimeKind::Container,
                RuntimeKind::Compose,
                RuntimeKind::Vm,
            ],
            ..NodeCapacity::default()
        },
        ..Candidate::default()
    }
}

/// A container of one core, this many times.
pub(super) fn service(replicas: u32) -> Workload {
    let mut spec = Workload::new(RuntimeKind::Container);
    spec.container = Some(Box::new(ContainerSpec {
        image: "web:1".to_owned(),
        ..ContainerSpec::default()
    }));
    spec.resources = Some(Resources {
        cpu: Millicores(1_000),
        ..Resources::default()
    });
    spec.replicas = Some(Replicas {
        min: 0,
        max: 100,
        target: replicas,
    });
    spec
}

impl Bench {
    /// A workload over nodes `a`, `b`, … of four cores.
    pub(super) fn new(spec: Workload, nodes: usize) -> Self {
        let mut board = Board::new();
        board.settle();
        for name in ["a", "b", "c", "d", "e"].iter().take(nodes) {
            board.set_node(node(name), cores(4), NodeHealth::Usable);
        }
        Self {
            now_ms: START_MS,
            leading_since_ms: START_MS,
            record: WorkloadRecord {
                v: RECORD_VERSION,
                id: WorkloadId(7),
                revision: 1,
                spec,
                scale: None,
                stopped: false,
                deleting: false,
                restarts: 0,
                created_ms: START_MS,
                changed_ms: START_MS,
            },
            rollout: None,
            retry: None,
            assignments: BTreeMap::new(),
            statuses: BTreeMap::new(),
            loads: BTreeMap::new(),
            ready: ReadyTimes::new(),
            board,
            is_deleted: false,
        }
    }

    pub(super) fn plan(&self) -> Plan {
        let units: Vec<UnitView<'_>> = self
            .assignments
            .iter()
            .map(|(number, assignment)| UnitView {
                assignment,
                status: self.statuses.get(number),
                ready_since_ms: self.ready.since_ms(assignment.unit),
                load: self.loads.get(number).copied(),
            })
            .collect();
        let view = View {
            workload: &self.record,
            rollout: self.rollout.as_ref(),
            retry: self.retry.as_ref(),
            units: &units,
        };
        let now = Moment {
            now_ms: self.now_ms,
            leading_since_ms: self.leading_since_ms,
        };
        plan(now, &view, &self.board)
    }

    /// Plans and does it.
    pub(super) fn step(&mut self) -> Plan {
        let plan = self.plan();
        self.apply(&plan);
        plan
    }

    pub(super) fn apply(&mut self, plan: &Plan) {
        let _others_may_fit = self.board.apply(self.record.id, plan);
        for action in &plan.actions {
            match action {
                Action::Assign(new) | Action::Stop(new) => {
                    self.assignments.insert(new.unit.number, (**new).clone());
                }
                Action::Forget { unit } => {
                    self.assignments.remove(&unit.number);
                    self.statuses.remove(&unit.number);
                    self.ready.forget(*unit);
                }
                Action::SetRollout(rollout) => self.rollout = Some((**rollout).clone()),
                Action::SetRetry(retry) => self.retry = retry.as_deref().cloned(),
                Action::DeleteWorkload => self.is_deleted = true,
                Action::Preempt { .. } | Action::Event { .. } => {}
            }
        }
    }

    /// Plans until there is nothing to do.
    pub(super) fn rest(&mut self) {
        for _ in 0..50 {
            if self.is_deleted || self.step().actions.is_empty() {
                return;
            }
        }
        panic!("no rest: {:?}", self.plan().actions);
    }

    /// A unit's status changes.
    pub(super) fn report(&mut self, number: u32, change: impl FnOnce(&mut UnitStatus)) {
        let Some(assignment) = self.assignments.get(&number) else {
            panic!("no unit {number}");
        };
        let status = self.statuses.entry(number).or_insert_with(|| {
            UnitStatus::new(
                assignment.unit,
                assignment.node.clone(),
                WorkloadState::Starting,
                self.now_ms,
            )
        });
        change(status);
        self.ready.note(self.now_ms, status);
        self.board.set_unit(assignment, status.gone);
    }

    pub(super) fn make_ready(&mut self, number: u32) {
        self.report(number, |status| {
            status.state = WorkloadState::Running;
            status.ready = true;
        });
    }

    pub(super) fn give_up(&mut self, number: u32, reason: Reason) {
        self.report(number, |status| {
            status.state = WorkloadState::Failed;
            status.ready = false;
            status.given_up = true;
            status.reason = Some(reason);
        });
    }

    pub(super) fn make_gone(&mut self, number: u32) {
        let kept = self
            .assignments
            .get(&number)
            .is_some_and(|it| it.keep_volumes);
        self.report(number, |status| {
            status.ready = false;
            status.gone = true;
            status.kept = kept;
        });
    }

    /// Nodes do what they are told: what is to run gets ready, what is to stop is gone.
    pub(super) fn obey(&mut self) {
        let all: Vec<(u32, Intent, NodeId)> = self
            .assignments
            .values()
            .map(|a| (a.unit.number, a.intent, a.node.clone()))
            .collect();
        for (number, intent, node) in all {
            if self.board.health(&node).is_lost() {
                continue;
            }
            match intent {
                Intent::Run => self.make_ready(number),
                Intent::Stop => self.make_gone(number),
            }
        }
    }

    /// Plans and obeys, a second at a time, until nothing changes.
    pub(super) fn converge(&mut self) {
        for _ in 0..400 {
            let plan = self.step();
            if self.is_deleted {
                return;
            }
            let before = self.statuses.clone();
            self.obey();
            if plan.actions.is_empty() && before == self.statuses && plan.wake_ms.is_none() {
                return;
            }
            self.now_ms += 1_000;
        }
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// Applies another specification as a new revision.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Workload)) {
        change(&mut self.record.spec);
        self.record.revision += 1;
        self.record.changed_ms = self.now_ms;
    }

    pub(super) fn set_health(&mut self, name: &str, health: NodeHealth) {
        self.board.set_health(&node(name), health);
    }

    /// Numbers of units that are to run.
    pub(super) fn running(&self) -> Vec<u32> {
        let run = self
            .assignments
            .values()
            .filter(|a| a.intent == Intent::Run);
        run.map(|a| a.unit.number).collect()
    }

    pub(super) fn stopping(&self) -> Vec<u32> {
        let stop = self
            .assignments
            .values()
            .filter(|a| a.intent == Intent::Stop);
        stop.map(|a| a.unit.number).collect()
    }

    /// Nodes of units that are to run.
    pub(super) fn places(&self) -> Vec<String> {
        let run = self
            .assignments
            .values()
            .filter(|a| a.intent == Intent::Run);
        let mut places: Vec<String> = run.map(|a| a.node.to_string()).collect();
        places.sort();
        places
    }

    pub(super) fn revisions(&self) -> Vec<u64> {
        let run = self
            .assignments
            .values()
            .filter(|a| a.intent == Intent::Run);
        run.map(|a| a.revision).collect()
    }

    pub(super) fn state(&self) -> Option<&RolloutState> {
        self.rollout.as_ref().map(|rollout| &rollout.state)
    }

    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state(), Some(RolloutState::Complete { .. }))
    }

    pub(super) fn is_rolled_back(&self) -> bool {
        matches!(
            self.state(),
            Some(RolloutState::Failed {
                rolled_back: true,
                ..
            })
        )
    }
}

pub(super) fn rolling(max_surge: u32, max_unavailable: u32) -> UpdateSpec {
    UpdateSpec {
        max_surge,
        max_unavailable,
        ..UpdateSpec::default()
    }
}

pub(super) fn unit(number: u32) -> UnitId {
    UnitId {
        workload: WorkloadId(7),
        number,
    }
}

pub(super) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

//! A plan while it is being made.

use weft_types::{NodeId, Reason, UnitId, Workload, WorkloadId, WorkloadState};

use crate::service::board::{Board, Claim, NodeHealth};
use crate::service::need::has_node_data;
use crate::service::record::{
    Assignment, Intent, Retry, Rollout, RolloutState, UnitLoad, UnitStatus,
};
use crate::service::vocabulary::{Action, Moment, Plan, UnitView, View, Waiting};

/// The most units that one plan stops or forgets; the next plan does the rest.
pub(super) const MAX_ENDS: usize = 256;
/// The most units that one plan makes.
pub(super) const MAX_ASSIGNMENTS: usize = 64;

/// What a unit is after this plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// As it was: it runs or is to.
    Runs,
    /// On its way out.
    Stops,
    /// Nothing of it is left, but its volumes wait on its node for the unit that takes them over.
    Rests,
    /// Not in the store any more.
    Forgotten,
}

/// A unit with what is thought of it.
#[derive(Clone, Copy)]
pub(super) struct Unit<'a> {
    pub(super) assignment: &'a Assignment,
    pub(super) status: Option<&'a UnitStatus>,
    pub(super) ready_since_ms: Option<u64>,
    pub(super) load: Option<UnitLoad>,
    pub(super) health: NodeHealth,
    pub(super) fate: Fate,
}

impl<'a> Unit<'a> {
    fn new(view: &UnitView<'a>, board: &Board) -> Self {
        let assignment = view.assignment;
        let fate = match assignment.intent {
            Intent::Run => Fate::Runs,
            Intent::Stop => Fate::Stops,
        };
        Self {
            assignment,
            status: view.status,
            ready_since_ms: view.ready_since_ms,
            load: view.load,
            health: board.health(&assignment.node),
            fate,
        }
    }

    pub(super) fn id(&self) -> UnitId {
        self.assignment.unit
    }

    pub(super) fn is_gone(&self) -> bool {
        self.status.is_some_and(|status| status.gone)
    }

    /// Whether nothing of it is left but its volumes.
    fn is_kept(&self) -> bool {
        self.status.is_some_and(|status| status.kept) && !self.health.is_lost()
    }

    pub(super) fn has_given_up(&self) -> bool {
        self.status.is_some_and(|status| status.given_up)
    }

    /// Whether it has ended, as services may that are not started again.
    pub(super) fn has_succeeded(&self) -> bool {
        self.status
            .is_some_and(|status| status.state == WorkloadState::Succeeded)
    }

    /// Whether it answers, as far as is known.
    pub(super) fn is_ready(&self) -> bool {
        let says_so = self
            .status
            .is_some_and(|status| status.ready && !status.gone && !status.given_up);
        self.has_succeeded() || says_so
    }

    /// Whether that can be relied on.
    pub(super) fn is_surely_ready(&self) -> bool {
        self.is_ready() && !self.health.is_lost() && self.health != NodeHealth::Suspect
    }

    pub(super) fn runs(&self) -> bool {
        self.fate == Fate::Runs
    }
}

/// What units are to be like.
#[derive(Clone, Copy)]
pub(super) struct Goal<'a> {
    pub(super) revision: u64,
    pub(super) spec: &'a Workload,
    /// After a rollback it does not matter by which restart a unit was made.
    pub(super) restarts: Option<u64>,
}

impl Goal<'_> {
    pub(super) fn is_met_by(&self, unit: &Assignment) -> bool {
        unit.revision == self.revision && self.restarts.is_none_or(|count| count == unit.restarts)
    }
}

/// A plan while it is being made.
pub(super) struct Draft<'a> {
    pub(super) now: Moment,
    pub(super) view: &'a View<'a>,
    pub(super) board: &'a Board,
    /// In the order of their numbers.
    pub(super) units: Vec<Unit<'a>>,
    pub(super) rollout: Rollout,
    pub(super) retry: Option<Retry>,
    pub(super) wanted: u32,
    /// Nodes of new units.
    pub(super) planned: Vec<NodeId>,
    /// Units that were lost with their nodes: they are replaced without a wait.
    pub(super) lost: u32,
    /// Nodes on which units have just failed.
    pub(super) failed_on: Vec<NodeId>,
    pub(super) claim: Option<Claim>,
    pub(super) waiting: Option<Box<Waiting>>,
    /// There is more to do than fits in one plan.
    pub(super) is_truncated: bool,
    pub(super) actions: Vec<Action>,
    wake_ms: Option<u64>,
    ends: usize,
}

impl<'a> Draft<'a> {
    pub(super) fn new(now: Moment, view: &'a View<'a>, board: &'a Board) -> Self {
        let record = view.workload;
        let mut units: Vec<Unit<'a>> = view.units.iter().map(|u| Unit::new(u, board)).collect();
        units.sort_by_key(|unit| unit.id().number);
        let mut rollout = view
            .rollout
            .cloned()
            .unwrap_or_else(|| Rollout::new(record.revision, record.restarts, now.now_ms));
        let newest = units.last().map_or(0, |unit| unit.id().number);
        rollout.next_unit = rollout.next_unit.max(newest.saturating_add(1));
        Self {
            now,
            view,
            board,
            units,
            rollout,
            retry: view.retry.cloned(),
            wanted: 0,
            planned: Vec::new(),
            lost: 0,
            failed_on: Vec::new(),
            claim: None,
            waiting: None,
            is_truncated: false,
            actions: Vec::new(),
            wake_ms: None,
            ends: 0,
        }
    }

    pub(super) fn id(&self) -> WorkloadId {
        self.view.workload.id
    }

    pub(super) fn spec(&self) -> &'a Workload {
        &self.view.workload.spec
    }

    /// Whether the last good revision has taken the place of the wanted one.
    pub(super) fn is_rolled_back(&self) -> bool {
        matches!(
            self.rollout.state,
            RolloutState::Failed {
                rolled_back: true,
                ..
            }
        )
    }

    pub(super) fn wake_at(&mut self, at_ms: u64) {
        let at_ms = at_ms.max(self.now.now_ms);
        self.wake_ms = Some(self.wake_ms.map_or(at_ms, |before| before.min(at_ms)));
    }

    /// A time of the records, when it can be right: one in the future was written by another clock.
    pub(super) fn past(&self, at_ms: u64) -> u64 {
        if at_ms <= self.now.now_ms { at_ms } else { 0 }
    }

    pub(super) fn event(
        &mut self,
        kind: &'static str,
        unit: Option<UnitId>,
        reason: Option<Reason>,
        detail: String,
    ) {
        self.actions.push(Action::Event {
            kind,
            unit,
            reason,
            detail,
        });
    }

    /// Counts an end; `false` when there were enough in this plan.
    fn may_end(&mut self) -> bool {
        if self.ends >= MAX_ENDS {
            self.is_truncated = true;
            return false;
        }
        self.ends += 1;
        true
    }

    /// Has a unit stopped.
    pub(super) fn stop(&mut self, index: usize, why: &str, keep_volumes: bool) {
        if !self.may_end() {
            return;
        }
        let unit = &mut self.units[index];
        let keep = keep_volumes && has_node_data(&unit.assignment.spec);
        let stopping = unit.assignment.stopping(why, self.now.now_ms, keep);
        unit.fate = Fate::Stops;
        self.actions.push(Action::Stop(Box::new(stopping)));
    }

    /// Removes what the store has of a unit.
    pub(super) fn forget(&mut self, index: usize) {
        if !self.may_end() {
            return;
        }
        let unit = &mut self.units[index];
        unit.fate = Fate::Forgotten;
        self.actions.push(Action::Forget { unit: unit.id() });
    }

    /// Gives up a unit of which nothing runs. What its node keeps of it goes first.
    pub(super) fn let_go(&mut self, index: usize, why: &str) {
        let unit = self.units[index];
        if !unit.is_kept() {
            self.forget(index);
        } else if unit.assignment.keep_volumes {
            self.stop(index, why, false);
        }
    }

    /// Nothing is to run.
    pub(super) fn end_everything(&mut self, why: &str, keep_volumes: bool) {
        for index in 0..self.units.len() {
            let unit = self.units[index];
            let rests = keep_volumes && unit.assignment.keep_volumes && !unit.health.is_lost();
            if unit.is_gone() && rests {
                self.units[index].fate = Fate::Rests;
            } else if unit.is_gone() {
                self.let_go(index, why);
            } else if self.is_given_back(&unit) {
                self.forget(index);
            } else if unit.runs() {
                self.stop(index, why, keep_volumes);
            }
        }
        let is_empty = self.units.iter().all(|unit| unit.fate == Fate::Forgotten);
        if self.view.workload.deleting && is_empty {
            self.actions.push(Action::DeleteWorkload);
            self.event(
                "service.deleted",
                None,
                None,
                "nothing of it is left".to_owned(),
            );
        }
    }

    /// Whether a unit that nobody is to follow may be forgotten with its node. An exclusive one
    /// of a workload that may be started again has to be fenced first.
    fn is_given_back(&self, unit: &Unit<'_>) -> bool {
        if self.view.workload.deleting || !self.is_exclusive(unit) {
            return unit.health.is_lost();
        }
        self.is_fenced(unit)
    }

    /// The plan as it is now.
    pub(super) fn finish(mut self) -> Plan {
        let is_going = self.actions.contains(&Action::DeleteWorkload);
        let is_active = !self.view.workload.deleting && !self.view.workload.stopped;
        if !is_going && is_active && self.view.rollout != Some(&self.rollout) {
            let rollout = Box::new(self.rollout.clone());
            self.actions.push(Action::SetRollout(rollout));
        }
        if !is_going && self.view.retry != self.retry.as_ref() {
            let retry = self.retry.clone().map(Box::new);
            self.actions.push(Action::SetRetry(retry));
        }
        if self.is_truncated {
            self.wake_at(self.now.now_ms);
        }
        let summary = self.summary();
        Plan {
            actions: self.actions,
            wake_ms: self.wake_ms,
            claim: self.claim,
            summary,
        }
    }
}

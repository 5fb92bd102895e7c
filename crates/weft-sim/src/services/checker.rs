//! What must never happen, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::service::record::Intent;
use weft_core::service::{
    Action, Board, Claim, Moment, Plan, UnitView, View, is_apart_from_itself, is_stop_first,
};
use weft_types::{NodeId, UnitId, Workload, WorkloadId};

use super::SLOTS;
use super::company::{self, goal_spec};
use super::node::Node;
use super::store::Store;

/// More assignments of one workload than this mean that something grows without end.
const MAX_UNITS: usize = 40;

/// What was seen.
#[derive(Default)]
pub(super) struct Checker {
    /// Where each unit was first assigned: it never moves.
    homes: BTreeMap<UnitId, NodeId>,
    violation: Option<String>,
}

impl Checker {
    /// Notes the first thing that went wrong.
    pub(super) fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(super) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// What really runs, after every step.
    pub(super) fn look(&mut self, now_ms: u64, nodes: &[Node]) {
        if let Some(what) = nodes.iter().find_map(company::crowded) {
            return self.fail(what);
        }
        let mut places: BTreeMap<UnitId, &NodeId> = BTreeMap::new();
        let mut exclusive: BTreeMap<WorkloadId, &NodeId> = BTreeMap::new();
        for node in nodes {
            for (unit, process) in &node.processes {
                if let Some(other) = places.insert(*unit, &node.id) {
                    let id = &node.id;
                    return self.fail(format!("{unit} is on {other} and on {id}"));
                }
                let runs = process.failed.is_none() && node.acts(now_ms);
                if !runs || !process.assignment.spec.exclusive {
                    continue;
                }
                if let Some(other) = exclusive.insert(unit.workload, &node.id) {
                    let id = &node.id;
                    return self.fail(format!("exclusive {unit} runs on {id} beside {other}"));
                }
            }
        }
    }

    /// The records, after every transaction of a scheduler.
    pub(super) fn committed(&mut self, store: &Store) {
        let mut reserved: BTreeMap<&NodeId, u64> = BTreeMap::new();
        let mut per_workload: BTreeMap<WorkloadId, usize> = BTreeMap::new();
        for (unit, assignment) in &store.assignments {
            if !self.homes.contains_key(unit)
                && let Some(what) = company::broken(store, assignment)
            {
                return self.fail(what);
            }
            let home = self
                .homes
                .entry(*unit)
                .or_insert_with(|| assignment.node.clone());
            if *home != assignment.node {
                let what = format!("{unit} moved from {home} to {}", assignment.node);
                return self.fail(what);
            }
            let is_gone = store.statuses.get(unit).is_some_and(|status| status.gone);
            *reserved.entry(&assignment.node).or_default() += u64::from(!is_gone);
            *per_workload.entry(unit.workload).or_default() += 1;
            if !store.workloads.contains_key(&unit.workload) {
                return self.fail(format!("{unit} belongs to nothing"));
            }
        }
        if let Some((node, count)) = reserved.iter().find(|(_, count)| **count > SLOTS) {
            return self.fail(format!("{node} has {count} units in {SLOTS} slots"));
        }
        if let Some((id, count)) = per_workload.iter().find(|(_, count)| **count > MAX_UNITS) {
            return self.fail(format!("{id} has {count} assignments"));
        }
        let orphan = store
            .statuses
            .keys()
            .find(|unit| !store.assignments.contains_key(unit));
        let left = store
            .rollouts
            .keys()
            .chain(store.retries.keys())
            .find(|id| !store.workloads.contains_key(id));
        if let Some(unit) = orphan {
            self.fail(format!("the status of {unit} outlived it"));
        } else if let Some(id) = left {
            self.fail(format!("records of {id} outlived it"));
        }
    }

    /// A plan beside what it was made from.
    pub(super) fn planned(&mut self, now: Moment, view: &View<'_>, board: &Board, plan: &Plan) {
        let now_ms = now.now_ms;
        let delta = Delta::of(view, board, plan);
        let record = view.workload;
        let id = record.id;
        if delta.made > 0 && (record.stopped || record.deleting) {
            self.fail(format!("{id} is to end and gets units"));
        }
        let wanted = plan.summary.counts.wanted as usize;
        let update = record.spec.update.clone().unwrap_or_default();
        let most = wanted + update.max_surge.max(1) as usize;
        if delta.made > 0 && delta.running_after > most {
            let after = delta.running_after;
            self.fail(format!("{id} has {after} units, {most} at most"));
        }
        let is_reset = plan
            .actions
            .iter()
            .any(|action| matches!(action, Action::SetRetry(None)));
        let waits = view.retry.is_some_and(|retry| retry.next_ms > now_ms);
        if waits && !is_reset && delta.made > delta.lost {
            self.fail(format!("{id} does not wait for its next try"));
        }
        let is_active = !record.stopped && !record.deleting;
        let spec = goal_spec(view, plan);
        if is_active && let Some(what) = super::loads::broken(now, view, spec, plan) {
            self.fail(format!("{id} {what}"));
        }
        let is_kept_up = is_active && !delta.is_stop_first;
        let least = delta.least(&record.spec, is_apart_from_itself(spec), wanted);
        if is_kept_up && delta.ready_stopped > 0 && delta.ready_after < least {
            let after = delta.ready_after;
            self.fail(format!(
                "{id} has {after} ready units, {least} were promised"
            ));
        }
    }

    /// New units of a plan leave the room alone that others of no lower priority wait for.
    pub(super) fn room_taken(
        &mut self,
        view: &View<'_>,
        board: &Board,
        claims: &BTreeMap<WorkloadId, Claim>,
        plan: &Plan,
    ) {
        let id = view.workload.id;
        let placing = company::Placing::new(view, board, claims, plan);
        let broken = placing.spread_broken();
        if let Some(what) = broken.or_else(|| placing.preemption_broken()) {
            return self.fail(format!("{id} {what}"));
        }
        let priority = view.workload.spec.priority;
        let new_on = |node: &NodeId| {
            let new = plan.actions.iter().filter(
                |action| matches!(action, Action::Assign(assignment) if assignment.node == *node),
            );
            new.count()
        };
        for (node, ..) in board.nodes().filter(|(node, ..)| new_on(node) > 0) {
            let there = board.units();
            let there = there.filter(|(_, bound)| bound.node == *node && !bound.gone);
            let waiting = claims.iter().filter(|(by, claim)| {
                **by != id && claim.node == *node && claim.priority >= priority
            });
            let taken = there.count() + new_on(node) + waiting.count();
            if taken as u64 > SLOTS {
                return self.fail(format!("{id} takes room on {node} that others wait for"));
            }
        }
    }
}

/// How many of the wanted units an update may leave missing.
fn spare(spec: &Workload, wanted: usize) -> usize {
    let update = spec.update.clone().unwrap_or_default();
    let least = usize::from(update.rollback && wanted >= 2);
    let least = least.max(spec.replicas.unwrap_or_default().min as usize);
    (update.max_unavailable as usize).min(wanted.saturating_sub(least))
}

/// What a plan changes.
struct Delta {
    made: usize,
    /// Units that are forgotten with their nodes.
    lost: usize,
    running_after: usize,
    ready_stopped: usize,
    ready_after: usize,
    is_stop_first: bool,
}

impl Delta {
    /// How many have to stay ready. Of what is apart from itself one may be replaced in place,
    /// down to what `min` says, and what has no place does not count.
    fn least(&self, spec: &Workload, is_alone: bool, wanted: usize) -> usize {
        let spare = spare(spec, wanted);
        if !is_alone {
            return wanted - spare;
        }
        let min = spec.replicas.unwrap_or_default().min as usize;
        let possible = wanted.min(self.running_after + self.ready_stopped);
        possible.saturating_sub(spare.max(1)).max(min.min(wanted))
    }

    fn of(view: &View<'_>, board: &Board, plan: &Plan) -> Self {
        let mut ended = BTreeSet::new();
        let mut made = 0;
        for action in &plan.actions {
            match action {
                Action::Assign(_) => made += 1,
                Action::Stop(assignment) => {
                    ended.insert(assignment.unit);
                }
                Action::Forget { unit } => {
                    ended.insert(*unit);
                }
                _ => {}
            }
        }
        let is_ready = |unit: &&UnitView<'_>| {
            let is_heard = !board.health(&unit.assignment.node).is_lost();
            let status = unit.status;
            is_heard && status.is_some_and(|s| s.ready && !s.gone && !s.given_up)
        };
        let is_lost = |unit: &&UnitView<'_>| board.health(&unit.assignment.node).is_lost();
        let is_ended = |unit: &&UnitView<'_>| ended.contains(&unit.assignment.unit);
        let running = || {
            view.units
                .iter()
                .filter(|unit| unit.assignment.intent == Intent::Run)
        };
        let any_first = running().any(|unit| is_stop_first(&unit.assignment.spec));
        Self {
            made,
            lost: running().filter(is_ended).filter(is_lost).count(),
            running_after: running().filter(|unit| !is_ended(unit)).count() + made,
            ready_stopped: running().filter(is_ended).filter(is_ready).count(),
            ready_after: running()
                .filter(|unit| !is_ended(unit))
                .filter(is_ready)
                .count(),
            is_stop_first: any_first || is_stop_first(&view.workload.spec),
        }
    }
}

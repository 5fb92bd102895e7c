//! What must never happen, looked at after every step, and what must be so in the end.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::service::record::{Assignment, Intent, RolloutState};
use weft_core::service::{Action, Board, Claim, Plan, UnitView, View, is_stop_first};
use weft_types::{NodeId, UnitId, Workload, WorkloadId};

use super::node::Node;
use super::store::Store;
use super::{SLOTS, World, image};

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
    pub(super) fn planned(&mut self, now_ms: u64, view: &View<'_>, board: &Board, plan: &Plan) {
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
        let is_kept_up = !record.stopped && !record.deleting && !delta.is_stop_first;
        let least = wanted - spare(&record.spec, wanted);
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
    let most = if update.rollback && wanted >= 2 {
        wanted - 1
    } else {
        wanted
    };
    (update.max_unavailable as usize).min(most)
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

impl World {
    /// The first thing that is not yet as it should be.
    pub(super) fn unfinished(&self) -> Option<String> {
        for id in self.store.workloads.keys() {
            if let Some(what) = self.unsatisfied(*id) {
                return Some(format!("{id}: {what}"));
            }
        }
        for node in self.nodes.iter().filter(|node| !node.is_removed) {
            let listed = self.store.of_node(&node.id);
            let strays = node
                .processes
                .keys()
                .find(|unit| !listed.contains_key(unit));
            if let Some(unit) = strays {
                return Some(format!("{unit} still runs on {}", node.id));
            }
        }
        None
    }

    fn unsatisfied(&self, id: WorkloadId) -> Option<String> {
        let record = self.store.workloads.get(&id)?;
        if record.deleting {
            return Some("is not deleted".to_owned());
        }
        let units = || {
            self.store
                .assignments
                .values()
                .filter(move |assignment| assignment.unit.workload == id)
        };
        if let Some(left) = units().find(|a| a.intent == Intent::Stop && !self.is_gone(a)) {
            return Some(format!("{} does not end", left.unit));
        }
        let running: Vec<&Assignment> = units().filter(|a| a.intent == Intent::Run).collect();
        if record.stopped {
            let is_running = !running.is_empty();
            return is_running.then(|| "it is stopped and runs".to_owned());
        }
        let (revision, spec) = match self.store.rollouts.get(&id).map(|r| (&r.state, &r.good)) {
            Some((
                RolloutState::Failed {
                    rolled_back: true, ..
                },
                Some(good),
            )) => (good.revision, &good.spec),
            _ => (record.revision, &record.spec),
        };
        if image(spec) != "good" {
            // It can never be ready; all that is asked is that it is known to have failed.
            let state = self.store.rollouts.get(&id).map(|rollout| &rollout.state);
            let is_known = matches!(state, Some(RolloutState::Failed { .. }));
            let wants_none = self.wanted(id) == 0;
            return (!is_known && !wants_none).then(|| format!("{state:?} of a bad revision"));
        }
        let is_full = self.is_full(record.spec.priority);
        // While a unit waits where its data is, no other may be missing for the sake of an update.
        let stuck = units().filter(|a| self.is_stuck(a)).count();
        if running.iter().any(|a| a.revision != revision) && !is_full && stuck == 0 {
            return Some(format!("not every unit is of revision {revision}"));
        }
        let ready = running.iter().filter(|a| self.really_ready(a)).count();
        if running.len() == self.wanted(id) && ready == running.len() {
            return None;
        }
        if ready == running.len() && (is_full || ready + stuck >= self.wanted(id)) {
            return None;
        }
        Some(format!(
            "{ready} of {} units are ready, {} are wanted: {:?}",
            running.len(),
            self.wanted(id),
            self.store.rollouts.get(&id).map(|rollout| &rollout.state)
        ))
    }

    fn wanted(&self, id: WorkloadId) -> usize {
        let Some(record) = self.store.workloads.get(&id) else {
            return 0;
        };
        let replicas = record.spec.replicas.unwrap_or_default();
        let wanted = record.scale.unwrap_or(replicas.target);
        wanted.clamp(replicas.min, replicas.max) as usize
    }

    fn really_ready(&self, assignment: &Assignment) -> bool {
        let node = self.nodes.iter().find(|node| node.id == assignment.node);
        node.and_then(|node| node.processes.get(&assignment.unit))
            .is_some_and(|process| process.ready && process.failed.is_none())
    }

    /// Whether the data of a unit that is over is where its successor has no room, nor could get
    /// any: data does not move by itself.
    fn is_stuck(&self, unit: &Assignment) -> bool {
        let rests = unit.intent == Intent::Stop && unit.keep_volumes && self.is_gone(unit);
        let in_the_way = self.store.assignments.values().filter(|other| {
            let is_own = other.unit.workload == unit.unit.workload;
            let stays = is_own || other.spec.priority >= unit.spec.priority;
            let is_kept = other.keep_volumes && !is_own;
            other.node == unit.node && stays && (!self.is_gone(other) || is_kept)
        });
        rests && in_the_way.count() as u64 >= SLOTS
    }

    /// Whether nobody has room, nor could make any for this priority.
    fn is_full(&self, priority: i32) -> bool {
        let assignments = || self.store.assignments.values();
        let has_lower = assignments().any(|a| a.spec.priority < priority && !self.is_gone(a));
        let takes_room = |a: &&Assignment| {
            let is_kept = a.keep_volumes && a.spec.priority >= priority;
            !self.is_gone(a) || is_kept
        };
        let has_room = self.store.nodes.keys().any(|node| {
            let here = assignments().filter(|assignment| assignment.node == *node);
            (here.filter(takes_room).count() as u64) < SLOTS
        });
        !has_lower && !has_room
    }

    fn is_gone(&self, unit: &Assignment) -> bool {
        let status = self.store.statuses.get(&unit.unit);
        status.is_some_and(|status| status.gone)
    }
}

//! Who may be on a node beside whom, and who has to make room.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::service::record::{Assignment, Intent};
use weft_core::service::{
    Action, Board, BoundUnit, Claim, NodeHealth, Plan, View, is_apart_from_itself, is_stop_first,
};
use weft_types::{NodeId, Spread, UnitId, Workload, WorkloadId, WorkloadName};

use super::SLOTS;
use super::node::Node;
use super::store::Store;

/// Whether two different services are not to be on the same node.
pub(super) fn are_apart(one: &Workload, other: &Workload) -> bool {
    names(&one.placement.apart, other) || names(&other.placement.apart, one)
}

fn names(list: &[WorkloadName], spec: &Workload) -> bool {
    spec.name.as_ref().is_some_and(|name| list.contains(name))
}

/// What the units of a plan are made of.
pub(super) fn goal_spec<'a>(view: &'a View<'_>, plan: &'a Plan) -> &'a Workload {
    let new = plan.actions.iter().find_map(|action| match action {
        Action::SetRollout(rollout) => Some(&**rollout),
        _ => None,
    });
    let good = new.or(view.rollout).and_then(|it| it.good.as_ref());
    match good {
        Some(good) if plan.summary.revision != view.workload.revision => &good.spec,
        _ => &view.workload.spec,
    }
}

/// A node that runs two units, none of them a stray, of something that is apart from itself.
pub(super) fn crowded(node: &Node) -> Option<String> {
    let mut alone = BTreeMap::new();
    for (unit, process) in &node.processes {
        if !node.lists(*unit) || !is_apart_from_itself(&process.assignment.spec) {
            continue;
        }
        if let Some(other) = alone.insert(unit.workload, unit) {
            let id = &node.id;
            return Some(format!(
                "{unit} runs beside {other} on {id}, apart as it is"
            ));
        }
    }
    None
}

/// What is wrong with the company of a unit that has just been written down.
pub(super) fn broken(store: &Store, new: &Assignment) -> Option<String> {
    let is_gone = |unit: &UnitId| store.statuses.get(unit).is_some_and(|status| status.gone);
    let beside = || {
        let all = store.assignments.values();
        all.filter(|a| a.node == new.node && a.unit != new.unit && !is_gone(&a.unit))
    };
    let in_the_way = beside().find(|a| match a.unit.workload == new.unit.workload {
        true => is_apart_from_itself(&new.spec),
        false => are_apart(&a.spec, &new.spec),
    });
    if let Some(other) = in_the_way {
        let what = format!("{} came to {} beside {}", new.unit, new.node, other.unit);
        return Some(format!("{what}, apart as it is"));
    }
    // What was company when the plan was made may have ended since.
    let mut wanted = new.spec.placement.with.iter();
    let lacking = wanted.find(|name| {
        let others = store.assignments.values();
        let mut others =
            others.filter(|a| a.node == new.node && a.unit.workload != new.unit.workload);
        !others.any(|a| a.intent == Intent::Run && a.spec.name.as_ref() == Some(*name))
    })?;
    Some(format!(
        "{} came to {} without {lacking}",
        new.unit, new.node
    ))
}

/// A plan with the nodes it was made for, counted anew and by slots only.
pub(super) struct Placing<'a> {
    view: &'a View<'a>,
    board: &'a Board,
    claims: &'a BTreeMap<WorkloadId, Claim>,
    plan: &'a Plan,
    spec: &'a Workload,
    /// Units of the workload that the plan ends for good.
    forgotten: BTreeSet<UnitId>,
}

impl<'a> Placing<'a> {
    pub(super) fn new(
        view: &'a View<'_>,
        board: &'a Board,
        claims: &'a BTreeMap<WorkloadId, Claim>,
        plan: &'a Plan,
    ) -> Self {
        let forgotten = plan.actions.iter().filter_map(|action| match action {
            Action::Forget { unit } => Some(*unit),
            _ => None,
        });
        Self {
            view,
            board,
            claims,
            plan,
            spec: goal_spec(view, plan),
            forgotten: forgotten.collect(),
        }
    }

    fn id(&self) -> WorkloadId {
        self.view.workload.id
    }

    /// Victims of a plan are of lower priority, and each of them is needed.
    pub(super) fn preemption_broken(&self) -> Option<String> {
        let victims: Vec<UnitId> = self.plan.actions.iter().filter_map(victim).collect();
        if victims.is_empty() {
            return None;
        }
        let Some(claim) = &self.plan.claim else {
            return Some("has units stopped and claims no room".to_owned());
        };
        let all: BTreeMap<UnitId, &BoundUnit> = self.board.units().collect();
        let priority = self.spec.priority;
        for id in &victims {
            let is_lower = |unit: &&BoundUnit| unit.priority < priority && unit.node == claim.node;
            if all.get(id).filter(|unit| is_lower(unit)).is_none() {
                return Some(format!("has {id} stopped, which has no lower priority"));
            }
        }
        let as_it_is = self.needs_all(&claim.node, &victims, None)?;
        // One that has to go before its successor comes leaves its own place.
        let own = self.view.units.iter().map(|unit| unit.assignment);
        let mut own =
            own.filter(|a| a.intent == Intent::Run && a.node == claim.node && !self.stays(a));
        let leaves = is_stop_first(self.spec) || is_apart_from_itself(self.spec);
        let is_followed = own.any(|own| {
            self.needs_all(&claim.node, &victims, Some(own.unit))
                .is_none()
        });
        (!leaves || !is_followed).then_some(as_it_is)
    }

    /// What is wrong with victims of which each has to be needed, and all together be enough.
    fn needs_all(
        &self,
        node: &NodeId,
        victims: &[UnitId],
        follows: Option<UnitId>,
    ) -> Option<String> {
        let fits = |away: &mut dyn Iterator<Item = UnitId>| {
            let away: Vec<UnitId> = away.chain(follows).collect();
            self.fits(node, &away)
        };
        if !fits(&mut victims.iter().copied()) {
            return Some(format!("has {victims:?} stopped, which does not help"));
        }
        let spared = victims
            .iter()
            .find(|spared| fits(&mut victims.iter().copied().filter(|it| it != *spared)))?;
        Some(format!("has {spared} stopped for nothing"))
    }

    /// Whether one more unit would have a place there without these units, and those on their way
    /// out.
    fn fits(&self, node: &NodeId, away: &[UnitId]) -> bool {
        let priority = self.spec.priority;
        let before = self.plan.actions.iter();
        let before = before.take_while(|action| victim(action).is_none());
        let made = before.filter(|action| matches!(action, Action::Assign(a) if a.node == *node));
        let mut taken = made.count() as u64;
        if taken > 0 && is_apart_from_itself(self.spec) {
            return false;
        }
        let mut company = BTreeSet::new();
        for (id, unit) in self.board.units().filter(|(_, unit)| unit.node == *node) {
            let is_own = id.workload == self.id();
            let is_kept = unit.keeps_place && unit.priority >= priority && !is_own;
            let leaves = unit.gone || unit.intent == Intent::Stop || away.contains(&id);
            if self.forgotten.contains(&id) || (leaves && !is_kept) {
                continue;
            }
            taken += 1;
            if leaves {
                continue;
            }
            let own = self.spec.name.as_ref();
            let is_unwanted = match is_own {
                true => is_apart_from_itself(self.spec),
                false => {
                    let name = unit.name.as_ref();
                    own.is_some_and(|own| unit.apart.contains(own))
                        || name.is_some_and(|name| self.spec.placement.apart.contains(name))
                }
            };
            if is_unwanted {
                return false;
            }
            company.extend(unit.name.as_ref().filter(|_| !is_own));
        }
        let has_company = self
            .spec
            .placement
            .with
            .iter()
            .all(|it| company.contains(it));
        has_company && taken + self.claimed(node) < SLOTS
    }

    /// Slots that others of no lower priority wait for.
    fn claimed(&self, node: &NodeId) -> u64 {
        let others = self.claims.iter().filter(|(by, claim)| {
            let counts = claim.priority >= self.spec.priority;
            **by != self.id() && claim.node == *node && counts
        });
        others.count() as u64
    }

    /// Of replicas that are spread none is put beside more others than it would have elsewhere.
    pub(super) fn spread_broken(&self) -> Option<String> {
        let is_bound = |spec: &Workload| {
            let company = !spec.placement.with.is_empty() || !spec.placement.apart.is_empty();
            company || is_stop_first(spec)
        };
        let mut units = self.view.units.iter();
        let any_bound = units.any(|unit| is_stop_first(&unit.assignment.spec));
        // Failures have their own say, and so has company.
        let is_free = self.spec.placement.spread == Some(Spread::Node)
            && !is_bound(self.spec)
            && !any_bound
            && !self.has_failures();
        if !is_free {
            return None;
        }
        let mut crowd: BTreeMap<&NodeId, u64> = BTreeMap::new();
        for unit in self
            .view
            .units
            .iter()
            .filter(|unit| self.stays(unit.assignment))
        {
            *crowd.entry(&unit.assignment.node).or_default() += 1;
        }
        let mut new: BTreeMap<&NodeId, u64> = BTreeMap::new();
        for action in &self.plan.actions {
            let Action::Assign(assignment) = action else {
                continue;
            };
            let beside = |node: &NodeId| crowd.get(node).copied().unwrap_or(0);
            let better = self.board.nodes().find(|(node, _, health, _)| {
                let is_open = *health == NodeHealth::Usable;
                let has_room = self.surely_free(node) > new.get(node).copied().unwrap_or(0);
                is_open && has_room && beside(node) < beside(&assignment.node)
            });
            if let Some((node, ..)) = better {
                let (unit, home) = (assignment.unit, &assignment.node);
                return Some(format!("puts {unit} on {home}, though {node} has fewer"));
            }
            *crowd.entry(&assignment.node).or_default() += 1;
            *new.entry(&assignment.node).or_default() += 1;
        }
        None
    }

    fn has_failures(&self) -> bool {
        let has_failed = |action: &Action| {
            let kind = match action {
                Action::Event { kind, .. } => *kind,
                _ => "",
            };
            kind == "service.unit-failed"
        };
        self.view.retry.is_some() || self.plan.actions.iter().any(has_failed)
    }

    /// Whether a unit is there to stay as it is.
    fn stays(&self, unit: &Assignment) -> bool {
        let is_ended = self.plan.actions.iter().any(|action| match action {
            Action::Stop(stopped) => stopped.unit == unit.unit,
            Action::Forget { unit: forgotten } => *forgotten == unit.unit,
            _ => false,
        });
        let is_gone = self
            .board
            .units()
            .any(|(id, it)| id == unit.unit && it.gone);
        let is_current = unit.revision == self.plan.summary.revision
            && (unit.restarts == self.view.workload.restarts
                || self.plan.summary.revision != self.view.workload.revision);
        let is_draining = self.board.health(&unit.node) == NodeHealth::Draining;
        unit.intent == Intent::Run && !is_ended && !is_gone && is_current && !is_draining
    }

    /// Slots that are free whatever else is thought of them.
    fn surely_free(&self, node: &NodeId) -> u64 {
        let here = || self.board.units().filter(|(_, unit)| unit.node == *node);
        let own = self.spec.name.as_ref();
        if here().any(|(_, unit)| own.is_some_and(|own| unit.apart.contains(own))) {
            return 0;
        }
        let taken = here().filter(|(_, unit)| !unit.gone || unit.keeps_place);
        SLOTS.saturating_sub(taken.count() as u64 + self.claimed(node))
    }
}

fn victim(action: &Action) -> Option<UnitId> {
    match action {
        Action::Preempt { unit, .. } => Some(*unit),
        _ => None,
    }
}

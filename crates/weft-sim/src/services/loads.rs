//! What there is to do, what nodes measure of it, and how the number of replicas follows.

use std::collections::BTreeMap;
use std::time::Duration;

use weft_core::service::record::{RolloutState, UnitLoad};
use weft_core::service::{Action, Moment, Plan, View};
use weft_types::{Scaling, UnitId, Workload, WorkloadId};

use super::{TTL_MS, World};

/// What a unit reserves, in millicores.
pub(super) const UNIT_MILLICORES: u64 = 1_000;
/// The most there is ever to do for one workload, in millicores.
const MAX_DEMAND: u64 = 4_000;
/// How long a measurement counts.
const LOAD_COUNTS_MS: u64 = 2 * TTL_MS;
/// A difference that is none, in percent.
const TOLERANCE_PERCENT: u64 = 10;

/// What people may want the load to do.
pub(super) fn some_scaling(random: &mut crate::random::Random) -> Scaling {
    let mut scaling = Scaling {
        up_cooldown: Duration::from_secs(random.between(0, 4)),
        down_cooldown: Duration::from_secs(random.between(1, 15)),
        ..Scaling::default()
    };
    if random.chance(3) {
        scaling.requests_per_second = Some(random.between(5, 20) as u32);
    } else {
        scaling.cpu = Some(weft_types::Percent(random.between(4, 9) as u32 * 10));
    }
    scaling
}

/// A millicore of work is a hundredth of a request a second.
fn load_of(millicores: u64) -> UnitLoad {
    UnitLoad {
        cpu_millicores: millicores,
        requests_per_1000s: millicores * 10,
        ..UnitLoad::default()
    }
}

/// How many millicores of work one replica is to do.
fn per_replica(scaling: &Scaling) -> u64 {
    let cpu = scaling.cpu;
    let cpu = cpu.map(|goal| UNIT_MILLICORES * u64::from(goal.0) / 100);
    let requests = scaling.requests_per_second;
    cpu.or(requests.map(|goal| u64::from(goal) * 100))
        .unwrap_or(u64::MAX)
}

/// What is wrong with the number of replicas that a plan aims for.
pub(super) fn broken(now: Moment, view: &View<'_>, spec: &Workload, plan: &Plan) -> Option<String> {
    let record = view.workload;
    let replicas = record.spec.replicas.unwrap_or_default();
    let most = if spec.exclusive { 1 } else { replicas.max };
    let wanted = plan.summary.counts.wanted;
    let least = replicas.min.min(most);
    if !(least..=most).contains(&wanted) {
        return Some(format!("aims for {wanted} replicas, not {least} to {most}"));
    }
    let scaling = record.spec.scaling.as_ref()?;
    let before = view.rollout?;
    let (old, new) = (before.scaled?, scaled_by(plan)?);
    let since_ms = Some(before.scaled_ms).filter(|at_ms| *at_ms <= now.now_ms);
    let since_ms = since_ms.unwrap_or(0).max(now.leading_since_ms);
    let wait_ms = u64::try_from(scaling.down_cooldown.as_millis()).unwrap_or(u64::MAX);
    let is_early = since_ms.saturating_add(wait_ms) > now.now_ms;
    let is_by_load = record.scale.is_none() && new < old;
    (is_by_load && is_early).then(|| format!("goes from {old} to {new} replicas at once"))
}

fn scaled_by(plan: &Plan) -> Option<u32> {
    plan.actions.iter().find_map(|action| match action {
        Action::SetRollout(rollout) => rollout.scaled,
        _ => None,
    })
}

impl World {
    /// There is more or less to do from now on.
    pub(super) fn change_demand(&mut self) {
        let ids: Vec<WorkloadId> = self.store.workloads.keys().copied().collect();
        let Some(last) = (ids.len() as u64).checked_sub(1) else {
            return;
        };
        let id = ids[self.random.between(0, last) as usize];
        let demand = self.random.between(0, MAX_DEMAND);
        self.demand.insert(id, demand);
        self.note(format!("demand of {id} is {demand}"));
    }

    /// What a node measures of its units: those that are ready share the work. Sometimes nothing.
    pub(super) fn measured(&mut self, index: usize) -> BTreeMap<UnitId, UnitLoad> {
        if !self.is_calm && self.random.chance(10) {
            return BTreeMap::new();
        }
        // Strays are given no work.
        let known = &self.store.assignments;
        let all = self.nodes.iter().flat_map(|node| node.processes.iter());
        let mut ready: BTreeMap<WorkloadId, u64> = BTreeMap::new();
        for (unit, _) in all.filter(|(unit, it)| it.ready && known.contains_key(unit)) {
            *ready.entry(unit.workload).or_default() += 1;
        }
        let here = self.nodes[index].processes.iter();
        let here = here.filter(|(_, process)| process.ready);
        let loads = here.map(|(unit, _)| {
            let demand = self.demand.get(&unit.workload).copied().unwrap_or(0);
            let among = ready.get(&unit.workload).copied().unwrap_or(1).max(1);
            (*unit, load_of(demand / among))
        });
        loads.collect()
    }

    pub(super) fn take_loads(&mut self, loads: BTreeMap<UnitId, UnitLoad>) {
        for (unit, load) in loads {
            self.loads.insert(unit, (self.now_ms, load));
        }
    }

    /// What is known of a unit's load.
    pub(super) fn load(&self, unit: UnitId) -> Option<UnitLoad> {
        let (at_ms, load) = self.loads.get(&unit)?;
        (at_ms + LOAD_COUNTS_MS > self.now_ms).then_some(*load)
    }

    /// Whether so many replicas, all of them ready, are too few or too many for what there is to do.
    pub(super) fn off_load(&self, id: WorkloadId, ready: usize) -> Option<String> {
        let record = self.store.workloads.get(&id)?;
        let scaling = record.spec.scaling.as_ref()?;
        let replicas = record.spec.replicas.unwrap_or_default();
        if record.scale.is_some() || ready == 0 {
            return None;
        }
        let ready = ready as u64;
        let each = per_replica(scaling);
        let used = self.demand.get(&id).copied().unwrap_or(0) / ready * ready;
        let aimed = each.saturating_mul(ready);
        if used.abs_diff(aimed) * 100 <= aimed.saturating_mul(TOLERANCE_PERCENT) {
            return None;
        }
        let needed = used.div_ceil(each).max(1);
        let needed = needed.clamp(replicas.min.into(), replicas.max.into());
        let state = self.store.rollouts.get(&id).map(|rollout| &rollout.state);
        let may_ease = matches!(state, Some(RolloutState::Complete { .. }));
        let is_off = needed > ready || (needed < ready && may_ease);
        is_off.then(|| format!("{ready} replicas do {used} millicores of work, not {needed}"))
    }
}

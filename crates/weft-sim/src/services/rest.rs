//! What must be so in the end.

use weft_core::service::record::{Assignment, Intent, RolloutState};
use weft_core::service::{has_node_data, is_apart_from_itself, is_stop_first};
use weft_types::{NodeId, UnitId, Workload, WorkloadId};

use super::company::are_apart;
use super::{SLOTS, World, image};

impl World {
    /// The first thing that is not yet as it should be.
    pub(super) fn unfinished(&self) -> Option<String> {
        for id in self.store.workloads.keys() {
            // What fails again and again takes the places of others each time.
            if self.is_troubled(*id) {
                continue;
            }
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
        let is_full = !self.fits_somewhere(id, spec, None);
        // While a unit waits where its data is, no other may be missing for the sake of an update.
        let stuck = units().filter(|a| self.is_stuck(a, spec)).count();
        let old = || running.iter().filter(|a| a.revision != revision);
        let is_bound = is_stop_first(spec) || running.iter().any(|a| is_stop_first(&a.spec));
        let may_wait = match is_bound {
            true => is_full || !old().any(|old| self.may_be_followed(old, spec)),
            false => is_full && !old().any(|old| self.may_make_way(old, spec, &running)),
        };
        if old().next().is_some() && !may_wait && stuck == 0 {
            return Some(format!("not every unit is of revision {revision}"));
        }
        let ready = running.iter().filter(|a| self.really_ready(a)).count();
        if running.len() == self.wanted(id) && ready == running.len() {
            return self.off_load(id, ready);
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

    /// Whether something of greater priority can never be ready, and is tried again for ever.
    fn is_troubled(&self, id: WorkloadId) -> bool {
        let priority = self.store.workloads.get(&id).map(|it| it.spec.priority);
        let mut others = self.store.workloads.values();
        others.any(|other| {
            let rolls_back = self.store.rollouts.get(&other.id).is_some_and(|rollout| {
                let state = &rollout.state;
                matches!(state, RolloutState::Failed { rolled_back, .. } if *rolled_back)
            });
            let is_bad = image(&other.spec) != "good" && !rolls_back;
            let is_active = !other.stopped && !other.deleting;
            is_bad && is_active && Some(other.spec.priority) > priority
        })
    }

    fn wanted(&self, id: WorkloadId) -> usize {
        let Some(record) = self.store.workloads.get(&id) else {
            return 0;
        };
        let replicas = record.spec.replicas.unwrap_or_default();
        let rollout = self.store.rollouts.get(&id);
        let scaled = rollout.and_then(|rollout| rollout.scaled);
        let scaled = record.spec.scaling.as_ref().and(scaled);
        let wanted = record.scale.or(scaled).unwrap_or(replicas.target);
        wanted.clamp(replicas.min, replicas.max) as usize
    }

    fn really_ready(&self, assignment: &Assignment) -> bool {
        let node = self.nodes.iter().find(|node| node.id == assignment.node);
        node.and_then(|node| node.processes.get(&assignment.unit))
            .is_some_and(|process| process.ready && process.failed.is_none())
    }

    /// Whether there is a place for the unit after one that has to go first: where its data is.
    fn may_be_followed(&self, old: &Assignment, spec: &Workload) -> bool {
        let id = old.unit.workload;
        match has_node_data(&old.spec) {
            true => self.fits_on(&old.node, id, spec, Some(old.unit)),
            false => self.fits_somewhere(id, spec, Some(old.unit)),
        }
    }

    /// Whether an old unit of something that is apart from itself could be replaced where it is.
    fn may_make_way(&self, old: &Assignment, spec: &Workload, running: &[&Assignment]) -> bool {
        let id = old.unit.workload;
        if !is_apart_from_itself(spec) {
            return false;
        }
        let ready = running.iter().filter(|a| self.really_ready(a)).count();
        let replicas = self.store.workloads.get(&id).and_then(|r| r.spec.replicas);
        let least = replicas.unwrap_or_default().min as usize;
        let stays = self.really_ready(old) && ready > least.min(self.wanted(id));
        stays && self.fits_somewhere(id, spec, Some(old.unit))
    }

    /// Whether the data of a unit that is over is where its successor has no room, nor could get
    /// any: data does not move by itself.
    fn is_stuck(&self, unit: &Assignment, spec: &Workload) -> bool {
        let rests = unit.intent == Intent::Stop && unit.keep_volumes && self.is_gone(unit);
        rests && !self.fits_on(&unit.node, unit.unit.workload, spec, Some(unit.unit))
    }

    /// Whether somebody has room for a unit, or could make some by its priority. One unit may be
    /// thought away.
    fn fits_somewhere(&self, id: WorkloadId, spec: &Workload, without: Option<UnitId>) -> bool {
        let mut nodes = self.store.nodes.keys();
        nodes.any(|node| self.fits_on(node, id, spec, without))
    }

    fn fits_on(
        &self,
        node: &NodeId,
        id: WorkloadId,
        spec: &Workload,
        without: Option<UnitId>,
    ) -> bool {
        let here = || {
            let all = self.store.assignments.values();
            all.filter(|a| a.node == *node && Some(a.unit) != without)
        };
        let kept = here().filter(|a| {
            let is_own = a.unit.workload == id;
            self.is_gone(a) && a.keep_volumes && !is_own && a.spec.priority >= spec.priority
        });
        let kept = kept.count();
        let may_go = |a: &&Assignment| a.unit.workload != id && a.spec.priority < spec.priority;
        let (lower, staying): (Vec<&Assignment>, Vec<&Assignment>) =
            here().filter(|a| !self.is_gone(a)).partition(may_go);
        // Whoever may go stays or goes.
        (0u32..1 << lower.len()).any(|choice| {
            let mut there = staying.clone();
            let chosen = lower.iter().enumerate();
            let chosen = chosen.filter(|(index, _)| choice & (1 << index) != 0);
            there.extend(chosen.map(|(_, a)| *a));
            let has_room = ((there.len() + kept) as u64) < SLOTS;
            let is_beside = |name| {
                let mut others = there.iter().filter(|a| a.unit.workload != id);
                others.any(|a| a.intent == Intent::Run && a.spec.name.as_ref() == Some(name))
            };
            has_room
                && spec.placement.with.iter().all(is_beside)
                && !there.iter().any(|a| match a.unit.workload == id {
                    true => is_apart_from_itself(spec),
                    false => are_apart(&a.spec, spec),
                })
        })
    }

    fn is_gone(&self, unit: &Assignment) -> bool {
        let status = self.store.statuses.get(&unit.unit);
        status.is_some_and(|status| status.gone)
    }
}

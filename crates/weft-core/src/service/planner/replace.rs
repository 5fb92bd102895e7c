//! New units come, superfluous and old ones go.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use weft_types::{NodeId, UnitId, Workload};

use crate::service::board::{NodeHealth, Placed, Refused};
use crate::service::need::{UnitRequest, is_stop_first};
use crate::service::record::{Assignment, Intent, RECORD_VERSION};
use crate::service::vocabulary::{Action, Waiting};

use super::draft::{Draft, Fate, MAX_ASSIGNMENTS};

/// Candidates that are kept in the explanation of an assignment.
const KEPT_CANDIDATES: usize = 32;

/// Units that are to run, by number in the draft.
pub(super) struct Roles {
    /// As they should be, where they may be.
    pub(super) staying: Vec<usize>,
    /// Of an older revision, or on a node that is being emptied.
    pub(super) passing: Vec<usize>,
}

impl Draft<'_> {
    /// Brings the number of units, and what they are, towards what is wanted.
    pub(super) fn replace(&mut self) {
        let mut running = self.units.iter().filter(|unit| unit.runs());
        if is_stop_first(self.goal().spec)
            || running.any(|unit| is_stop_first(&unit.assignment.spec))
        {
            self.stop_first();
        } else {
            self.start_first();
        }
    }

    pub(super) fn roles(&self) -> Roles {
        let running = (0..self.units.len()).filter(|index| self.units[*index].runs());
        let (staying, passing) = running.partition(|index| {
            let unit = &self.units[*index];
            self.is_current(unit) && unit.health != NodeHealth::Draining
        });
        Roles { staying, passing }
    }

    /// New units first: old ones go as new ones have been ready for long enough.
    fn start_first(&mut self) {
        let roles = self.roles();
        self.stop_excess(&roles.staying);
        self.retire(&roles);
        let Roles { staying, passing } = self.roles();
        let missing = self.wanted.saturating_sub(count(&staying));
        let most = self.wanted.saturating_add(self.surge(&passing));
        let room = most.saturating_sub(count(&staying) + count(&passing));
        let missing = if planted!(SurgeIgnored) {
            missing
        } else {
            missing.min(room)
        };
        for _ in 0..self.allowed(missing) {
            if !self.assign(None) {
                self.make_way();
                break;
            }
        }
    }

    /// How many units there may be beyond the wanted number. Without any, something would have to
    /// be missing for a while: a node is never emptied that way.
    fn surge(&self, passing: &[usize]) -> u32 {
        let update = self.update();
        let is_draining = passing
            .iter()
            .any(|index| self.units[*index].health == NodeHealth::Draining);
        if is_draining || self.unavailable() == 0 {
            update.max_surge.max(1)
        } else {
            update.max_surge
        }
    }

    /// How many may be missing meanwhile: none that `min` asks for. When a bad revision is to be
    /// rolled back, one of several always stays until a new one works.
    pub(super) fn unavailable(&self) -> u32 {
        let update = self.update();
        let least = u32::from(update.rollback && self.wanted >= 2);
        let least = least.max(self.replicas().min);
        update
            .max_unavailable
            .min(self.wanted.saturating_sub(least))
    }

    /// Old units that do not answer go at once, those that do as far as enough are left.
    fn retire(&mut self, roles: &Roles) {
        let floor = self.wanted.saturating_sub(self.unavailable());
        let is_new =
            |index: &&usize| self.is_available(&self.units[**index]) || planted!(OldGoesEarly);
        let new = roles.staying.iter().filter(is_new).count();
        let (mut ready, unready): (Vec<usize>, Vec<usize>) = roles
            .passing
            .iter()
            .partition(|index| self.units[**index].is_ready());
        ready.retain(|index| self.units[*index].is_surely_ready());
        for index in unready {
            let why = self.why_passing(index);
            self.stop(index, &why, true);
        }
        let enough = u32::try_from(new + ready.len()).unwrap_or(u32::MAX);
        let spare = enough.saturating_sub(floor) as usize;
        self.order_by_crowd(&mut ready);
        for index in ready.into_iter().take(spare) {
            let why = self.why_passing(index);
            self.stop(index, &why, true);
        }
    }

    pub(super) fn why_passing(&self, index: usize) -> String {
        let unit = &self.units[index];
        if !self.is_current(unit) {
            let revision = self.goal().revision;
            return format!("revision {revision} takes its place");
        }
        format!("{} is being emptied", unit.assignment.node)
    }

    /// Those on nodes with many units of the workload first, then the oldest.
    pub(super) fn order_by_crowd(&self, indices: &mut [usize]) {
        let crowd = self.crowd();
        indices.sort_by_key(|index| {
            let unit = &self.units[*index];
            let beside = crowd.get(&unit.assignment.node).copied().unwrap_or(0);
            (Reverse(beside), unit.id().number)
        });
    }

    fn crowd(&self) -> BTreeMap<&NodeId, u32> {
        let mut crowd = BTreeMap::new();
        for unit in self.units.iter().filter(|unit| unit.runs()) {
            *crowd.entry(&unit.assignment.node).or_insert(0) += 1;
        }
        crowd
    }

    /// More are as they should be than are wanted: those that do not answer go first, then those
    /// on nodes that are closed or crowded, the youngest of equals.
    pub(super) fn stop_excess(&mut self, staying: &[usize]) {
        let excess = staying.len().saturating_sub(self.wanted as usize);
        if excess == 0 {
            return;
        }
        let crowd = self.crowd();
        let mut order = staying.to_vec();
        order.sort_by_key(|index| {
            let unit = &self.units[*index];
            let beside = crowd.get(&unit.assignment.node).copied().unwrap_or(0);
            (
                unit.is_ready(),
                unit.is_surely_ready(),
                unit.health == NodeHealth::Usable,
                Reverse(beside),
                Reverse(unit.id().number),
            )
        });
        for index in order.into_iter().take(excess) {
            self.stop(index, "fewer replicas are wanted", false);
        }
    }

    /// How many of the missing units may be made now. While the next try is waited for, only
    /// those that were lost with their nodes are replaced.
    pub(super) fn allowed(&mut self, missing: u32) -> u32 {
        let missing = if missing > 0 && self.is_backing_off() {
            missing.min(self.lost)
        } else {
            missing
        };
        let most = u32::try_from(MAX_ASSIGNMENTS).unwrap_or(u32::MAX);
        self.is_truncated |= missing > most;
        missing.min(most)
    }

    /// What the next unit needs.
    pub(super) fn request(&self) -> UnitRequest {
        let spec = self.goal().spec;
        let mut request = UnitRequest::new(self.id(), spec);
        let roles = self.roles();
        request.passing = roles
            .passing
            .iter()
            .map(|index| self.units[*index].id())
            .collect();
        for unit in &self.units {
            match unit.fate {
                Fate::Runs => {}
                Fate::Stops => request.passing.push(unit.id()),
                Fate::Rests | Fate::Forgotten => request.without.push(unit.id()),
            }
        }
        request.planned = self.planned.clone();
        request.avoid = self.failed_on.clone();
        request
            .avoid
            .extend(self.retry.iter().filter_map(|retry| retry.node.clone()));
        request
    }

    /// Makes one more unit; `false` when it has no place. With `home` it is to be there and
    /// nowhere else.
    pub(super) fn assign(&mut self, home: Option<&NodeId>) -> bool {
        let mut request = self.request();
        request.prefer = home.cloned();
        match self.board.place(&request) {
            Ok(placed) if home.is_none_or(|node| *node == placed.node) => {
                self.make(placed);
                true
            }
            Ok(placed) => {
                self.wait_for_home(home, placed);
                self.make_room(&request, home);
                false
            }
            Err(refused) => {
                self.wait_for_room(*refused);
                self.make_room(&request, home);
                false
            }
        }
    }

    pub(super) fn wait_for_home(&mut self, home: Option<&NodeId>, placed: Placed) {
        let node = home.map_or("", NodeId::as_str);
        self.waiting = Some(Box::new(Waiting {
            reason: weft_types::Reason::InsufficientResources,
            detail: format!("its data is on {node}, where it does not fit now"),
            nearest: None,
            explanation: placed.explanation,
        }));
    }

    pub(super) fn wait_for_room(&mut self, refused: Refused) {
        self.waiting = Some(Box::new(Waiting {
            reason: refused.reason,
            detail: refused.detail,
            nearest: refused.nearest_change,
            explanation: refused.explanation,
        }));
    }

    /// Has units of lower priority stopped, for one unit at a time: there is one claim a workload.
    pub(super) fn make_room(&mut self, request: &UnitRequest, home: Option<&NodeId>) {
        if self.claim.is_some() {
            return;
        }
        let Some(room) = self.board.preemption(request, home) else {
            return;
        };
        let by = self.id();
        for unit in room.victims {
            let why = format!("it makes room for {by}, which has a greater priority");
            self.event("service.preempting", Some(unit), None, why.clone());
            self.actions.push(Action::Preempt { unit, by, why });
        }
        self.claim = Some(room.claim);
    }

    fn make(&mut self, placed: Placed) {
        let number = self.rollout.next_unit;
        self.rollout.next_unit = number.saturating_add(1);
        let unit = UnitId {
            workload: self.id(),
            number,
        };
        let Placed {
            node,
            mut explanation,
        } = placed;
        let detail = format!("on {node}: {explanation}");
        explanation.considered.truncate(KEPT_CANDIDATES);
        let goal = self.goal();
        let assignment = Assignment {
            v: RECORD_VERSION,
            unit,
            node: node.clone(),
            revision: goal.revision,
            restarts: self.rollout.restarts,
            epoch: u64::from(number),
            spec: for_node(goal.spec),
            intent: Intent::Run,
            why: String::new(),
            created_ms: self.now.now_ms,
            stopping_ms: None,
            keep_volumes: false,
            explanation: serde_json::to_value(&explanation).ok(),
        };
        self.planned.push(node);
        self.actions.push(Action::Assign(Box::new(assignment)));
        self.event("service.placed", Some(unit), None, detail);
    }
}

fn count(indices: &[usize]) -> u32 {
    u32::try_from(indices.len()).unwrap_or(u32::MAX)
}

/// What a node needs to know of a workload. Its priority stays, for those who look for room.
fn for_node(spec: &Workload) -> Workload {
    Workload {
        replicas: None,
        scaling: None,
        update: None,
        budget: None,
        ..spec.clone()
    }
}

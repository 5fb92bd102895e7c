//! Updates of what must not be there twice: the old unit is gone before the new one comes.

use weft_types::NodeId;

use crate::service::board::NodeHealth;
use crate::service::need::has_node_data;

use super::draft::{Draft, Fate};
use super::replace::Roles;

impl Draft<'_> {
    /// Old units go first, one at a time or as many as may be missing, and only once there is a
    /// place for the new one.
    pub(super) fn stop_first(&mut self) {
        let roles = self.roles();
        self.stop_excess(&roles.staying);
        self.step_down(&roles);
        let missing = self.vacancies();
        for _ in 0..self.allowed(missing) {
            if !self.succeed() {
                break;
            }
        }
        self.drop_unclaimed();
    }

    fn step_down(&mut self, roles: &Roles) {
        let every = roles.staying.iter().chain(&roles.passing);
        let ready = every
            .filter(|index| self.is_available(&self.units[**index]))
            .count();
        let missing = (self.wanted as usize).saturating_sub(ready);
        let mut spare = (self.unavailable().max(1) as usize).saturating_sub(missing);
        let mut passing = roles.passing.clone();
        self.order_by_crowd(&mut passing);
        for index in passing {
            let is_ready = self.units[index].is_ready();
            if self.is_bound_to_closed_node(index) || (is_ready && spare == 0) {
                continue;
            }
            if !is_ready || self.has_successor(index) {
                let why = self.why_passing(index);
                let moves = self.units[index].health == NodeHealth::Draining;
                self.stop(index, &why, !moves);
                spare = spare.saturating_sub(usize::from(is_ready));
            }
        }
    }

    /// Data on a node that takes nothing new: an update waits until it does, rather than leave
    /// the data behind.
    fn is_bound_to_closed_node(&self, index: usize) -> bool {
        let unit = &self.units[index];
        let is_closed = matches!(unit.health, NodeHealth::Cordoned | NodeHealth::Suspect);
        is_closed && has_node_data(&unit.assignment.spec)
    }

    /// Whether there is a place for the unit that follows this one, where its data is.
    fn has_successor(&mut self, index: usize) -> bool {
        let unit = self.units[index];
        let keeps_home =
            has_node_data(&unit.assignment.spec) && unit.health != NodeHealth::Draining;
        let home = keeps_home.then_some(&unit.assignment.node);
        let mut request = self.request();
        request.without.push(unit.id());
        request.prefer = home.cloned();
        match self.board.place(&request) {
            Ok(placed) if home.is_none_or(|node| *node == placed.node) => true,
            Ok(placed) => {
                self.wait_for_home(home, placed);
                false
            }
            Err(refused) => {
                self.wait_for_room(&request, *refused, false);
                false
            }
        }
    }

    /// How many units may come now: as many as are wanted and not there, those on their way out
    /// included. Of an exclusive workload nothing else may be there, unless it is known to be over.
    fn vacancies(&self) -> u32 {
        let there = self
            .units
            .iter()
            .filter(|unit| matches!(unit.fate, Fate::Runs | Fate::Stops))
            .count();
        if self.goal().spec.exclusive {
            let is_free = there == 0 || planted!(ExclusiveBesideOld);
            return if is_free { self.wanted.min(1) } else { 0 };
        }
        self.wanted
            .saturating_sub(u32::try_from(there + self.planned.len()).unwrap_or(u32::MAX))
    }

    /// Makes a unit, in the place of one whose data waits if there is any.
    fn succeed(&mut self) -> bool {
        let Some(heir_of) = self.units.iter().position(|unit| unit.fate == Fate::Rests) else {
            return self.assign(None);
        };
        let unit = self.units[heir_of];
        let stays = matches!(unit.health, NodeHealth::Usable | NodeHealth::Suspect);
        let home: Option<&NodeId> = stays.then_some(&unit.assignment.node);
        let is_made = self.assign(home);
        if is_made {
            self.forget(heir_of);
        }
        is_made
    }

    /// Data that no unit will take over is let go.
    fn drop_unclaimed(&mut self) {
        let running = self.units.iter().filter(|unit| unit.runs()).count();
        let needed = (self.wanted as usize).saturating_sub(running + self.planned.len());
        let resting: Vec<usize> = (0..self.units.len())
            .filter(|index| self.units[*index].fate == Fate::Rests)
            .collect();
        for index in resting.into_iter().skip(needed) {
            self.forget(index);
        }
    }
}

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
        self.fill_vacancies();
        self.drop_unclaimed();
    }

    /// Those whose data waits come first, where it is. One that does not fit there now keeps
    /// nobody else waiting.
    fn fill_vacancies(&mut self) {
        let missing = self.vacancies();
        let mut allowed = self.allowed(missing);
        let resting = self.resting();
        for heir_of in &resting {
            if allowed > 0 && self.succeed(*heir_of) {
                allowed -= 1;
            }
        }
        let waiting = u32::try_from(resting.len()).unwrap_or(u32::MAX);
        for _ in 0..allowed.min(missing.saturating_sub(waiting)) {
            if !self.assign(None) {
                break;
            }
        }
    }

    fn resting(&self) -> Vec<usize> {
        let units = 0..self.units.len();
        units
            .filter(|index| self.units[*index].fate == Fate::Rests)
            .collect()
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
    pub(super) fn has_successor(&mut self, index: usize) -> bool {
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

    /// Makes the unit that takes over the data of one of which nothing else is left. On a node that
    /// is closed the data waits as well, except on one that is being emptied.
    fn succeed(&mut self, heir_of: usize) -> bool {
        let unit = self.units[heir_of];
        let stays = unit.health != NodeHealth::Draining;
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
        for index in self.resting().into_iter().skip(needed) {
            self.let_go(index, "no unit takes its volumes over");
        }
    }
}

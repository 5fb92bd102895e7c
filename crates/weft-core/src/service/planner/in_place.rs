//! Updates of services that are apart from themselves, where no node is without a unit of them.

use crate::service::need::is_apart_from_itself;

use super::draft::{Draft, Fate};

impl Draft<'_> {
    /// A new unit has no place. Where every node that would do has an old one, old ones make way:
    /// one at a time or as many as may be missing, never so many that fewer than `min` are ready.
    /// What has no place anyhow, because there are more replicas than nodes, does not count as
    /// missing: it would never come.
    pub(super) fn make_way(&mut self) {
        // Where one is ending already there will be a place.
        let is_ending = self.units.iter().any(|unit| unit.fate == Fate::Stops);
        let is_alone = is_apart_from_itself(self.goal().spec);
        if !is_alone || is_ending || self.claim.is_some() || planted!(NoWayMade) {
            return;
        }
        let roles = self.roles();
        let there = roles.staying.len() + roles.passing.len() + self.planned.len();
        let possible = there.min(self.wanted as usize);
        let least = self.replicas().min.min(self.wanted) as usize;
        let floor = possible.saturating_sub(self.unavailable().max(1) as usize);
        let floor = if planted!(MinGivenUp) {
            floor
        } else {
            floor.max(least)
        };
        let new = roles.staying.iter();
        let new = new.filter(|index| self.is_available(&self.units[**index]));
        let new = new.count();
        let mut old = roles.passing;
        old.retain(|index| self.units[*index].is_surely_ready());
        let mut spare = (new + old.len()).saturating_sub(floor);
        if spare == 0 && !old.is_empty() && new + old.len() <= least {
            self.tell_of_min(least);
        }
        self.order_by_crowd(&mut old);
        for index in old {
            if spare > 0 && self.has_successor(index) {
                let why = self.why_passing(index);
                self.stop(index, &why, true);
                spare -= 1;
            }
        }
    }

    fn tell_of_min(&mut self, least: usize) {
        if let Some(waiting) = &mut self.waiting {
            let why = format!("; no old unit makes way, for `replicas.min` is {least}");
            waiting.detail.push_str(&why);
        }
    }
}

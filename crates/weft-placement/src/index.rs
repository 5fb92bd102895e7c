//! The capacity index: for each class the candidates in the order of their score, looked at again
//! only where something changed.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::Spread;

use crate::explain::{Explanation, Room, consider};
use crate::filter::{closed, refuse, unsuitable};
use crate::free::{Free, Taken};
use crate::score::{Neighbours, total};
use crate::{Availability, Candidate, CandidateId, Request};

/// A class of equal requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ClassId(pub u32);

/// A candidate with what is free of it and what each class has reserved there.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) candidate: Candidate,
    pub(crate) free: Free,
    reserved: BTreeMap<ClassId, (u32, Taken)>,
    /// It came back smaller than what is reserved: what is free has to be counted anew each time.
    is_overcommitted: bool,
}

/// Equal requests, and the candidates that have room for one more of them in order.
struct Class {
    request: Request,
    /// By score, then by the candidate's key.
    order: BTreeSet<(i64, Box<str>, CandidateId)>,
    /// Where each candidate stands in `order`.
    scores: BTreeMap<CandidateId, i64>,
    /// Candidates to look at again.
    changed: Vec<CandidateId>,
    /// All of them are to be looked at again: a class that is not asked for keeps no long list.
    all_changed: bool,
    /// Units reserved in each zone, for `spread: zone`.
    zones: BTreeMap<String, u32>,
}

#[cfg(test)]
mod tests;

/// Candidates, reservations and the order of choice.
#[derive(Default)]
pub struct Index {
    slots: BTreeMap<CandidateId, Slot>,
    classes: Vec<Class>,
    known: BTreeMap<Request, ClassId>,
}

impl Index {
    /// Without candidates.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a candidate, or changes what is known of it; its reservations stay.
    pub fn upsert(&mut self, id: CandidateId, candidate: Candidate) {
        let reserved = self
            .forget(id)
            .map(|slot| slot.reserved)
            .unwrap_or_default();
        let mut slot = Slot {
            candidate,
            free: Free::default(),
            reserved,
            is_overcommitted: false,
        };
        self.count_free(&mut slot);
        self.slots.insert(id, slot);
        self.touch(id);
    }

    /// Counts what is free from what is reserved.
    fn count_free(&self, slot: &mut Slot) {
        slot.free = Free::all_of(&slot.candidate.capacity);
        slot.is_overcommitted = false;
        for (class, (units, taken)) in &mut slot.reserved {
            let request = &self.classes[class.0 as usize].request;
            match slot.free.take(&request.resources, *units) {
                Some(fresh) => *taken = fresh,
                None => {
                    slot.is_overcommitted = true;
                    slot.free = exhausted(&slot.free, request, *units);
                }
            }
        }
    }

    /// Removes a candidate with its reservations.
    pub fn remove(&mut self, id: CandidateId) {
        if let Some(slot) = self.forget(id) {
            for (class, (units, _)) in slot.reserved {
                let zone = slot.candidate.zone().to_owned();
                self.count_zone(class, &zone, -i64::from(units));
            }
        }
    }

    fn forget(&mut self, id: CandidateId) -> Option<Slot> {
        let slot = self.slots.remove(&id)?;
        for class in &mut self.classes {
            if let Some(score) = class.scores.remove(&id) {
                class.order.remove(&(score, slot.candidate.key.clone(), id));
            }
        }
        Some(slot)
    }

    /// Opens or closes a candidate for new work.
    pub fn set_availability(&mut self, id: CandidateId, availability: Availability) {
        if let Some(slot) = self.slots.get_mut(&id)
            && slot.candidate.state != availability
        {
            slot.candidate.state = availability;
            self.touch(id);
        }
    }

    /// The class of a request; equal requests have the same.
    pub fn class(&mut self, request: &Request) -> ClassId {
        if let Some(class) = self.known.get(request) {
            return *class;
        }
        let id = ClassId(self.classes.len() as u32);
        let class = Class {
            request: request.clone(),
            order: BTreeSet::new(),
            scores: BTreeMap::new(),
            changed: Vec::new(),
            all_changed: true,
            zones: BTreeMap::new(),
        };
        self.classes.push(class);
        self.known.insert(request.clone(), id);
        id
    }

    /// The request of a class.
    pub fn request(&self, class: ClassId) -> &Request {
        &self.classes[class.0 as usize].request
    }

    /// A candidate.
    pub fn candidate(&self, id: CandidateId) -> Option<&Candidate> {
        self.slots.get(&id).map(|slot| &slot.candidate)
    }

    /// What of a candidate is not reserved.
    pub fn free(&self, id: CandidateId) -> Option<&Free> {
        self.slots.get(&id).map(|slot| &slot.free)
    }

    /// The best candidate with room for one more unit.
    pub fn choose(&mut self, class: ClassId) -> Option<CandidateId> {
        self.refresh(class);
        self.classes[class.0 as usize]
            .order
            .first()
            .map(|(_, _, id)| *id)
    }

    /// Looks again at the candidates of a class that changed.
    fn refresh(&mut self, class_id: ClassId) {
        let class = &mut self.classes[class_id.0 as usize];
        let mut changed = std::mem::take(&mut class.changed);
        if std::mem::take(&mut class.all_changed) {
            changed = self.slots.keys().copied().collect();
        }
        for id in &changed {
            let Some(slot) = self.slots.get(id) else {
                continue;
            };
            let class = &self.classes[class_id.0 as usize];
            let score = refuse(&class.request, &slot.candidate, &slot.free)
                .is_none()
                .then(|| {
                    total(
                        &class.request,
                        &slot.candidate,
                        &slot.free,
                        self.neighbours(class_id, slot),
                    )
                });
            let key = slot.candidate.key.clone();
            let class = &mut self.classes[class_id.0 as usize];
            let old = match score {
                Some(score) => class.scores.insert(*id, score),
                None => class.scores.remove(id),
            };
            if old == score {
                continue;
            }
            if let Some(old) = old {
                class.order.remove(&(old, key.clone(), *id));
            }
            if let Some(score) = score {
                class.order.insert((score, key, *id));
            }
        }
        // The memory of the list is kept for the next changes.
        let class = &mut self.classes[class_id.0 as usize];
        class.changed = changed;
        class.changed.clear();
    }

    pub(crate) fn neighbours(&self, class: ClassId, slot: &Slot) -> Neighbours {
        let on_node = slot.reserved.get(&class).map_or(0, |(units, _)| *units);
        let zones = &self.classes[class.0 as usize].zones;
        Neighbours {
            on_node,
            in_zone: zones.get(slot.candidate.zone()).copied().unwrap_or(0),
        }
    }

    /// Reserves units; `false` and no change when they do not fit.
    pub fn reserve(&mut self, id: CandidateId, class: ClassId, units: u32) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else {
            return false;
        };
        let request = &self.classes[class.0 as usize].request;
        let Some(taken) = slot.free.take(&request.resources, units) else {
            return false;
        };
        let (held, all_taken) = slot.reserved.entry(class).or_default();
        *held += units;
        all_taken.add(taken);
        let zone = slot.candidate.zone().to_owned();
        self.touch(id);
        self.count_zone(class, &zone, i64::from(units));
        true
    }

    /// Gives reserved units back; more than were reserved are not.
    pub fn release(&mut self, id: CandidateId, class: ClassId, units: u32) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        let Some((held, taken)) = slot.reserved.get_mut(&class) else {
            return;
        };
        let units = units.min(*held);
        *held -= units;
        slot.free.give(
            &self.classes[class.0 as usize].request.resources,
            units,
            taken,
        );
        if *held == 0 {
            slot.reserved.remove(&class);
        }
        let zone = slot.candidate.zone().to_owned();
        if slot.is_overcommitted
            && let Some(mut slot) = self.slots.remove(&id)
        {
            self.count_free(&mut slot);
            self.slots.insert(id, slot);
        }
        self.touch(id);
        self.count_zone(class, &zone, -i64::from(units));
    }

    /// How many more units fit now; 0 when a filter refuses.
    pub fn fits(&self, id: CandidateId, class: ClassId) -> u32 {
        let Some(slot) = self.slots.get(&id) else {
            return 0;
        };
        let request = &self.classes[class.0 as usize].request;
        if unsuitable(request, &slot.candidate).is_some() || closed(&slot.candidate).is_some() {
            return 0;
        }
        slot.free.fits(&request.resources)
    }

    /// How many units would fit if nothing were reserved; 0 when a filter refuses.
    pub fn slots(&self, id: CandidateId, class: ClassId) -> u32 {
        let Some(slot) = self.slots.get(&id) else {
            return 0;
        };
        let request = &self.classes[class.0 as usize].request;
        if unsuitable(request, &slot.candidate).is_some() || closed(&slot.candidate).is_some() {
            return 0;
        }
        Free::all_of(&slot.candidate.capacity).fits(&request.resources)
    }

    /// How a unit of a class would be placed now, with every candidate that was considered.
    pub fn explain(&self, class: ClassId) -> Explanation {
        let request = &self.classes[class.0 as usize].request;
        consider(
            request,
            self.slots
                .iter()
                .map(|(id, slot)| slot.room(*id, self.neighbours(class, slot))),
        )
    }

    /// The same for a request that need not have a class.
    pub fn explain_request(&self, request: &Request) -> Explanation {
        match self.known.get(request) {
            Some(class) => self.explain(*class),
            None => consider(
                request,
                self.slots
                    .iter()
                    .map(|(id, slot)| slot.room(*id, Neighbours::default())),
            ),
        }
    }

    /// Every class has to look at this candidate again.
    fn touch(&mut self, id: CandidateId) {
        let limit = self.slots.len();
        for class in &mut self.classes {
            // Changes come in bursts for the same candidate.
            if !class.all_changed && class.changed.last() != Some(&id) {
                class.note(id, limit);
            }
        }
    }

    fn count_zone(&mut self, class_id: ClassId, zone: &str, units: i64) {
        let class = &mut self.classes[class_id.0 as usize];
        if class.request.placement.spread != Some(Spread::Zone) {
            return;
        }
        let count = class.zones.entry(zone.to_owned()).or_default();
        *count = u32::try_from(i64::from(*count) + units).unwrap_or(0);
        for (id, slot) in &self.slots {
            if slot.candidate.zone() == zone {
                class.note(*id, self.slots.len());
            }
        }
    }
}

impl Slot {
    fn room(&self, id: CandidateId, neighbours: Neighbours) -> Room<'_> {
        Room {
            id,
            candidate: &self.candidate,
            free: &self.free,
            on_node: neighbours.on_node,
            in_zone: neighbours.in_zone,
        }
    }
}

impl Class {
    /// Notes a candidate to look at again; past `limit` of them it is simpler to look at all.
    fn note(&mut self, id: CandidateId, limit: usize) {
        self.changed.push(id);
        if self.changed.len() > limit {
            self.changed.clear();
            self.all_changed = true;
        }
    }
}

/// What is free of a candidate that holds more than it has.
fn exhausted(free: &Free, request: &Request, units: u32) -> Free {
    let many = u64::from(units);
    let need = &request.resources;
    let mut free = free.clone();
    free.cpu.0 = free.cpu.0.saturating_sub(need.cpu.0.saturating_mul(many));
    free.memory.0 = free
        .memory
        .0
        .saturating_sub(need.memory.0.saturating_mul(many));
    free.disk.0 = free.disk.0.saturating_sub(need.disk.0.saturating_mul(many));
    free
}

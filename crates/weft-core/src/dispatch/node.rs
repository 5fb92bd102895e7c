//! Nodes, and what each of them holds.

use std::collections::BTreeMap;

use weft_placement::{Availability, CandidateId, ClassId, ClosedReason, Index};
use weft_types::NodeId;

use crate::Epoch;
use crate::breaker::{self, Breaker};

use super::table::MAX_NODES;
use super::vocabulary::{NodeLoad, TaskRun};

/// What a node holds of one class.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassLoad {
    pub(super) class: ClassId,
    pub(super) held: u32,
    /// Units reserved in the index; never more than held.
    pub(super) reserved: u32,
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// Its session; `None` while it is down.
    pub(super) epoch: Option<Epoch>,
    /// Whether it takes work, apart from its breaker.
    pub(super) availability: Availability,
    pub(super) breaker: Breaker,
    /// The class of nodes it belongs to.
    pub(super) substrate: u16,
    pub(super) max_held: u32,
    pub(super) held: u32,
    pub(super) loads: Vec<ClassLoad>,
    /// How many tasks of which job (its slot) it holds.
    pub(super) jobs: BTreeMap<u32, u32>,
    /// Reports of it that are being written.
    pub(super) recording: u32,
    /// Work to send at the end of the round.
    pub(super) outbox: Vec<TaskRun>,
    pub(super) removed: bool,
}

impl Node {
    fn new(id: NodeId, breaker: breaker::Config) -> Self {
        Self {
            id,
            epoch: None,
            availability: Availability::Closed(ClosedReason::Offline),
            breaker: Breaker::new(breaker),
            substrate: 0,
            max_held: 0,
            held: 0,
            loads: Vec::new(),
            jobs: BTreeMap::new(),
            recording: 0,
            outbox: Vec::new(),
            removed: false,
        }
    }

    pub(super) fn reserved(&self) -> u32 {
        self.loads.iter().map(|load| load.reserved).sum()
    }

    /// How many more tasks it will hold.
    pub(super) fn room(&self) -> u32 {
        self.max_held.saturating_sub(self.held)
    }

    pub(super) fn load(&self) -> NodeLoad {
        NodeLoad {
            held: self.held,
            reserved: self.reserved(),
            max_held: self.max_held,
            breaker: self.breaker.state(),
            epoch: self.epoch,
        }
    }

    pub(super) fn load_of(&mut self, class: ClassId) -> &mut ClassLoad {
        let found = self.loads.iter().position(|load| load.class == class);
        let position = found.unwrap_or_else(|| {
            self.loads.push(ClassLoad {
                class,
                held: 0,
                reserved: 0,
            });
            self.loads.len() - 1
        });
        &mut self.loads[position]
    }

    /// Takes `tasks` of a job in; `reserved` of them have been reserved in the index.
    pub(super) fn hold(&mut self, job: u32, class: ClassId, tasks: u32, reserved: u32) {
        self.held += tasks;
        *self.jobs.entry(job).or_default() += tasks;
        let load = self.load_of(class);
        load.held += tasks;
        load.reserved += reserved;
    }

    /// Lets go of one task of a job. Its reservation passes to a prefetched task of the same
    /// class, or else is released and offered to prefetched tasks of others.
    pub(super) fn let_go(&mut self, slot: u16, job: u32, class: ClassId, index: &mut Index) {
        self.held -= 1;
        if let Some(count) = self.jobs.get_mut(&job) {
            *count -= 1;
            if *count == 0 {
                self.jobs.remove(&job);
            }
        }
        let load = self.load_of(class);
        load.held -= 1;
        if load.reserved <= load.held {
            return;
        }
        load.reserved -= 1;
        if load.held == 0 {
            self.loads.retain(|load| load.held > 0);
        }
        if !planted!(ReservationLeaked) {
            index.release(candidate(slot), class, 1);
        }
        if self.held > 0 {
            self.promote(slot, index);
        }
    }

    /// Reserves for prefetched tasks what is free.
    pub(super) fn promote(&mut self, slot: u16, index: &mut Index) {
        for load in &mut self.loads {
            while load.reserved < load.held && index.reserve(candidate(slot), load.class, 1) {
                load.reserved += 1;
            }
        }
    }

    /// Releases everything: the node holds nothing any more.
    pub(super) fn clear(&mut self, slot: u16, index: &mut Index) {
        for load in self.loads.drain(..) {
            if load.reserved > 0 {
                index.release(candidate(slot), load.class, load.reserved);
            }
        }
        self.held = 0;
        self.jobs.clear();
        self.outbox.clear();
    }

    /// Whether it takes work, its own breaker considered; [`super::Machine::effective`] considers
    /// that of its substrate as well.
    pub(super) fn effective(&self) -> Availability {
        match (self.availability, self.breaker.state()) {
            (Availability::Open, breaker::State::Open) => {
                Availability::Closed(ClosedReason::BreakerOpen)
            }
            // The probe is out: nothing more until it is back.
            (Availability::Open, breaker::State::HalfOpen) if self.held > 0 => {
                Availability::Closed(ClosedReason::BreakerOpen)
            }
            (availability, _) => availability,
        }
    }
}

/// The candidate of a node's slot.
pub(super) fn candidate(slot: u16) -> CandidateId {
    CandidateId(u32::from(slot))
}

/// All nodes, in slots.
#[derive(Default)]
pub(super) struct Nodes {
    slots: Vec<Node>,
    by_id: BTreeMap<NodeId, u16>,
}

impl Nodes {
    /// The slot of a node, made when it is new; `None` when there are as many nodes as there can
    /// be.
    pub(super) fn intern(&mut self, id: &NodeId, breaker: breaker::Config) -> Option<u16> {
        if let Some(&slot) = self.by_id.get(id) {
            self.slots[usize::from(slot)].removed = false;
            return Some(slot);
        }
        let fresh = Node::new(id.clone(), breaker);
        let slot = if self.slots.len() < MAX_NODES {
            self.slots.push(fresh);
            self.slots.len() - 1
        } else {
            let vacant = |node: &Node| node.removed && node.held == 0 && node.recording == 0;
            let slot = self.slots.iter().position(vacant)?;
            self.by_id.remove(&self.slots[slot].id);
            self.slots[slot] = fresh;
            slot
        };
        self.by_id.insert(id.clone(), slot as u16);
        Some(slot as u16)
    }

    pub(super) fn slot(&self, id: &NodeId) -> Option<u16> {
        self.by_id.get(id).copied()
    }

    /// The slot of a node that is up under this epoch.
    pub(super) fn current(&self, id: &NodeId, epoch: Epoch) -> Option<u16> {
        let slot = self.slot(id)?;
        (self.get(slot)?.epoch == Some(epoch)).then_some(slot)
    }

    pub(super) fn get(&self, slot: u16) -> Option<&Node> {
        self.slots.get(usize::from(slot))
    }

    pub(super) fn get_mut(&mut self, slot: u16) -> Option<&mut Node> {
        self.slots.get_mut(usize::from(slot))
    }

    pub(super) fn id(&self, slot: u16) -> Option<&NodeId> {
        self.get(slot).map(|node| &node.id)
    }

    pub(super) fn len(&self) -> u16 {
        self.slots.len() as u16
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &Node)> {
        self.slots
            .iter()
            .enumerate()
            .map(|(slot, node)| (slot as u16, node))
    }

    /// How many are up.
    pub(super) fn up(&self) -> usize {
        self.slots
            .iter()
            .filter(|node| node.epoch.is_some())
            .count()
    }
}

//! What units of services reserve on nodes: the dispatcher hands out that much less.
//!
//! The machine is told a smaller capacity; what it makes of that is its own rule for nodes that
//! shrink: tasks that are there go on, further ones wait.

use std::collections::BTreeMap;

use weft_placement::{Availability, Candidate, Free};
use weft_types::{Bytes, GpuRequest, Millicores, NodeCapacity, NodeId, Resources};

/// Nodes as they are without units, and what units reserve.
#[derive(Default)]
pub(super) struct Reserved {
    nodes: BTreeMap<NodeId, Candidate>,
    units: BTreeMap<NodeId, Resources>,
}

impl Reserved {
    /// A node opened a session: what is left of it for tasks.
    pub(super) fn up(&mut self, node: &NodeId, candidate: Candidate) -> Candidate {
        let left = self.left_of(node, &candidate);
        self.nodes.insert(node.clone(), candidate);
        left
    }

    /// A node has another capacity: what is left of it for tasks, when that is news.
    pub(super) fn offers(&mut self, node: &NodeId, capacity: NodeCapacity) -> Option<Candidate> {
        let known = self.nodes.get_mut(node)?;
        if known.capacity == capacity {
            return None;
        }
        known.capacity = capacity;
        let known = known.clone();
        Some(self.left_of(node, &known))
    }

    /// A node takes work or does not.
    pub(super) fn availability(&mut self, node: &NodeId, availability: Availability) {
        if let Some(candidate) = self.nodes.get_mut(node) {
            candidate.state = availability;
        }
    }

    /// Units reserve this much; what is left for tasks when that is news to a known node.
    pub(super) fn set_units(&mut self, node: NodeId, reserve: Resources) -> Option<Candidate> {
        let known = self.nodes.get(&node).cloned();
        self.units.insert(node.clone(), reserve);
        known.map(|candidate| self.left_of(&node, &candidate))
    }

    /// A node is gone for good.
    pub(super) fn removed(&mut self, node: &NodeId) {
        self.nodes.remove(node);
        self.units.remove(node);
    }

    /// The nodes that have had a session.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    fn left_of(&self, node: &NodeId, candidate: &Candidate) -> Candidate {
        let mut left = candidate.clone();
        if let Some(units) = self.units.get(node) {
            let capacity = &mut left.capacity;
            capacity.cpu = Millicores(capacity.cpu.0.saturating_sub(units.cpu.0));
            capacity.memory = Bytes(capacity.memory.0.saturating_sub(units.memory.0));
            capacity.disk = Bytes(capacity.disk.0.saturating_sub(units.disk.0));
            let gpus = units.gpu.as_ref().map_or(0, |gpu| gpu.count as usize);
            let rest = capacity.gpus.len().saturating_sub(gpus);
            capacity.gpus.truncate(rest);
        }
        left
    }
}

/// What is reserved of a capacity of which this is free.
pub(super) fn difference(capacity: &NodeCapacity, free: &Free) -> Resources {
    let of_gpus: u32 = free.gpus.iter().map(|(_, count)| *count).sum();
    let gpus = u32::try_from(capacity.gpus.len()).unwrap_or(u32::MAX);
    let taken = gpus.saturating_sub(of_gpus);
    Resources {
        cpu: Millicores(capacity.cpu.0.saturating_sub(free.cpu.0)),
        memory: Bytes(capacity.memory.0.saturating_sub(free.memory.0)),
        disk: Bytes(capacity.disk.0.saturating_sub(free.disk.0)),
        gpu: (taken > 0).then_some(GpuRequest {
            count: taken,
            model: None,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(cpu: u64) -> Resources {
        Resources {
            cpu: Millicores(cpu),
            ..Resources::default()
        }
    }

    #[test]
    fn another_offer_is_told_once_and_less_what_units_reserve() -> Result<(), String> {
        let node: NodeId = "n".parse()?;
        let capacity = |cpu| NodeCapacity {
            cpu: Millicores(cpu),
            ..NodeCapacity::default()
        };
        let mut reserved = Reserved::default();
        assert_eq!(reserved.offers(&node, capacity(1)), None, "nobody knows it");
        reserved.up(&node, Candidate::default());
        reserved.set_units(node.clone(), reserve(1_500));
        let left = reserved.offers(&node, capacity(4_000));
        assert_eq!(left.map(|left| left.capacity.cpu), Some(Millicores(2_500)));
        assert_eq!(reserved.offers(&node, capacity(4_000)), None);
        Ok(())
    }

    #[test]
    fn tasks_get_what_units_leave() -> Result<(), String> {
        let node: NodeId = "n".parse()?;
        let mut candidate = Candidate::default();
        candidate.capacity.cpu = Millicores(4_000);
        let mut reserved = Reserved::default();
        // Units are known before their node comes back.
        assert_eq!(reserved.set_units(node.clone(), reserve(1_500)), None);
        let left = reserved.up(&node, candidate);
        assert_eq!(left.capacity.cpu, Millicores(2_500));
        let left = reserved.set_units(node.clone(), reserve(9_000));
        assert_eq!(left.map(|left| left.capacity.cpu), Some(Millicores(0)));
        let left = reserved.set_units(node, reserve(0));
        assert_eq!(left.map(|left| left.capacity.cpu), Some(Millicores(4_000)));
        Ok(())
    }
}

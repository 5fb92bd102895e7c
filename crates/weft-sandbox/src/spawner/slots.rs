//! Task slots: what is dear to make and safe to use again — a control group, a uid with its user namespace, a network
//! namespace.

use crate::Limits;
use crate::cgroup::{Group, Hierarchy};
use crate::failure::At;
use crate::namespaces::SlotNamespaces;
use crate::{SpawnFailure, Stage};

/// Idle slots kept ready.
const MAX_IDLE: usize = 64;

/// As whom sandboxed tasks run on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostIds {
    /// Each slot has its own, from this one on.
    PerSlot(u32),
    /// All as this one, because the agent's own user namespace has no more.
    Shared(u32),
    /// As the agent itself, which is not root.
    Agent,
}

impl HostIds {
    /// What the agent's user namespace allows, preferring `base` and the `count - 1` ids after it.
    pub(crate) fn choose(base: u32, count: u32) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Agent;
        }
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self::of_map(&map, base, count)
    }

    fn of_map(map: &str, base: u32, count: u32) -> Self {
        const NOBODY: u32 = 65_534;
        let covers = |first: u32, count: u32| {
            map.lines().any(|line| {
                let fields: Vec<u64> = line
                    .split_whitespace()
                    .filter_map(|field| field.parse().ok())
                    .collect();
                let [inside, _, length] = fields[..] else {
                    return false;
                };
                inside <= u64::from(first) && u64::from(first) + u64::from(count) <= inside + length
            })
        };
        match (covers(base, count), covers(NOBODY, 1)) {
            (true, _) => Self::PerSlot(base),
            (false, true) => Self::Shared(NOBODY),
            (false, false) => Self::Agent,
        }
    }

    /// The uid and gid of a slot; `None` is the agent's own.
    pub(crate) fn of_slot(self, index: u32) -> Option<u32> {
        match self {
            Self::PerSlot(base) => Some(base.saturating_add(index)),
            Self::Shared(id) => Some(id),
            Self::Agent => None,
        }
    }
}

/// One slot.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) index: u32,
    pub(crate) group: Option<Group>,
    pub(crate) namespaces: Option<SlotNamespaces>,
    /// Kills for memory counted before the current task.
    oom_kills_before: u64,
}

impl Slot {
    /// Whether the kernel killed for memory during the current task, and the peak.
    pub(crate) fn memory_outcome(&mut self) -> (bool, Option<u64>) {
        let Some(group) = &self.group else {
            return (false, None);
        };
        let counted = group.counted();
        let killed = counted.oom_kills > self.oom_kills_before;
        self.oom_kills_before = self.oom_kills_before.max(counted.oom_kills);
        (killed, counted.peak_bytes)
    }
}

/// All slots that are not taken.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) hierarchy: Hierarchy,
    ids: HostIds,
    idle: Vec<Slot>,
    /// Slots whose control group still has a dying process in it.
    draining: Vec<Slot>,
    free: Vec<u32>,
    next: u32,
}

impl Slots {
    pub(crate) fn new(hierarchy: Hierarchy, ids: HostIds) -> Self {
        Self {
            hierarchy,
            ids,
            idle: Vec::new(),
            draining: Vec::new(),
            free: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn ids(&self) -> HostIds {
        self.ids
    }

    /// Takes a slot with a control group for `limits` and, if `confined`, namespaces.
    ///
    /// # Errors
    /// When these cannot be made or set.
    pub(crate) fn take(&mut self, limits: &Limits, confined: bool) -> Result<Slot, SpawnFailure> {
        let mut slot = self.idle.pop().unwrap_or_else(|| self.fresh());
        match self.fit(&mut slot, limits, confined) {
            Ok(()) => Ok(slot),
            Err(failure) => {
                self.give_back(slot);
                Err(failure)
            }
        }
    }

    fn fresh(&mut self) -> Slot {
        let index = self.free.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        Slot {
            index,
            group: None,
            namespaces: None,
            oom_kills_before: 0,
        }
    }

    fn fit(&self, slot: &mut Slot, limits: &Limits, confined: bool) -> Result<(), SpawnFailure> {
        if slot.group.is_none() {
            slot.group = self.hierarchy.create(slot.index).at(Stage::Cgroup)?;
        }
        if let Some(group) = &mut slot.group {
            group.prepare(limits).at(Stage::Cgroup)?;
        }
        if let (true, None, Some(id)) = (confined, &slot.namespaces, self.ids.of_slot(slot.index)) {
            slot.namespaces = Some(SlotNamespaces::create(id).at(Stage::Identity)?);
        }
        Ok(())
    }

    /// Gives a slot back, killing what is left in it.
    pub(crate) fn give_back(&mut self, mut slot: Slot) {
        if slot.group.as_mut().is_none_or(Group::kill) {
            self.recycle(slot);
        } else {
            self.draining.push(slot);
        }
    }

    fn recycle(&mut self, slot: Slot) {
        if self.idle.len() < MAX_IDLE {
            return self.idle.push(slot);
        }
        self.free.push(slot.index);
        if let Some(group) = slot.group {
            group.remove();
        }
    }

    /// Recycles the slots that have become empty meanwhile.
    pub(crate) fn drain(&mut self) {
        for slot in std::mem::take(&mut self.draining) {
            self.give_back(slot);
        }
    }

    /// Whether a slot still waits to become empty.
    pub(crate) fn is_draining(&self) -> bool {
        !self.draining.is_empty()
    }

    /// Removes everything. Whatever is left in a group is dead by now.
    pub(crate) fn remove(&mut self) {
        for group in self
            .idle
            .drain(..)
            .chain(self.draining.drain(..))
            .filter_map(|slot| slot.group)
        {
            group.remove();
        }
        self.hierarchy.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_outside_of_the_agents_user_namespace_are_not_used() {
        let whole = "         0          0 4294967295\n";
        assert_eq!(
            HostIds::of_map(whole, 1_879_048_192, 4_096),
            HostIds::PerSlot(1_879_048_192)
        );
        let container = "0 100000 65536\n";
        assert_eq!(
            HostIds::of_map(container, 1_879_048_192, 4_096),
            HostIds::Shared(65_534)
        );
        assert_eq!(
            HostIds::of_map("0 1000 1\n", 1_879_048_192, 4_096),
            HostIds::Agent
        );
    }
}

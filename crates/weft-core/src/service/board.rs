//! Nodes with what they have and what is reserved on them.

mod company;
mod place;
mod preempt;

use std::collections::{BTreeMap, BTreeSet};

use weft_placement::{Candidate, ClosedReason, Explanation, Free, NearestChange};
use weft_types::{Namespace, NodeId, Reason, Resources, UnitId, WorkloadId, WorkloadName};

use super::record::{Assignment, Intent};
use super::vocabulary::{Action, Plan};

/// Whether a node can be trusted with units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeHealth {
    /// It lives and takes new units, unless its candidate is closed for another reason.
    Usable,
    /// Somebody closed it for new units.
    Cordoned,
    /// Somebody is moving its units away.
    Draining,
    /// Its heartbeat is late: nothing new, nothing is moved.
    Suspect,
    /// Its lease ended: its units count as lost.
    ///
    /// A node counts its own lease from when it sent the heartbeat that was answered, the server
    /// counts from when it received it; so at this moment the node has already stopped its
    /// exclusive units, and it starts none before it has registered again. An exclusive unit is
    /// nevertheless assigned elsewhere only when its old assignment *was already* to stop in the
    /// records that were read before this health: a node that registers in between is told to
    /// stop it.
    LeaseLost {
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// Somebody removed it, but its lease may still run: it may act for up to one TTL.
    Removed,
    /// It is gone for good and cannot act any more.
    Gone,
}

impl NodeHealth {
    /// Whether what runs there counts as lost.
    pub fn is_lost(self) -> bool {
        matches!(self, Self::LeaseLost { .. } | Self::Removed | Self::Gone)
    }

    /// Whether it is certain that nothing exclusive runs there, or will again unless it is told to.
    pub fn is_fenced(self) -> bool {
        matches!(self, Self::LeaseLost { .. } | Self::Gone)
    }

    fn closed(self) -> Option<ClosedReason> {
        match self {
            Self::Usable => None,
            Self::Cordoned => Some(ClosedReason::Cordoned),
            Self::Draining => Some(ClosedReason::Draining),
            Self::Suspect => Some(ClosedReason::Suspect),
            Self::LeaseLost { .. } | Self::Removed | Self::Gone => Some(ClosedReason::Offline),
        }
    }
}

/// A unit as the board keeps it.
#[derive(Clone, PartialEq, Debug)]
pub struct BoundUnit {
    /// Where it is.
    pub node: NodeId,
    /// The name of its workload.
    pub name: Option<WorkloadName>,
    /// The namespace of its workload.
    pub namespace: Namespace,
    /// Workloads of the namespace that are not to come to its node.
    pub apart: Vec<WorkloadName>,
    /// What it reserves until it is gone.
    pub resources: Resources,
    /// The priority of its workload when it was made.
    pub priority: i32,
    /// Whether it is to run.
    pub intent: Intent,
    /// Whether nothing of it is left.
    pub gone: bool,
    /// Whether its place is kept nevertheless, for the unit that takes its volumes over.
    pub keeps_place: bool,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was told to stop, in milliseconds since the Unix epoch.
    pub stopping_ms: Option<u64>,
}

impl BoundUnit {
    /// Whether its place is kept from something of this priority once nothing of it is left.
    pub(super) fn keeps_place_against(&self, priority: i32) -> bool {
        self.keeps_place && self.priority >= priority
    }
}

/// Room that is being made for a waiting workload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Where.
    pub node: NodeId,
    /// How much.
    pub resources: Resources,
    /// Whoever has a greater priority may take it nevertheless.
    pub priority: i32,
}

/// A place for a unit.
#[derive(Clone, PartialEq, Debug)]
pub struct Placed {
    /// Where.
    pub node: NodeId,
    /// Every candidate with what was thought of it.
    pub explanation: Explanation,
}

/// No place for a unit.
#[derive(Clone, PartialEq, Debug)]
pub struct Refused {
    /// `insufficient-resources` when a node would do if it had more free, else `no-candidate`.
    pub reason: Reason,
    /// In a sentence.
    pub detail: String,
    /// Every candidate with what was thought of it.
    pub explanation: Explanation,
    /// What would help.
    pub nearest_change: Option<NearestChange>,
}

struct Node {
    candidate: Candidate,
    health: NodeHealth,
    tasks: Resources,
    free: Free,
}

/// Nodes with what they have, what assignments and tasks reserve there, and how they are.
///
/// Kept by the scheduler's shell, which feeds it from the store's watch and from liveness, and
/// applies its own plans to it once they are written. Ties are broken by names only: the order in
/// which nodes were added does not matter.
pub struct Board {
    nodes: BTreeMap<NodeId, Node>,
    units: BTreeMap<UnitId, BoundUnit>,
    by_node: BTreeMap<NodeId, BTreeSet<UnitId>>,
    claims: BTreeMap<WorkloadId, Claim>,
    is_settled: bool,
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// Without nodes.
    pub fn new() -> Self {
        Self {
            nodes: BTreeMap::new(),
            units: BTreeMap::new(),
            by_node: BTreeMap::new(),
            claims: BTreeMap::new(),
            is_settled: false,
        }
    }

    /// From now on a node that is not known is [`NodeHealth::Gone`]. To be called one lease TTL
    /// after this process began: until then a node that was removed just before may still act,
    /// and counts as [`NodeHealth::Removed`]. Every workload is to be planned again then.
    pub fn settle(&mut self) {
        self.is_settled = true;
    }

    /// Adds a node, or changes what is known of it; what is reserved stays. While it is
    /// [`NodeHealth::Usable`] the candidate's own state decides whether it takes something new.
    pub fn set_node(&mut self, node: NodeId, candidate: Candidate, health: NodeHealth) {
        let tasks = self
            .nodes
            .get(&node)
            .map_or_else(nothing, |known| known.tasks.clone());
        let free = Free::all_of(&candidate.capacity);
        let known = Node {
            candidate,
            health,
            tasks,
            free,
        };
        self.nodes.insert(node.clone(), known);
        self.recount(&node);
    }

    /// How a node is now. Unknown nodes stay unknown.
    pub fn set_health(&mut self, node: &NodeId, health: NodeHealth) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.health = health;
        }
    }

    /// A node is gone for good, and its lease is over. While its lease may still run, set it to
    /// [`NodeHealth::Removed`] instead.
    pub fn remove_node(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// How much the tasks of jobs have reserved on a node now.
    pub fn reserve_tasks(&mut self, node: &NodeId, resources: Resources) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.tasks = resources;
            self.recount(node);
        }
    }

    /// An assignment as it is in the store, and whether its status says that nothing of it is left.
    /// One whose volumes wait for the unit that takes them over keeps its place, except against
    /// greater priority.
    pub fn set_unit(&mut self, assignment: &Assignment, gone: bool) {
        let keeps_place = assignment.intent == Intent::Stop && assignment.keep_volumes;
        let unit = BoundUnit {
            node: assignment.node.clone(),
            name: assignment.spec.name.clone(),
            namespace: assignment.spec.namespace.clone(),
            apart: assignment.spec.placement.apart.clone(),
            resources: assignment.spec.demand(),
            priority: assignment.spec.priority,
            intent: assignment.intent,
            gone,
            keeps_place,
            created_ms: assignment.created_ms,
            stopping_ms: assignment.stopping_ms,
        };
        let node = unit.node.clone();
        if let Some(before) = self.units.insert(assignment.unit, unit)
            && before.node != node
        {
            self.unlist(assignment.unit, &before.node);
        }
        let here = self.by_node.entry(node.clone()).or_default();
        here.insert(assignment.unit);
        self.recount(&node);
    }

    /// An assignment is not in the store any more.
    pub fn remove_unit(&mut self, unit: UnitId) {
        if let Some(before) = self.units.remove(&unit) {
            self.unlist(unit, &before.node);
        }
    }

    /// Takes over what a plan of this workload changes, once it is written. The claim of an empty
    /// plan counts as well: call it after every plan.
    ///
    /// Whether room that it had claimed is free for others now: nothing in the store tells those
    /// who wait, so that they have to be planned again.
    #[must_use]
    pub fn apply(&mut self, workload: WorkloadId, plan: &Plan) -> bool {
        let before = match &plan.claim {
            Some(claim) => self.claims.insert(workload, claim.clone()),
            None => self.claims.remove(&workload),
        };
        for action in &plan.actions {
            match action {
                Action::Assign(assignment) => self.set_unit(assignment, false),
                Action::Stop(assignment) => {
                    let gone = self.units.get(&assignment.unit).is_some_and(|u| u.gone);
                    self.set_unit(assignment, gone);
                }
                Action::Forget { unit } => self.remove_unit(*unit),
                Action::Preempt { unit, .. } => {
                    if let Some(bound) = self.units.get_mut(unit) {
                        bound.intent = Intent::Stop;
                    }
                }
                Action::SetRollout(_)
                | Action::SetRetry(_)
                | Action::DeleteWorkload
                | Action::Event { .. } => {}
            }
        }
        before.is_some() && before != plan.claim
    }

    /// How a node is.
    pub fn health(&self, node: &NodeId) -> NodeHealth {
        match self.nodes.get(node) {
            Some(known) => known.health,
            None if self.is_settled => NodeHealth::Gone,
            None => NodeHealth::Removed,
        }
    }

    /// Every node in the order of names, with what of it is not reserved.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Candidate, NodeHealth, &Free)> {
        self.nodes
            .iter()
            .map(|(id, node)| (id, &node.candidate, node.health, &node.free))
    }

    /// Every unit.
    pub fn units(&self) -> impl Iterator<Item = (UnitId, &BoundUnit)> {
        self.units.iter().map(|(id, unit)| (*id, unit))
    }

    fn recount(&mut self, node: &NodeId) {
        let Some(known) = self.nodes.get(node) else {
            return;
        };
        let free = self.count_free(node, known, None);
        if let Some(known) = self.nodes.get_mut(node) {
            known.free = free;
        }
    }

    fn unlist(&mut self, unit: UnitId, node: &NodeId) {
        if let Some(here) = self.by_node.get_mut(node) {
            here.remove(&unit);
            if here.is_empty() {
                self.by_node.remove(node);
            }
        }
        self.recount(node);
    }
}

fn nothing() -> Resources {
    Resources {
        cpu: weft_types::Millicores(0),
        memory: weft_types::Bytes(0),
        disk: weft_types::Bytes(0),
        gpu: None,
    }
}

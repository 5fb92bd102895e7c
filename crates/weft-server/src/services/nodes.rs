//! Nodes as the scheduler of services sees them, fed from liveness and the dispatcher.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_core::service::{Board, NodeHealth, UnitRequest};
use weft_placement::{Availability, Candidate};
use weft_types::{Bytes, Millicores, NodeCapacity, NodeId, NodeState, Resources};

use super::cache::Tables;
use crate::state::Server;

/// Changes within this time are told to the dispatcher together.
const RESERVE_INTERVAL: Duration = Duration::from_millis(20);

/// What was told to a board, so that only changes are.
#[derive(Default)]
pub struct KnownNodes {
    nodes: BTreeMap<NodeId, Known>,
    /// Nodes that were removed, and when: until a lease's TTL later they may still act.
    removed: BTreeMap<NodeId, u64>,
}

struct Known {
    capacity: NodeCapacity,
    health: NodeHealth,
    tasks: Resources,
}

/// What of the nodes changed.
#[derive(Default)]
pub struct Changes {
    /// Nodes whose health is another, or that came or went.
    pub health: Vec<NodeId>,
    /// Whether any node has more or less to give.
    pub room: bool,
}

impl KnownNodes {
    /// Tells a board how nodes are now. `tasks` is what jobs reserve, where that is known.
    pub fn sync(
        &mut self,
        server: &Server,
        board: &mut Board,
        tasks: &BTreeMap<NodeId, Resources>,
        now_ms: u64,
    ) -> Changes {
        let mut changes = Changes::default();
        let members = server.nodes.all();
        for record in &members {
            let before = self.nodes.get(&record.id);
            let health = health(server, &record.id, before, now_ms);
            let reserved = tasks.get(&record.id).cloned();
            let reserved = reserved.or_else(|| before.map(|known| known.tasks.clone()));
            let reserved = reserved.unwrap_or_else(nothing);
            let same_node = before.is_some_and(|known| known.capacity == record.capacity);
            if !same_node || before.is_some_and(|known| known.health != health) {
                changes.health.push(record.id.clone());
                board.set_node(
                    record.id.clone(),
                    candidate(&record.id, &record.capacity),
                    health,
                );
            }
            if !same_node || before.is_some_and(|known| known.tasks != reserved) {
                changes.room = true;
                board.reserve_tasks(&record.id, reserved.clone());
            }
            self.removed.remove(&record.id);
            let known = Known {
                capacity: record.capacity.clone(),
                health,
                tasks: reserved,
            };
            self.nodes.insert(record.id.clone(), known);
        }
        self.remove_gone(server, board, now_ms, &mut changes);
        changes.room |= !changes.health.is_empty();
        changes
    }

    fn remove_gone(
        &mut self,
        server: &Server,
        board: &mut Board,
        now_ms: u64,
        changes: &mut Changes,
    ) {
        let gone: Vec<NodeId> = self
            .nodes
            .keys()
            .filter(|node| !server.nodes.is_member(node))
            .cloned()
            .collect();
        for node in gone {
            self.nodes.remove(&node);
            self.removed.entry(node.clone()).or_insert(now_ms);
            board.set_health(&node, NodeHealth::Removed);
            changes.health.push(node);
        }
        let ttl_ms = server.liveness.config().ttl_ms;
        self.removed.retain(|node, since_ms| {
            let may_act = now_ms.saturating_sub(*since_ms) < ttl_ms;
            if !may_act {
                board.remove_node(node);
                changes.health.push(node.clone());
            }
            may_act
        });
    }
}

fn health(server: &Server, node: &NodeId, before: Option<&Known>, now_ms: u64) -> NodeHealth {
    match server.liveness.state(node) {
        Some(NodeState::Healthy) => NodeHealth::Usable,
        Some(NodeState::Cordoned) => NodeHealth::Cordoned,
        Some(NodeState::Draining) => NodeHealth::Draining,
        Some(NodeState::Suspect) => NodeHealth::Suspect,
        // A node that joined and has never been heard of has no units either.
        None | Some(NodeState::Offline) => match before.map(|known| known.health) {
            Some(lost @ NodeHealth::LeaseLost { .. }) => lost,
            _ => NodeHealth::LeaseLost { since_ms: now_ms },
        },
    }
}

fn candidate(node: &NodeId, capacity: &NodeCapacity) -> Candidate {
    Candidate {
        key: node.as_str().into(),
        capacity: capacity.clone(),
        state: Availability::Open,
        price_per_hour: capacity.price_per_hour,
        ..Candidate::default()
    }
}

/// No resources at all.
pub fn nothing() -> Resources {
    Resources {
        cpu: Millicores(0),
        memory: Bytes(0),
        disk: Bytes(0),
        gpu: None,
    }
}

/// Tells the dispatcher what units reserve, until the server stops: it hands out that much less.
pub async fn keep_reserved(server: Arc<Server>) {
    let mut news = server.services.workloads.subscribe();
    let mut told: BTreeMap<NodeId, Resources> = BTreeMap::new();
    loop {
        news.mark_unchanged();
        let now = server.services.workloads.read(reserved);
        for node in told.keys().chain(now.keys()) {
            let amount = now.get(node);
            if told.get(node) != amount {
                let amount = amount.cloned().unwrap_or_else(nothing);
                server.dispatcher.units_reserve(node, amount);
            }
        }
        told = now;
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = server.stopping.cancelled() => return,
        }
        tokio::time::sleep(RESERVE_INTERVAL).await;
    }
}

/// What the units of each node reserve, until nothing of them is left.
fn reserved(tables: &Tables) -> BTreeMap<NodeId, Resources> {
    let mut by_node = BTreeMap::new();
    for kept in tables.assignments() {
        let assignment = &kept.value;
        if tables
            .status(assignment.unit)
            .is_some_and(|kept| kept.value.gone)
        {
            continue;
        }
        let request = UnitRequest::new(assignment.unit.workload, &assignment.spec);
        let need = request.need.resources;
        let sum = by_node
            .entry(assignment.node.clone())
            .or_insert_with(nothing);
        sum.cpu = Millicores(sum.cpu.0.saturating_add(need.cpu.0));
        sum.memory = Bytes(sum.memory.0.saturating_add(need.memory.0));
        sum.disk = Bytes(sum.disk.0.saturating_add(need.disk.0));
        if let Some(gpu) = need.gpu {
            let total = sum.gpu.get_or_insert(weft_types::GpuRequest {
                count: 0,
                model: None,
            });
            total.count = total.count.saturating_add(gpu.count);
        }
    }
    by_node
}

//! The model of one server process: the machines, and what a process keeps in memory.

use std::collections::BTreeMap;

use weft_core::dispatch::{self, Submission};
use weft_core::{Epoch, Monotonic, liveness};
use weft_placement::{Availability, Candidate, ClosedReason};
use weft_types::{Bytes, JobId, Millicores, NodeCapacity, NodeId, NodeState, RuntimeKind};

use crate::agent::Agent;

/// When the server last heard of a node.
#[derive(Clone, Copy, Debug)]
pub struct Heard {
    /// When.
    pub at_ms: u64,
    /// How long the server had stood still by then.
    pub absent_ms: u64,
}

/// A server process.
pub struct Server {
    /// Who gets which task.
    pub dispatch: dispatch::Machine,
    /// Who lives.
    pub liveness: liveness::Machine,
    /// The session of each node, by link.
    pub sessions: BTreeMap<NodeId, usize>,
    /// Jobs that are being written.
    pub submitting: BTreeMap<JobId, Submission>,
    /// Added to virtual time: clocks of two processes have nothing in common.
    pub base_ms: u64,
    /// Which start this is.
    pub boot: u64,
    /// It stands still until then.
    pub paused_until_ms: u64,
    /// How long it has stood still, counting only what is too long to be overlooked.
    pub absent_ms: u64,
    /// When each node was heard last.
    pub heard: BTreeMap<NodeId, Heard>,
    /// When its next tick is due.
    pub tick_ms: Option<u64>,
}

/// The bits of an epoch that count registrations within one start of the server.
const EPOCH_BITS: u32 = 32;

impl Server {
    /// A process that has just started.
    pub fn new(boot: u64, base_ms: u64, seed: u64) -> Self {
        let epoch_base: Epoch = boot << EPOCH_BITS;
        Self {
            dispatch: dispatch::Machine::new(config(), seed),
            liveness: liveness::Machine::new(liveness::Config::default(), epoch_base),
            sessions: BTreeMap::new(),
            submitting: BTreeMap::new(),
            base_ms,
            boot,
            paused_until_ms: 0,
            absent_ms: 0,
            heard: BTreeMap::new(),
            tick_ms: None,
        }
    }

    /// Its clock.
    pub fn clock(&self, now_ms: u64) -> Monotonic {
        Monotonic(self.base_ms + now_ms)
    }

    /// A node was heard.
    pub fn hear(&mut self, now_ms: u64, node: &NodeId) {
        let heard = Heard {
            at_ms: now_ms,
            absent_ms: self.absent_ms,
        };
        self.heard.insert(node.clone(), heard);
    }

    /// How long a node has been silent while the server listened.
    pub fn silent_ms(&self, now_ms: u64, node: &NodeId) -> u64 {
        self.heard.get(node).map_or(u64::MAX, |heard| {
            (now_ms - heard.at_ms).saturating_sub(self.absent_ms - heard.absent_ms)
        })
    }

    /// When either machine wants to be told the time, in virtual time.
    pub fn next_tick_ms(&self, now_ms: u64) -> Option<u64> {
        let now = self.clock(now_ms);
        let due = [self.dispatch.next_tick(), self.liveness.next_tick(now)];
        let due = due.into_iter().flatten().min()?;
        Some(due.0.saturating_sub(self.base_ms).max(now_ms + 1))
    }
}

/// Bounds that are reached within the short tasks and few nodes of a run.
fn config() -> dispatch::Config {
    dispatch::Config {
        speculate_every_ms: 50,
        speculate_floor_ms: 200,
        substrate_breaker: weft_core::breaker::Config {
            threshold: 6,
            cool_down_ms: 2_000,
            max_cool_down_ms: 10_000,
        },
        ..dispatch::Config::default()
    }
}

/// An agent's node, as the scheduler sees it.
pub fn candidate(agent: &Agent) -> Candidate {
    let unit = weft_types::Resources::for_op();
    let slots = agent.slots as u64;
    Candidate {
        key: agent.id.as_str().into(),
        provider: agent.provider.into(),
        capacity: NodeCapacity {
            cpu: Millicores(unit.cpu.0 * slots),
            memory: Bytes(64 << 30),
            disk: Bytes(64 << 30),
            runtimes: vec![RuntimeKind::Op],
            ..NodeCapacity::default()
        },
        ..Candidate::default()
    }
}

/// Whether a node in this state takes work.
pub fn availability(state: NodeState) -> Availability {
    match state {
        NodeState::Healthy => Availability::Open,
        NodeState::Suspect => Availability::Closed(ClosedReason::Suspect),
        NodeState::Offline => Availability::Closed(ClosedReason::Offline),
        NodeState::Cordoned => Availability::Closed(ClosedReason::Cordoned),
        NodeState::Draining => Availability::Closed(ClosedReason::Draining),
    }
}

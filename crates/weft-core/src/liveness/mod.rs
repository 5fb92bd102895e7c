//! Which nodes live: leases renewed by heartbeats, epochs that fence, cordon and drain.
//!
//! ```text
//!              heartbeat                  heartbeat
//!            ┌───────────┐      ┌────────────────────────┐
//!            ▼           │      ▼                        │
//!  register ▶ healthy ──2/3 TTL without one──▶ suspect ──TTL──▶ offline (lease lost)
//!                ▲                                                 │
//!                └────────── register, under a greater epoch ──────┘
//! ```
//!
//! Cordon and drain lie over this: a node that lives and is cordoned says `cordoned`.
//!
//! The lease is counted from when the server *received* a heartbeat, a node counts its own from
//! when it *sent* one that was answered; so a node always gives up first (Gray and Cheriton,
//! "Leases", SOSP 1989, section 2). A server that was away, or whose process stood still, has
//! heard nobody: it extends every lease by its own absence before it judges anyone.
//!
//! The machine deliberately knows nothing of tasks, sockets or the store. A node that
//! reconnects registers again; closing a session changes nothing here, silence does.

mod lease;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use weft_types::{NodeId, NodeState};

use crate::{Epoch, Monotonic};

use lease::{Lease, Mode, Pulse};

/// Times of the leases, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a node may act after its last heartbeat.
    pub ttl_ms: u64,
    /// How long without a heartbeat until it is suspect.
    pub suspect_after_ms: u64,
    /// A silence of the machine's own inputs longer than this means that the server stood still.
    /// The shell must tick at least this often.
    pub max_gap_ms: u64,
}

impl Config {
    /// A lease of this TTL: suspect after two thirds of it, ticks at least every quarter.
    pub fn with_ttl_ms(ttl_ms: u64) -> Self {
        Self {
            ttl_ms,
            suspect_after_ms: ttl_ms * 2 / 3,
            max_gap_ms: (ttl_ms / 4).max(1),
        }
    }

    /// How often a node sends a heartbeat.
    pub fn heartbeat_ms(&self) -> u64 {
        (self.ttl_ms / 3).max(1)
    }
}

impl Default for Config {
    /// A lease of three seconds.
    fn default() -> Self {
        Self::with_ttl_ms(3_000)
    }
}

/// Why a node's state changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It registered.
    Registered,
    /// A heartbeat came after it was suspect.
    HeardAgain,
    /// No heartbeat for a while.
    Silent,
    /// Its lease ended.
    LeaseExpired,
    /// Somebody cordoned, drained or reopened it.
    Operator,
}

impl Cause {
    /// One sentence a person can understand.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Registered => "it registered",
            Self::HeardAgain => "its heartbeats arrive again",
            Self::Silent => "its heartbeat is late",
            Self::LeaseExpired => "its lease ended without a heartbeat",
            Self::Operator => "somebody asked for it",
        }
    }
}

/// What happens to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A node of the store, after a restart of the server: it gets a full lease from now, under
    /// the epoch it had.
    Known {
        /// Which node.
        node: NodeId,
        /// The last epoch that was given to it, 0 for none.
        epoch: Epoch,
        /// Whether somebody had cordoned it.
        cordoned: bool,
        /// Whether somebody had drained it.
        draining: bool,
        /// Whether its lease had already ended.
        offline: bool,
    },
    /// A heartbeat, under the epoch of its session.
    Heartbeat {
        /// Which node.
        node: NodeId,
        /// The epoch it was given.
        epoch: Epoch,
    },
    /// Take no new work.
    Cordon {
        /// Which node.
        node: NodeId,
    },
    /// Take no new work, and let go of the work it has.
    Drain {
        /// Which node.
        node: NodeId,
    },
    /// Take work again.
    Reopen {
        /// Which node.
        node: NodeId,
    },
    /// It is gone for good; its lease ends now.
    Remove {
        /// Which node.
        node: NodeId,
    },
    /// The server was away for this long and heard nobody.
    Resumed {
        /// How long, in milliseconds.
        outage_ms: u64,
    },
    /// Time has passed.
    Tick,
}

/// What the shell is to carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A node's state is another now.
    StateChanged {
        /// Which node.
        node: NodeId,
        /// What it was; `None` when it is new.
        from: Option<NodeState>,
        /// What it is.
        to: NodeState,
        /// Why.
        cause: Cause,
    },
    /// A node may not act any more: its work goes elsewhere.
    LeaseLost {
        /// Which node.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Something came under a stale epoch, or for an unknown node; it was ignored, and its
    /// session should end.
    Fenced {
        /// Which node.
        node: NodeId,
        /// The epoch it came under.
        epoch: Epoch,
        /// The current one, `None` when the node is unknown.
        current: Option<Epoch>,
    },
}

/// The leases of all nodes.
pub struct Machine {
    config: Config,
    nodes: BTreeMap<NodeId, Lease>,
    /// When to look at which node next; at most one entry a node. A heartbeat does not touch it:
    /// whoever is due too early is put back.
    due: BinaryHeap<Reverse<(Monotonic, NodeId)>>,
    next_epoch: Epoch,
    last_input: Option<Monotonic>,
}

impl Machine {
    /// No nodes yet.
    ///
    /// Every epoch that it gives is greater than `epoch_base`. A server that persists a counter
    /// of its starts and passes `starts << 32` needs no write per registration.
    pub fn new(config: Config, epoch_base: Epoch) -> Self {
        Self {
            config,
            nodes: BTreeMap::new(),
            due: BinaryHeap::new(),
            next_epoch: epoch_base + 1,
            last_input: None,
        }
    }

    /// The times it was made with.
    pub fn config(&self) -> Config {
        self.config
    }

    /// A node opened a session: it gets a lease and an epoch greater than any before. Cordon and
    /// drain stay.
    pub fn register(&mut self, now: Monotonic, node: &NodeId, out: &mut Vec<Output>) -> Epoch {
        self.notice_gap(now);
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        match self.nodes.get_mut(node) {
            Some(lease) => {
                let from = lease.state();
                lease.epoch = epoch;
                lease.renewed = now;
                lease.pulse = Pulse::Live;
                announce(node, Some(from), lease.state(), Cause::Registered, out);
            }
            None => {
                let lease = Lease::new(now, epoch);
                announce(node, None, lease.state(), Cause::Registered, out);
                self.nodes.insert(node.clone(), lease);
            }
        }
        self.watch(node);
        epoch
    }

    /// Takes one input in.
    pub fn step(&mut self, now: Monotonic, input: Input, out: &mut Vec<Output>) {
        self.notice_gap(now);
        match input {
            Input::Known {
                node,
                epoch,
                cordoned,
                draining,
                offline,
            } => {
                self.next_epoch = self.next_epoch.max(epoch + 1);
                let mut lease = Lease::new(now, epoch);
                lease.mode = Mode::from_flags(cordoned, draining);
                if offline {
                    lease.pulse = Pulse::Lost;
                }
                self.nodes.insert(node.clone(), lease);
                self.watch(&node);
            }
            Input::Heartbeat { node, epoch } => self.on_heartbeat(now, node, epoch, out),
            Input::Cordon { node } => self.on_mode(&node, Mode::Cordoned, out),
            Input::Drain { node } => self.on_mode(&node, Mode::Draining, out),
            Input::Reopen { node } => self.on_mode(&node, Mode::Open, out),
            Input::Remove { node } => self.on_remove(node, out),
            Input::Resumed { outage_ms } => self.extend(now, outage_ms),
            Input::Tick => self.judge(now, out),
        }
    }

    /// When the machine wants its next [`Input::Tick`]; `None` when no lease is live. Never later
    /// than the gap it tolerates.
    pub fn next_tick(&self, now: Monotonic) -> Option<Monotonic> {
        let Reverse((due, _)) = self.due.peek()?;
        Some((*due).min(now.plus_ms(self.config.max_gap_ms / 2 + 1)))
    }

    /// A node's state; `None` when it is unknown.
    pub fn state(&self, node: &NodeId) -> Option<NodeState> {
        self.nodes.get(node).map(Lease::state)
    }

    /// The current epoch of a node; `None` when it is unknown.
    pub fn epoch(&self, node: &NodeId) -> Option<Epoch> {
        self.nodes.get(node).map(|lease| lease.epoch)
    }

    /// Milliseconds since a node was heard; `None` when it is unknown.
    pub fn silent_ms(&self, now: Monotonic, node: &NodeId) -> Option<u64> {
        self.nodes
            .get(node)
            .map(|lease| now.since_ms(lease.renewed))
    }

    /// Whether a node may act under this epoch.
    pub fn is_live(&self, node: &NodeId, epoch: Epoch) -> bool {
        self.nodes
            .get(node)
            .is_some_and(|lease| lease.epoch == epoch && lease.pulse != Pulse::Lost)
    }

    /// All nodes in the order of their ids.
    pub fn nodes(&self) -> impl Iterator<Item = (&NodeId, NodeState, Epoch)> {
        self.nodes
            .iter()
            .map(|(id, lease)| (id, lease.state(), lease.epoch))
    }

    fn on_heartbeat(&mut self, now: Monotonic, node: NodeId, epoch: Epoch, out: &mut Vec<Output>) {
        let fenced = |current| Output::Fenced {
            node: node.clone(),
            epoch,
            current,
        };
        let Some(lease) = self.nodes.get_mut(&node) else {
            out.push(fenced(None));
            return;
        };
        // A lease that ended is not revived by a late heartbeat: its work is elsewhere already.
        if lease.epoch != epoch || lease.pulse == Pulse::Lost {
            out.push(fenced(Some(lease.epoch)));
            return;
        }
        // A heartbeat may have waited in a buffer while the lease ran out.
        if now.since_ms(lease.renewed) >= self.config.ttl_ms {
            self.judge(now, out);
            out.push(fenced(Some(epoch)));
            return;
        }
        let from = lease.state();
        lease.renewed = now;
        lease.pulse = Pulse::Live;
        announce(&node, Some(from), lease.state(), Cause::HeardAgain, out);
    }

    fn on_mode(&mut self, node: &NodeId, mode: Mode, out: &mut Vec<Output>) {
        if let Some(lease) = self.nodes.get_mut(node) {
            let from = lease.state();
            lease.mode = mode;
            announce(node, Some(from), lease.state(), Cause::Operator, out);
        }
    }

    fn on_remove(&mut self, node: NodeId, out: &mut Vec<Output>) {
        if let Some(lease) = self.nodes.remove(&node)
            && lease.pulse != Pulse::Lost
        {
            out.push(Output::LeaseLost {
                node,
                epoch: lease.epoch,
            });
        }
    }

    /// A long silence of all inputs means that the server itself stood still.
    fn notice_gap(&mut self, now: Monotonic) {
        if let Some(last) = self.last_input {
            let gap_ms = now.since_ms(last);
            if gap_ms > self.config.max_gap_ms && !planted!(OutageNotExtended) {
                self.extend(now, gap_ms);
            }
        }
        self.last_input = Some(now);
    }

    fn extend(&mut self, now: Monotonic, outage_ms: u64) {
        for lease in self.nodes.values_mut() {
            // Never into the future: a lease is at most one TTL long.
            lease.renewed = lease.renewed.plus_ms(outage_ms).min(now);
        }
    }

    fn judge(&mut self, now: Monotonic, out: &mut Vec<Output>) {
        while let Some(Reverse((due, _))) = self.due.peek() {
            if *due > now {
                break;
            }
            let Some(Reverse((_, node))) = self.due.pop() else {
                break;
            };
            let Some(lease) = self.nodes.get_mut(&node) else {
                continue;
            };
            lease.watched = false;
            judge_one(now, self.config, &node, lease, out);
            self.watch(&node);
        }
    }

    fn watch(&mut self, node: &NodeId) {
        if let Some(lease) = self.nodes.get_mut(node)
            && let Some(due) = lease.due(self.config)
            && !lease.watched
        {
            lease.watched = true;
            self.due.push(Reverse((due, node.clone())));
        }
    }
}

fn judge_one(
    now: Monotonic,
    config: Config,
    node: &NodeId,
    lease: &mut Lease,
    out: &mut Vec<Output>,
) {
    let from = lease.state();
    let silent_ms = now.since_ms(lease.renewed);
    if silent_ms >= config.ttl_ms && lease.pulse != Pulse::Lost {
        lease.pulse = Pulse::Lost;
        announce(node, Some(from), lease.state(), Cause::LeaseExpired, out);
        out.push(Output::LeaseLost {
            node: node.clone(),
            epoch: lease.epoch,
        });
    } else if silent_ms >= config.suspect_after_ms && lease.pulse == Pulse::Live {
        lease.pulse = Pulse::Late;
        announce(node, Some(from), lease.state(), Cause::Silent, out);
    }
}

fn announce(
    node: &NodeId,
    from: Option<NodeState>,
    to: NodeState,
    cause: Cause,
    out: &mut Vec<Output>,
) {
    if from != Some(to) {
        out.push(Output::StateChanged {
            node: node.clone(),
            from,
            to,
            cause,
        });
    }
}

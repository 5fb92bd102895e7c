//! The server's end of the sessions: leases, statuses into the store, assignments out of it.

use std::collections::BTreeMap;

use weft_core::service::record::{Assignment, UnitLoad, UnitStatus};
use weft_core::{Epoch, Monotonic, liveness};
use weft_types::{NodeId, NodeState, UnitId};

use super::{Event, TTL_MS, World};
#[cfg(feature = "planted")]
use crate::planted::{Bug, is_planted};

/// From a node to the server.
#[derive(Clone, Debug)]
pub(super) enum ToServer {
    /// Registers.
    Hello { incarnation: u64, sent_ms: u64 },
    /// Renews the lease and tells how every unit is.
    Beat {
        epoch: Epoch,
        sent_ms: u64,
        sequence: u64,
        statuses: Vec<UnitStatus>,
        loads: BTreeMap<UnitId, UnitLoad>,
    },
}

/// From the server to a node. Lists are whole: what is not in them is to go.
#[derive(Clone, Debug)]
pub(super) enum ToNode {
    /// The answer to a hello.
    Welcome {
        incarnation: u64,
        epoch: Epoch,
        sent_ms: u64,
        list: BTreeMap<UnitId, Assignment>,
        revision: u64,
    },
    /// The assignments, and which heartbeat this answers.
    Apply {
        epoch: Epoch,
        answers_ms: Option<u64>,
        list: BTreeMap<UnitId, Assignment>,
        revision: u64,
    },
    /// The lease is over.
    Goodbye { epoch: Epoch },
}

fn checks_statuses() -> bool {
    #[cfg(feature = "planted")]
    if is_planted(Bug::StatusOutlivesUnit) {
        return false;
    }
    true
}

impl World {
    fn monotonic(&self) -> Monotonic {
        Monotonic(self.now_ms)
    }

    pub(super) fn send_up(&mut self, index: usize, message: ToServer) {
        let ms = self.delay();
        if self.nodes[index].up_blocked_until_ms <= self.now_ms && !self.is_dropped() {
            self.after(ms, Event::Up { index, message });
        }
    }

    fn send_down(&mut self, index: usize, message: ToNode) {
        let ms = self.delay();
        if self.nodes[index].down_blocked_until_ms <= self.now_ms && !self.is_dropped() {
            self.after(ms, Event::Down { index, message });
        }
    }

    /// Mostly quick, sometimes late enough to overtake others.
    fn delay(&mut self) -> u64 {
        if !self.is_calm && self.random.chance(20) {
            self.random.between(100, 2_500)
        } else {
            self.random.between(1, 20)
        }
    }

    fn is_dropped(&mut self) -> bool {
        !self.is_calm && self.random.chance(50)
    }

    pub(super) fn server_hears(&mut self, index: usize, message: ToServer) {
        if !self.server_is_up || self.nodes[index].is_removed {
            return;
        }
        let id = self.nodes[index].id.clone();
        match message {
            ToServer::Hello {
                incarnation,
                sent_ms,
            } => {
                let mut out = Vec::new();
                let epoch = self.liveness.register(self.monotonic(), &id, &mut out);
                self.notice(&out);
                self.sequences.insert(id.clone(), (epoch, 0));
                let list = self.told_at_welcome(&id);
                let revision = self.store.revision;
                self.send_down(
                    index,
                    ToNode::Welcome {
                        incarnation,
                        epoch,
                        sent_ms,
                        list,
                        revision,
                    },
                );
            }
            ToServer::Beat {
                epoch,
                sent_ms,
                sequence,
                statuses,
                loads,
            } => {
                let mut out = Vec::new();
                let beat = liveness::Input::Heartbeat {
                    node: id.clone(),
                    epoch,
                };
                self.liveness.step(self.monotonic(), beat, &mut out);
                self.notice(&out);
                if !self.liveness.is_live(&id, epoch) {
                    self.send_down(index, ToNode::Goodbye { epoch });
                    return;
                }
                self.take_statuses(&id, epoch, sequence, statuses);
                self.take_loads(loads);
                self.push(index, epoch, Some(sent_ms));
            }
        }
    }

    fn told_at_welcome(&self, id: &NodeId) -> BTreeMap<UnitId, Assignment> {
        #[cfg(feature = "planted")]
        if is_planted(Bug::WelcomeFromCache) {
            return self.store.of_node_stale(id);
        }
        self.store.of_node(id)
    }

    /// Only the newest report of a session counts.
    fn take_statuses(
        &mut self,
        id: &NodeId,
        epoch: Epoch,
        sequence: u64,
        statuses: Vec<UnitStatus>,
    ) {
        let newest = self.sequences.entry(id.clone()).or_insert((epoch, 0));
        if newest.0 > epoch || (newest.0 == epoch && newest.1 > sequence) {
            return;
        }
        *newest = (epoch, sequence);
        for status in statuses {
            self.store.put_status(status, checks_statuses());
        }
    }

    fn push(&mut self, index: usize, epoch: Epoch, answers_ms: Option<u64>) {
        let list = self.store.of_node(&self.nodes[index].id);
        let revision = self.store.revision;
        self.send_down(
            index,
            ToNode::Apply {
                epoch,
                answers_ms,
                list,
                revision,
            },
        );
    }

    /// Assignments have changed: every session tells its node.
    pub(super) fn push_all(&mut self) {
        if !self.server_is_up {
            return;
        }
        for index in 0..self.nodes.len() {
            let id = self.nodes[index].id.clone();
            let state = self.liveness.state(&id);
            if let (Some(epoch), Some(state)) = (self.liveness.epoch(&id), state)
                && state != NodeState::Offline
                && !self.nodes[index].is_removed
            {
                self.push(index, epoch, None);
            }
        }
    }

    pub(super) fn tick(&mut self) {
        if self.server_is_up {
            let mut out = Vec::new();
            let now = self.monotonic();
            self.liveness.step(now, liveness::Input::Tick, &mut out);
            self.notice(&out);
        }
        self.after(TTL_MS / 8, Event::Tick);
    }

    pub(super) fn notice(&mut self, out: &[liveness::Output]) {
        let is_news = |output: &&liveness::Output| {
            matches!(
                output,
                liveness::Output::StateChanged { .. } | liveness::Output::LeaseLost { .. }
            )
        };
        if out.iter().any(|output| is_news(&output)) {
            self.health_version += 1;
        }
    }

    /// A server that comes back gives every node a full lease before it judges any.
    pub(super) fn start_server(&mut self) {
        if self.server_is_up {
            return;
        }
        self.server_is_up = true;
        self.loads.clear();
        self.server_starts += 1;
        let base = self.server_starts << 32;
        let before = std::mem::replace(
            &mut self.liveness,
            liveness::Machine::new(liveness::Config::with_ttl_ms(TTL_MS), base),
        );
        let known: Vec<_> = before
            .nodes()
            .map(|(id, state, epoch)| (id.clone(), state, epoch))
            .collect();
        for (node, state, epoch) in known {
            let input = liveness::Input::Known {
                node,
                epoch,
                cordoned: false,
                draining: false,
                offline: state == NodeState::Offline,
            };
            self.liveness.step(self.monotonic(), input, &mut Vec::new());
        }
        self.health_version += 1;
    }
}

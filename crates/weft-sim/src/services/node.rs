//! A node: an agent with its own lease, and what really runs there.

use std::collections::BTreeMap;

use weft_core::Epoch;
use weft_core::service::record::{Assignment, Intent, UnitStatus};
use weft_types::{NodeId, Reason, UnitId, WorkloadState};

use super::session::{ToNode, ToServer};
use super::{Event, TTL_MS, World, image};
#[cfg(feature = "planted")]
use crate::planted::{Bug, is_planted};

/// Something that runs on a node, or tries to.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) assignment: Assignment,
    /// Tells this start from the one before.
    generation: u64,
    pub(super) ready: bool,
    pub(super) failed: Option<Reason>,
    stopping: bool,
    ready_since_ms: u64,
}

/// One node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) incarnation: u64,
    pub(super) is_up: bool,
    pub(super) is_removed: bool,
    pub(super) paused_until_ms: u64,
    /// Messages do not get to the server, or from it.
    pub(super) up_blocked_until_ms: u64,
    pub(super) down_blocked_until_ms: u64,
    pub(super) clock_skew_ms: i64,
    /// When its lease ends by its own count, while it has a session.
    pub(super) epoch: Option<Epoch>,
    lease_until_ms: u64,
    hello_ms: u64,
    sequence: u64,
    listed: Option<BTreeMap<UnitId, Assignment>>,
    listed_revision: u64,
    pub(super) processes: BTreeMap<UnitId, Process>,
    /// Units of which nothing is left, as it has reported.
    ended: BTreeMap<UnitId, UnitStatus>,
}

impl Node {
    pub(super) fn new(number: usize) -> Self {
        Self {
            id: super::node_id(number),
            incarnation: 0,
            is_up: true,
            is_removed: false,
            paused_until_ms: 0,
            up_blocked_until_ms: 0,
            down_blocked_until_ms: 0,
            clock_skew_ms: 0,
            epoch: None,
            lease_until_ms: 0,
            hello_ms: 0,
            sequence: 0,
            listed: None,
            listed_revision: 0,
            processes: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    /// Whether the server has told it of a unit, as far as it knows.
    pub(super) fn lists(&self, unit: UnitId) -> bool {
        let listed = self.listed.as_ref();
        listed.is_some_and(|list| list.contains_key(&unit))
    }

    /// Whether it does anything now. One that stood still looks at its lease before all else, in
    /// the same millisecond.
    pub(super) fn acts(&self, now_ms: u64) -> bool {
        self.is_up && self.paused_until_ms < now_ms
    }

    fn statuses(&self, now_ms: u64) -> Vec<UnitStatus> {
        let clock_ms = now_ms.saturating_add_signed(self.clock_skew_ms);
        let running = self.processes.values().map(|process| {
            let unit = process.assignment.unit;
            let state = match (process.failed, process.ready) {
                (Some(_), _) => WorkloadState::Failed,
                (None, true) => WorkloadState::Running,
                (None, false) => WorkloadState::Starting,
            };
            let mut status = UnitStatus::new(unit, self.id.clone(), state, clock_ms);
            status.since_ms = 0;
            status.ready = process.ready && process.failed.is_none() && !process.stopping;
            status.ready_since_ms = status.ready.then_some(process.ready_since_ms);
            status.given_up = process.failed.is_some();
            status.reason = process.failed;
            status
        });
        running.chain(self.ended.values().cloned()).collect()
    }
}

fn keeps_lease() -> bool {
    #[cfg(feature = "planted")]
    if is_planted(Bug::LeaseNotKept) {
        return false;
    }
    true
}

impl World {
    pub(super) fn start_node(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.is_up = true;
        node.incarnation += 1;
        node.epoch = None;
        node.listed = None;
        node.listed_revision = 0;
        let incarnation = node.incarnation;
        self.after(1, Event::Beat { index, incarnation });
    }

    /// The agent's process dies; what is not exclusive runs on. With the machine everything ends.
    pub(super) fn crash_node(&mut self, index: usize, with_machine: bool) {
        let node = &mut self.nodes[index];
        if !node.is_up {
            return;
        }
        node.is_up = false;
        node.epoch = None;
        node.processes
            .retain(|_, process| !with_machine && !process.assignment.spec.exclusive);
        let ms = self.random.between(50, 8_000);
        self.after(ms, Event::StartNode { index });
    }

    /// The agent's heartbeat, which carries the statuses of all units.
    pub(super) fn beat(&mut self, index: usize, incarnation: u64) {
        if self.nodes[index].incarnation != incarnation || !self.nodes[index].is_up {
            return;
        }
        self.check_lease(index);
        if self.nodes[index].epoch.is_none() {
            let now_ms = self.now_ms;
            self.nodes[index].hello_ms = now_ms;
            self.send_up(
                index,
                ToServer::Hello {
                    incarnation,
                    sent_ms: now_ms,
                },
            );
        } else {
            self.report(index);
        }
        self.after(TTL_MS / 3, Event::Beat { index, incarnation });
    }

    pub(super) fn report(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let loads = self.measured(index);
        let node = &mut self.nodes[index];
        let Some(epoch) = node.epoch else {
            return;
        };
        node.sequence += 1;
        let message = ToServer::Beat {
            epoch,
            sent_ms: now_ms,
            sequence: node.sequence,
            statuses: node.statuses(now_ms),
            loads,
        };
        self.send_up(index, message);
    }

    /// A node whose lease has ended stops what is exclusive before it does anything else.
    pub(super) fn check_lease(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[index];
        if node.epoch.is_some() && node.lease_until_ms <= now_ms {
            node.epoch = None;
            if keeps_lease() {
                node.processes
                    .retain(|_, process| !process.assignment.spec.exclusive);
            }
        }
    }

    pub(super) fn node_hears(&mut self, index: usize, message: ToNode) {
        self.check_lease(index);
        let now_ms = self.now_ms;
        let node = &mut self.nodes[index];
        if !node.is_up {
            return;
        }
        let (list, revision) = match message {
            ToNode::Welcome {
                incarnation,
                epoch,
                sent_ms,
                list,
                revision,
            } => {
                let is_answer = node.incarnation == incarnation && node.hello_ms == sent_ms;
                if !is_answer || node.epoch.is_some() || sent_ms + TTL_MS <= now_ms {
                    return;
                }
                node.epoch = Some(epoch);
                node.lease_until_ms = sent_ms + TTL_MS;
                node.listed_revision = 0;
                self.after(sent_ms + TTL_MS - now_ms, Event::LeaseEnds { index });
                (list, revision)
            }
            ToNode::Apply {
                epoch,
                answers_ms,
                list,
                revision,
            } => {
                if node.epoch != Some(epoch) {
                    return;
                }
                if let Some(sent_ms) = answers_ms {
                    node.lease_until_ms = node.lease_until_ms.max(sent_ms + TTL_MS);
                    let until_ms = node.lease_until_ms;
                    self.after(until_ms - now_ms, Event::LeaseEnds { index });
                }
                (list, revision)
            }
            ToNode::Goodbye { epoch } => {
                if node.epoch == Some(epoch) {
                    node.lease_until_ms = now_ms;
                    self.check_lease(index);
                }
                return;
            }
        };
        let node = &mut self.nodes[index];
        if revision >= node.listed_revision {
            node.listed_revision = revision;
            node.listed = Some(list);
            self.obey(index);
        }
    }

    /// Makes true what the list says.
    fn obey(&mut self, index: usize) {
        let Some(list) = self.nodes[index].listed.clone() else {
            return;
        };
        self.nodes[index]
            .ended
            .retain(|unit, _| list.contains_key(unit));
        let orphans: Vec<UnitId> = self.nodes[index]
            .processes
            .keys()
            .filter(|unit| !list.contains_key(*unit))
            .copied()
            .collect();
        for unit in orphans {
            self.begin_stop(index, unit);
        }
        for (unit, assignment) in list {
            let node = &self.nodes[index];
            let is_there = node.processes.contains_key(&unit);
            match assignment.intent {
                Intent::Run if !is_there && !node.ended.contains_key(&unit) => {
                    self.spawn(index, assignment);
                }
                Intent::Run => {}
                Intent::Stop if is_there => self.begin_stop(index, unit),
                Intent::Stop => {
                    self.end(index, unit);
                    self.keep(index, unit, assignment.keep_volumes);
                }
            }
        }
    }

    fn spawn(&mut self, index: usize, assignment: Assignment) {
        self.generations += 1;
        let generation = self.generations;
        let unit = assignment.unit;
        let process = Process {
            assignment,
            generation,
            ready: false,
            failed: None,
            stopping: false,
            ready_since_ms: 0,
        };
        self.nodes[index].processes.insert(unit, process);
        let ms = self.random.between(20, 1_500);
        self.after(
            ms,
            Event::Started {
                index,
                unit,
                generation,
            },
        );
        self.report(index);
    }

    /// It has started, or has not.
    pub(super) fn started(&mut self, index: usize, unit: UnitId, generation: u64) {
        self.check_lease(index);
        let is_unlucky = !self.is_calm && self.random.chance(20);
        let now_ms = self.now_ms;
        let skew_ms = self.nodes[index].clock_skew_ms;
        let Some(process) = self.nodes[index].processes.get_mut(&unit) else {
            return;
        };
        if process.generation != generation || process.stopping {
            return;
        }
        match image(&process.assignment.spec) {
            "bad-exit" => process.failed = Some(Reason::NonzeroExit),
            "bad-hang" => return,
            _ if is_unlucky => process.failed = Some(Reason::RuntimeError),
            _ => {
                process.ready = true;
                process.ready_since_ms = now_ms.saturating_add_signed(skew_ms);
            }
        }
        self.report(index);
    }

    /// Something that ran is suddenly gone.
    pub(super) fn vanish(&mut self, index: usize) {
        let unit = self.nodes[index].processes.keys().next().copied();
        if let Some(unit) = unit
            && self.nodes[index].epoch.is_some()
        {
            self.nodes[index].processes.remove(&unit);
            self.end(index, unit);
        }
    }

    fn begin_stop(&mut self, index: usize, unit: UnitId) {
        let Some(process) = self.nodes[index].processes.get_mut(&unit) else {
            return;
        };
        if process.stopping {
            return;
        }
        process.stopping = true;
        let generation = process.generation;
        let ms = self.random.between(10, 800);
        self.after(
            ms,
            Event::Stopped {
                index,
                unit,
                generation,
            },
        );
        self.report(index);
    }

    pub(super) fn stopped(&mut self, index: usize, unit: UnitId, generation: u64) {
        self.check_lease(index);
        let node = &mut self.nodes[index];
        let is_it = node
            .processes
            .get(&unit)
            .is_some_and(|process| process.generation == generation);
        if is_it {
            node.processes.remove(&unit);
            self.end(index, unit);
        }
    }

    /// Nothing of a unit is left; whoever still lists it is told.
    fn end(&mut self, index: usize, unit: UnitId) {
        let node = &mut self.nodes[index];
        let listed = node.listed.as_ref().and_then(|list| list.get(&unit));
        let keeps = listed.is_some_and(|assignment| assignment.keep_volumes);
        let is_listed = node
            .listed
            .as_ref()
            .is_none_or(|list| list.contains_key(&unit));
        if is_listed && !node.ended.contains_key(&unit) {
            let mut status = UnitStatus::new(unit, node.id.clone(), WorkloadState::Stopped, 0);
            status.gone = true;
            status.kept = keeps;
            node.ended.insert(unit, status);
            self.report(index);
        }
    }

    /// What is kept of a unit that has ended goes when it is said to.
    fn keep(&mut self, index: usize, unit: UnitId, keeps: bool) {
        let ended = self.nodes[index].ended.get_mut(&unit);
        if let Some(status) = ended.filter(|status| status.kept && !keeps) {
            status.kept = false;
            self.report(index);
        }
    }
}

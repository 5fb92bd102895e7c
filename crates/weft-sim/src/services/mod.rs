//! The declarative path: a store with transactions, two schedulers of which one leads, nodes that
//! make true what they are told, and people who change their minds.
//!
//! Services scale with a load that changes, refer to each other (`with`, `apart`), have priorities
//! and take each other's places.
//!
//! The planner ([`weft_core::service::plan`]) and the leases ([`weft_core::liveness`]) are the
//! production code. Messages are delayed, overtake each other and are lost; nodes crash with or
//! without what runs on them, stand still beyond their lease, are cut off in one direction or
//! both, drained and removed; schedulers and the server are killed between any two steps; clocks
//! jump by an hour.

mod checker;
mod company;
mod faults;
mod loads;
mod node;
mod people;
mod rest;
mod scheduler;
mod session;
mod store;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use weft_core::service::record::UnitLoad;
use weft_core::{Epoch, liveness};
use weft_types::{NodeId, UnitId, Workload, WorkloadId};

use crate::random::{Random, mix};
use crate::world::{Options, Run, Violation};

use checker::Checker;
use node::Node;
use scheduler::Scheduler;
use session::{ToNode, ToServer};
use store::Store;

const NODES: usize = 4;
/// Units that fit on a node.
const SLOTS: u64 = 3;
const TTL_MS: u64 = 3_000;
const LEADER_TTL_MS: u64 = 2_000;
/// What the clock on the wall says when a run begins.
const WALL_MS: i64 = 1_000_000_000_000;
/// How long everything may take to be as it should once faults have stopped.
const CONVERGENCE_MS: u64 = 600_000;
/// More steps than any run needs: somebody spins.
const MAX_STEPS: u64 = 400_000;

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    Up {
        index: usize,
        message: ToServer,
    },
    Down {
        index: usize,
        message: ToNode,
    },
    Beat {
        index: usize,
        incarnation: u64,
    },
    LeaseEnds {
        index: usize,
    },
    Started {
        index: usize,
        unit: UnitId,
        generation: u64,
    },
    Stopped {
        index: usize,
        unit: UnitId,
        generation: u64,
    },
    StartNode {
        index: usize,
    },
    Tick,
    StartServer,
    Look {
        index: usize,
        incarnation: u64,
    },
    LookOnce {
        index: usize,
        incarnation: u64,
    },
    Commit {
        index: usize,
        incarnation: u64,
    },
    StartScheduler {
        index: usize,
    },
    LeaseOfRemovedEnds {
        index: usize,
    },
    People,
    Fault,
    Calm,
    Check,
}

struct World {
    now_ms: u64,
    random: Random,
    options: Options,
    store: Store,
    schedulers: Vec<Option<Scheduler>>,
    nodes: Vec<Node>,
    liveness: liveness::Machine,
    server_is_up: bool,
    server_starts: u64,
    /// The newest report of each node's session.
    sequences: BTreeMap<NodeId, (Epoch, u64)>,
    /// Removed nodes whose leases may still run.
    removed: BTreeMap<NodeId, ()>,
    /// What there is to do for each workload, in millicores.
    demand: BTreeMap<WorkloadId, u64>,
    /// What nodes have measured, and when it came.
    loads: BTreeMap<UnitId, (u64, UnitLoad)>,
    /// Grows when the health of a node changes.
    health_version: u64,
    /// What the clock on the wall is ahead of real time.
    wall_skew_ms: i64,
    incarnations: u64,
    generations: u64,
    next_workload: u64,
    units_made: u64,
    is_calm: bool,
    is_over: bool,
    checker: Checker,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    steps: u64,
    trace: u64,
    log: Vec<String>,
}

/// Runs one schedule of services. [`Run::tasks`] counts the units that were made.
pub fn run(seed: u64, options: &Options) -> Run {
    let mut world = World::new(seed, options.clone());
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| world.live()));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world
            .checker
            .fail(format!("a machine panicked: {}", text.unwrap_or_default()));
    }
    let violation = world.checker.violation().map(|what| Violation {
        what: what.to_owned(),
        at_ms: world.now_ms,
        step: world.steps,
    });
    Run {
        violation,
        trace: world.trace,
        steps: world.steps,
        virtual_ms: world.now_ms,
        tasks: world.units_made,
        log: world.log,
    }
}

fn node_id(number: usize) -> NodeId {
    let name = format!("node-{number}");
    name.parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What runs: `good`, or something that ends with an error or never gets ready.
fn image(spec: &Workload) -> &str {
    spec.container
        .as_ref()
        .map_or("good", |container| container.image.as_str())
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let config = liveness::Config::with_ttl_ms(TTL_MS);
        let mut world = Self {
            now_ms: 0,
            random: Random::new(seed ^ 0x5e71_11ce),
            store: Store::default(),
            schedulers: vec![None, None],
            nodes: (0..NODES).map(Node::new).collect(),
            liveness: liveness::Machine::new(config, 1 << 32),
            server_is_up: true,
            server_starts: 1,
            sequences: BTreeMap::new(),
            removed: BTreeMap::new(),
            demand: BTreeMap::new(),
            loads: BTreeMap::new(),
            health_version: 0,
            wall_skew_ms: WALL_MS,
            incarnations: 0,
            generations: 0,
            next_workload: 1,
            units_made: 0,
            is_calm: false,
            is_over: false,
            checker: Checker::default(),
            events: BTreeMap::new(),
            sequence: 0,
            steps: 0,
            trace: seed,
            log: Vec::new(),
            options,
        };
        for index in 0..NODES {
            let id = node_id(index);
            world.store.nodes.insert(id, store::NodeRecord::default());
            world.start_node(index);
        }
        world.start_scheduler(0);
        world.start_scheduler(1);
        world.after(1, Event::Tick);
        world.after(2, Event::People);
        // Some schedules have no faults at all: what is promised without them is seen there.
        if world.random.chance(4) {
            world.after(world.options.faults_ms, Event::Calm);
        } else {
            world.after(500, Event::Fault);
            world.after(world.options.faults_ms, Event::Calm);
        }
        world
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now_ms + ms, self.sequence), event);
    }

    fn note(&mut self, line: String) {
        if self.options.keep_log {
            self.log.push(format!("{:>8}   {line}", self.now_ms));
        }
    }

    fn live(&mut self) {
        let deadline_ms = self.options.faults_ms + CONVERGENCE_MS;
        while self.checker.violation().is_none() && !self.is_over {
            let Some(((at_ms, _), event)) = self.events.pop_first() else {
                self.checker.fail("nothing happens any more".to_owned());
                return;
            };
            self.now_ms = at_ms;
            self.steps += 1;
            self.trace = mix(self.trace ^ at_ms.rotate_left(32) ^ digest(&event));
            if self.options.keep_log {
                self.note(brief(&event));
            }
            if let Some(later_ms) = self.held_up(&event) {
                self.after(later_ms - self.now_ms, event);
                continue;
            }
            self.happen(event);
            self.checker.look(self.now_ms, &self.nodes);
            if at_ms > deadline_ms || self.steps > MAX_STEPS {
                let left = self.unfinished().unwrap_or_default();
                self.checker.fail(format!(
                    "not as it should be {CONVERGENCE_MS} ms after the last fault: {left}"
                ));
            }
        }
    }

    /// Until when a node that stands still keeps an event of its own waiting.
    fn held_up(&self, event: &Event) -> Option<u64> {
        let (Event::Down { index, .. }
        | Event::Beat { index, .. }
        | Event::LeaseEnds { index }
        | Event::Started { index, .. }
        | Event::Stopped { index, .. }) = event
        else {
            return None;
        };
        let until_ms = self.nodes[*index].paused_until_ms;
        (until_ms > self.now_ms).then_some(until_ms)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Up { index, message } => {
                if self.nodes[index].up_blocked_until_ms <= self.now_ms {
                    self.server_hears(index, message);
                }
            }
            Event::Down { index, message } => {
                if self.nodes[index].down_blocked_until_ms <= self.now_ms {
                    self.node_hears(index, message);
                }
            }
            Event::Beat { index, incarnation } => self.beat(index, incarnation),
            Event::LeaseEnds { index } => self.check_lease(index),
            Event::Started {
                index,
                unit,
                generation,
            } => self.started(index, unit, generation),
            Event::Stopped {
                index,
                unit,
                generation,
            } => self.stopped(index, unit, generation),
            Event::StartNode { index } => self.start_node(index),
            Event::Tick => self.tick(),
            Event::StartServer => self.start_server(),
            Event::Look { index, incarnation } => self.look(index, incarnation),
            Event::LookOnce { index, incarnation } => self.look_once(index, incarnation),
            Event::Commit { index, incarnation } => self.commit(index, incarnation),
            Event::StartScheduler { index } => self.start_scheduler(index),
            Event::LeaseOfRemovedEnds { index } => {
                self.removed.remove(&node_id(index));
                self.health_version += 1;
            }
            Event::People => self.people(),
            Event::Fault => self.fault(),
            Event::Calm => self.calm(),
            Event::Check => self.check(),
        }
    }

    /// Looks whether everything is as it should be, and ends the run then.
    fn check(&mut self) {
        match self.unfinished() {
            None => self.is_over = true,
            Some(what) => {
                self.note(format!("not yet: {what}"));
                self.after(500, Event::Check);
            }
        }
    }
}

/// A number that tells kinds of events and whom they are for apart.
fn digest(event: &Event) -> u64 {
    match event {
        Event::Up { index, .. } => 1 + *index as u64 * 64,
        Event::Down { index, .. } => 2 + *index as u64 * 64,
        Event::Beat { index, .. } => 3 + *index as u64 * 64,
        Event::LeaseEnds { index } => 4 + *index as u64 * 64,
        Event::Started { generation, .. } => 5 + generation * 64,
        Event::Stopped { generation, .. } => 6 + generation * 64,
        Event::StartNode { index } => 7 + *index as u64 * 64,
        Event::Tick => 8,
        Event::StartServer => 9,
        Event::Look { index, .. } => 10 + *index as u64 * 64,
        Event::LookOnce { index, .. } => 11 + *index as u64 * 64,
        Event::Commit { index, .. } => 12 + *index as u64 * 64,
        Event::StartScheduler { index } => 13 + *index as u64 * 64,
        Event::LeaseOfRemovedEnds { index } => 14 + *index as u64 * 64,
        Event::People => 15,
        Event::Fault => 16,
        Event::Calm => 17,
        Event::Check => 18,
    }
}

/// An event in a line: lists of assignments by their numbers only.
fn brief(event: &Event) -> String {
    match event {
        Event::Down { index, message } => match message {
            ToNode::Welcome { epoch, list, .. } => {
                format!("Welcome {index} {epoch:x} {}", list.len())
            }
            ToNode::Apply { epoch, list, .. } => format!("Apply {index} {epoch:x} {}", list.len()),
            ToNode::Goodbye { epoch } => format!("Goodbye {index} {epoch:x}"),
        },
        Event::Up { index, message } => match message {
            ToServer::Hello { .. } => format!("Hello {index}"),
            ToServer::Beat {
                epoch, statuses, ..
            } => {
                let units = statuses.iter().map(|status| {
                    let mark = match (status.gone, status.given_up, status.ready) {
                        (true, ..) => "gone",
                        (_, true, _) => "failed",
                        (.., true) => "ready",
                        _ => "starting",
                    };
                    format!("{}:{mark}", status.unit)
                });
                let units: Vec<String> = units.collect();
                format!("Beat {index} {epoch:x} {}", units.join(" "))
            }
        },
        other => format!("{other:?}"),
    }
}

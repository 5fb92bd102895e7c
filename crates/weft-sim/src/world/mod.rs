//! Virtual time: the queue of events, and one run from its seed to its end.

mod serving;
mod tending;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use weft_core::dispatch::TaskRef;
use weft_types::{JobId, NodeId, Reason};

use crate::agent::Agent;
use crate::checker::Checker;
use crate::journal::Journal;
use crate::network::{Network, ToAgent, ToServer};
use crate::random::{Random, mix};
use crate::server::Server;

/// How many agents there are.
const AGENTS: usize = 3;
/// The most jobs of a run.
const MAX_JOBS: u64 = 10;
/// More tasks in memory than a run can submit means that something grows without end.
pub(crate) const MAX_TASKS: u64 = 1_000;
/// How long everything may take to end once faults have stopped.
const CONVERGENCE_MS: u64 = 900_000;
/// More steps than any run needs: somebody spins.
const MAX_STEPS: u64 = 400_000;

/// What a run is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long faults happen, in virtual milliseconds.
    pub faults_ms: u64,
    /// Whether to keep a line for each event.
    pub keep_log: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            faults_ms: 20_000,
            keep_log: false,
        }
    }
}

/// What went wrong, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// One sentence.
    pub what: String,
    /// Virtual time, in milliseconds.
    pub at_ms: u64,
    /// After how many events.
    pub step: u64,
}

/// One run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// What went wrong.
    pub violation: Option<Violation>,
    /// A hash over every event: equal for equal runs.
    pub trace: u64,
    /// How many events there were.
    pub steps: u64,
    /// How much virtual time passed, in milliseconds.
    pub virtual_ms: u64,
    /// How many tasks were acknowledged.
    pub tasks: u64,
    /// Every event, when it was asked for.
    pub log: Vec<String>,
}

/// What happens next.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A message reaches the server.
    Up { link: usize, message: ToServer },
    /// A message reaches an agent.
    Down { link: usize, message: ToAgent },
    /// The journal is on disk up to a length.
    Synced { boot: u64, len: usize },
    /// The server looks at the time.
    Tick { boot: u64 },
    /// The server wants to cancel a job whose cancellation it could not write.
    CancelAgain {
        boot: u64,
        job: JobId,
        reason: Reason,
    },
    /// An agent acts.
    Agent {
        agent: usize,
        incarnation: u32,
        act: Act,
    },
    /// An agent notices that its session is gone.
    LinkLost { link: usize },
    /// The client asks for something.
    Client,
    /// Something breaks.
    Fault,
    /// Faults are over.
    Calm,
    /// The server starts again.
    StartServer,
    /// An agent starts again.
    StartAgent { agent: usize },
    /// There is room on the disk again.
    DiskFreed,
}

/// What an agent does by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Dials, unless it has a session.
    Dial,
    /// Gives up a session that was not welcomed.
    GiveUp { link: usize },
    /// Renews its lease.
    Heartbeat,
    /// Sends unacknowledged reports again.
    Resend,
    /// A task ends.
    End(TaskRef),
}

pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) seed: u64,
    pub(crate) random: Random,
    pub(crate) agents: Vec<Agent>,
    pub(crate) network: Network,
    pub(crate) journal: Journal,
    pub(crate) server: Option<Server>,
    pub(crate) boots: u64,
    pub(crate) checker: Checker,
    pub(crate) next_job: u64,
    pub(crate) is_calm: bool,
    /// Epochs that nodes were given, as the store keeps them.
    pub(crate) known: BTreeMap<NodeId, u64>,
    pub(crate) options: Options,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    trace: u64,
    steps: u64,
    log: Vec<String>,
}

/// Runs one schedule.
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
        tasks: world
            .checker
            .acknowledged
            .values()
            .map(|tasks| u64::from(*tasks))
            .sum(),
        log: world.log,
    }
}

impl World {
    fn new(seed: u64, options: Options) -> Self {
        let mut world = Self {
            now_ms: 0,
            seed,
            random: Random::new(seed),
            agents: (0..AGENTS).map(Agent::new).collect(),
            network: Network::new(AGENTS),
            journal: Journal::default(),
            server: None,
            boots: 0,
            checker: Checker::default(),
            next_job: 1,
            is_calm: false,
            known: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            trace: seed,
            steps: 0,
            log: Vec::new(),
            options,
        };
        world.start_server();
        for agent in 0..AGENTS {
            world.start_agent(agent);
        }
        world.at(1, Event::Client);
        world.at(500, Event::Fault);
        world.at(world.options.faults_ms, Event::Calm);
        world
    }

    /// Something will happen at a time.
    pub(crate) fn at(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.events
            .insert((at_ms.max(self.now_ms), self.sequence), event);
    }

    /// Something will happen in a while.
    pub(crate) fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    fn live(&mut self) {
        let deadline_ms = self.options.faults_ms + CONVERGENCE_MS;
        while self.checker.violation().is_none() {
            let Some(((at_ms, _), event)) = self.events.pop_first() else {
                self.checker.fail("nothing happens any more".to_owned());
                return;
            };
            self.now_ms = at_ms;
            self.steps += 1;
            self.trace = mix(self.trace ^ at_ms.rotate_left(32) ^ digest(&event));
            if self.options.keep_log {
                self.log.push(format!("{at_ms:>8} {event:?}"));
            }
            self.happen(event);
            if self.is_over() {
                self.checker.all_seen();
                return;
            }
            if at_ms > deadline_ms || self.steps > MAX_STEPS {
                let left = self.unfinished();
                self.checker.fail(format!(
                    "not at rest {CONVERGENCE_MS} ms after the last fault: {left}"
                ));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Up { .. }
            | Event::Synced { .. }
            | Event::Tick { .. }
            | Event::CancelAgain { .. } => {
                self.server_event(event);
            }
            Event::Down { link, message } => self.agent_message(link, message),
            Event::Agent {
                agent,
                incarnation,
                act,
            } => self.agent_act(agent, incarnation, act),
            Event::LinkLost { link } => self.link_lost(link),
            Event::Client => self.client(),
            Event::Fault => self.fault(),
            Event::Calm => self.calm(),
            Event::StartServer => self.start_server(),
            Event::StartAgent { agent } => self.start_agent(agent),
            Event::DiskFreed => self.journal.is_full = false,
        }
    }

    /// Whether everything acknowledged has ended and nobody holds anything.
    fn is_over(&self) -> bool {
        let Some(server) = &self.server else {
            return false;
        };
        self.is_calm
            && self.agents.iter().all(|agent| agent.held.is_empty())
            && self.checker.is_done(&server.dispatch)
            && server.submitting.is_empty()
    }

    fn unfinished(&self) -> String {
        let Some(server) = &self.server else {
            return "the server is down".to_owned();
        };
        let jobs = self.checker.acknowledged.keys();
        let jobs: Vec<String> = jobs
            .filter_map(|job| {
                let counts = server.dispatch.counts(*job)?;
                (counts.finished() < counts.total).then(|| format!("{job} {counts:?}"))
            })
            .collect();
        let held: Vec<usize> = self.agents.iter().map(|agent| agent.held.len()).collect();
        format!("{}; agents hold {held:?}", jobs.join(", "))
    }

    /// How many jobs the client may still submit.
    pub(crate) fn may_submit(&self) -> bool {
        self.next_job <= MAX_JOBS && !self.is_calm
    }
}

/// A number that tells kinds of events and whom they are for apart.
fn digest(event: &Event) -> u64 {
    match event {
        Event::Up { link, message } => {
            let weight = match message {
                ToServer::Hello { held } => held.len(),
                ToServer::Heartbeat => 1_000,
                ToServer::Results(results) => 2_000 + results.len(),
                ToServer::Started(tasks) => 3_000 + tasks.len(),
                ToServer::Handback(tasks, _) => 4_000 + tasks.len(),
            };
            1 + (*link as u64) * 64 + (weight as u64) * 65_536
        }
        Event::Down { link, message } => {
            let weight = match message {
                ToAgent::Welcome { stop } => stop.len(),
                ToAgent::Dispatch(runs) => {
                    runs.iter().fold(1_000, |sum, run| sum + run.len as usize)
                }
                ToAgent::Stop(tasks) => 2_000 + tasks.len(),
                ToAgent::Ack(tasks) => 3_000 + tasks.len(),
                ToAgent::Recall(tasks) => 4_000 + tasks.len(),
                ToAgent::Goodbye => 5_000,
            };
            2 + (*link as u64) * 64 + (weight as u64) * 65_536
        }
        Event::Synced { len, .. } => 3 + (*len as u64) * 64,
        Event::Tick { boot } => 4 + boot * 64,
        Event::CancelAgain { job, .. } => 5 + job.0 * 64,
        Event::Agent { agent, .. } => 6 + (*agent as u64) * 64,
        Event::LinkLost { link } => 7 + (*link as u64) * 64,
        Event::Client => 8,
        Event::Fault => 9,
        Event::Calm => 10,
        Event::StartServer => 11,
        Event::StartAgent { agent } => 12 + (*agent as u64) * 64,
        Event::DiskFreed => 13,
    }
}

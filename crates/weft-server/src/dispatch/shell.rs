//! The dispatcher's thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use weft_core::Monotonic;
use weft_core::dispatch::{Input, Machine, Output};
use weft_types::{JobId, NodeId, Timestamp};

use super::command::Command;
use super::dead::DeadLetters;
use super::endings::Endings;
use super::handle::Watchers;
use super::job::{Cancellation, JobRecord};
use super::log::Log;
use super::nodes::Session;
use super::reserved::Reserved;
use super::submit::Submitting;
use crate::Error;
use crate::clock::Clock;
use crate::events::Events;
use crate::metrics::Metrics;

/// The most commands that are taken before work is handed out.
const MAX_COMMANDS_A_ROUND: usize = 512;
/// The longest the thread sleeps, so that expired results are noticed.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// What the dispatcher's thread owns.
pub struct Shell {
    pub(super) machine: Machine,
    pub(super) log: Log,
    pub(super) clock: Clock,
    pub(super) events: Events,
    pub(super) metrics: Arc<Metrics>,
    pub(super) watchers: Arc<Watchers>,
    /// For the answers of the journal. Without a bound of its own, so that the journal never waits
    /// for this thread: there are at most as many answers as appends, which the journal bounds.
    pub(super) answers: mpsc::UnboundedSender<Command>,
    pub(super) jobs: HashMap<JobId, JobRecord>,
    pub(super) keys: HashMap<String, JobId>,
    pub(super) last_id: u64,
    pub(super) result_ttl: Duration,
    /// Jobs that have ended, in the order in which they expire.
    pub(super) expiring: VecDeque<(Timestamp, JobId)>,
    pub(super) endings: Endings,
    pub(super) sessions: BTreeMap<NodeId, Session>,
    pub(super) reserved: Reserved,
    pub(super) submitting: HashMap<JobId, Submitting>,
    /// Cancellations that nobody asked for and that could not be written: when to try again.
    pub(super) cancel_again: Vec<(Monotonic, JobId, Cancellation)>,
    pub(super) dead: DeadLetters,
    pub(super) out: Vec<Output>,
    pub(super) stopped: bool,
}

impl Shell {
    /// Runs until [`Command::Stop`] or until every handle is gone.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut answered: mpsc::UnboundedReceiver<Command>,
    ) {
        let mut batch = Vec::with_capacity(MAX_COMMANDS_A_ROUND);
        let mut answers = Vec::with_capacity(MAX_COMMANDS_A_ROUND);
        while !self.stopped {
            let sleep = self.sleep();
            tokio::select! {
                biased;
                _ = answered.recv_many(&mut answers, MAX_COMMANDS_A_ROUND) => {}
                taken = commands.recv_many(&mut batch, MAX_COMMANDS_A_ROUND) => if taken == 0 { break },
                () = tokio::time::sleep(sleep) => {}
            }
            let now = self.now();
            for command in answers.drain(..).chain(batch.drain(..)) {
                self.take(now, command);
            }
            self.round(self.now());
        }
    }

    /// Ticks, expires, hands out, carries out.
    pub(super) fn round(&mut self, now: Monotonic) {
        if self.machine.next_tick().is_some_and(|due| due <= now) {
            self.machine.step(now, Input::Tick, &mut self.out);
        }
        self.expire();
        self.cancel_due(now);
        self.machine.assign(now, &mut self.out);
        self.carry_out(now);
    }

    pub(super) fn now(&self) -> Monotonic {
        Monotonic(self.clock.steady().as_millis())
    }

    fn sleep(&self) -> Duration {
        let now = self.now();
        let due = self
            .machine
            .next_tick()
            .map(|due| Duration::from_millis(due.since_ms(now)));
        due.unwrap_or(MAX_SLEEP).min(MAX_SLEEP)
    }

    fn take(&mut self, now: Monotonic, command: Command) {
        match command {
            Command::Submit { job, reply } => self.submit(job, reply),
            Command::Open { tasks, reply } => {
                let opened = self.admit(tasks);
                let _ = reply.send(opened);
            }
            Command::Seal { job, reply } => self.seal(job, reply),
            Command::Abandoned { tasks } => self.machine.abandon(tasks),
            Command::Submitted { id, written } => self.submitted(now, id, written),
            Command::Recorded { batch, written } => self.recorded(now, batch, written),
            Command::Node {
                node,
                epoch,
                report,
            } => self.node(now, node, epoch, report),
            Command::Availability { node, availability } => {
                self.reserved.availability(&node, availability);
                self.step(now, Input::NodeAvailability { node, availability });
            }
            Command::UnitsReserve { node, reserve } => {
                if let Some(candidate) = self.reserved.set_units(node.clone(), reserve) {
                    self.step(now, Input::NodeChanged { node, candidate });
                }
            }
            Command::LeaseLost { node, epoch } => self.lease_lost(now, node, epoch),
            Command::Removed { node } => self.removed(now, node),
            Command::Cancel { job, reason, reply } => {
                let detail = Box::default();
                self.cancel(job, Cancellation { reason, detail }, Some(reply));
            }
            Command::Cancelled {
                job,
                cancellation,
                written,
                reply,
            } => self.cancelled(now, job, cancellation, written, reply),
            Command::Change {
                change,
                job,
                tasks,
                reply,
            } => self.change(change, job, tasks, reply),
            Command::Changed {
                change,
                job,
                tasks,
                written,
                reply,
            } => self.changed(now, change, job, tasks, written, reply),
            Command::Forget { job, reply } => {
                let forgotten = self.forget(now, job);
                let _ = reply.send(forgotten);
            }
            Command::Ended { job, reply } => self.tell_end(job, reply),
            Command::Ask(question) => question(self),
            Command::Stop { end, reply } => {
                self.end_sessions(end);
                self.stopped = true;
                let _ = reply.send(());
            }
        }
    }

    pub(super) fn step(&mut self, now: Monotonic, input: Input) {
        self.machine.step(now, input, &mut self.out);
    }
}

/// Tells the thread what became of an append; a server that stops needs no answer.
pub(super) fn answer(answers: &mpsc::UnboundedSender<Command>, command: Command) {
    let _ = answers.send(command);
}

pub(super) fn unknown(job: JobId) -> Error {
    Error::NotFound {
        what: "job",
        id: job.to_string(),
    }
}

//! Which task goes to which node, and what becomes of its reports.
//!
//! The machine knows jobs, task numbers, resource classes and attempts; it deliberately knows no
//! payloads, no results, no sockets and no disk. Its shell keeps those.
//!
//! # A task's life
//!
//! ```text
//!            ┌────────────── retry, node lost, handed back ───────────────┐
//!            ▼                                                            │
//!  submit → queued ──assign──▶ assigned ──started──▶ running ──report──▶ recording ──recorded──▶ completed
//!            ▲ │                                                          │                      failed
//!     backoff│ └──cancel──▶ cancelled                    record failed────┘                      dead
//!          delayed
//! ```
//!
//! A task that waits for others of its job ([`Submission::graph`]) is *blocked* before it is
//! queued; when one of them does not complete it becomes cancelled without ever having run.
//!
//! # How a shell drives it
//!
//! 1. Before a job is journaled: [`Machine::admit`]. Once the journal has it on disk:
//!    [`Input::Submit`]. The machine never refuses what was acknowledged.
//! 2. After every batch of inputs: [`Machine::assign`], which hands out what can be handed out.
//! 3. A batch of reports: [`Machine::accept`] tells for each what to do. The shell appends those
//!    that say [`Verdict::Record`] to the journal and answers with [`Input::Recorded`] once they
//!    are on disk, or [`Input::RecordFailed`]. Only then do they become final, visible and
//!    acknowledged ([`Output::Finals`], [`Output::Ack`]): a result is recorded at most once, and
//!    what was acknowledged is never lost.
//! 4. At [`Machine::next_tick`]: [`Input::Tick`].
//! 5. After a restart: [`Input::AwaitNodes`] first, then one [`Input::Recovered`] a job in the
//!    order of their ids, then the sessions as they come ([`Input::NodeUp`]).
//!
//! # Fencing
//!
//! Each assignment of a task has an *attempt* that only grows. A report counts only when it comes
//! over the node's current epoch, and its task is held by that very node under that very attempt.
//! A node that reconnects tells what it holds; what matches is adopted, the rest it must stop
//! ([`Output::Attached`]).
//!
//! A job that speculates may have two attempts of a task out at a time ([`speculate`]); the first
//! result that ends the task makes the other attempt stale.
//!
//! # Reservations
//!
//! For each node and class the machine counts tasks *held* and units *reserved*; `reserved ≤ held`,
//! and the reservations of a node never exceed its capacity. Held beyond reserved is prefetch:
//! the agent starts it when its own resources allow.

mod assign;
mod attach;
mod cancel;
mod check;
mod depend;
mod explain;
mod fair;
mod handback;
mod job;
mod node;
mod ready;
mod recovery;
mod results;
mod speculate;
mod steal;
mod submit;
mod substrate;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod vocabulary;

use std::collections::{BTreeMap, BTreeSet};

use weft_placement::{Candidate, Free, Index};
use weft_types::{JobId, JobState, NodeId, Reason, TaskCounts, TaskState};

use crate::Monotonic;
use crate::idmap::IdMap;

use attach::NewSession;
use fair::FairShare;
use job::{ClassTable, Jobs};
use node::Nodes;
use recovery::Reattachment;
use results::Recording;
use substrate::Substrates;
use timers::Timers;

pub use explain::{Waiting, Why};
pub use results::Accepted;
pub use vocabulary::{
    BatchId, Config, FinalRun, FinalTask, Held, Input, NodeLoad, Outcome, Output, Recovered,
    Submission, TaskRef, TaskResult, TaskRun, Verdict,
};

/// The dispatcher: every job that is not forgotten, every node, and who holds what.
///
/// One task of the server owns it; nothing in it is shared.
pub struct Machine {
    config: Config,
    index: Index,
    jobs: Jobs,
    classes: ClassTable,
    nodes: Nodes,
    substrates: Substrates,
    fair: FairShare,
    timers: Timers,
    recording: BTreeMap<BatchId, Recording>,
    next_batch: u64,
    reattachment: Option<Reattachment>,
    /// Jobs that wait for the job of the key.
    dependents: IdMap<JobId, Vec<JobId>>,
    /// Admitted, not yet submitted.
    promised_jobs: u64,
    promised_tasks: u64,
    /// Nodes that got work in this round, to send it in one batch each.
    touched: BTreeSet<u16>,
    /// State of the generator that jitters backoffs.
    jitter: u64,
    round: u32,
    /// Where the next round of prefetching begins.
    rotor: u16,
    /// The last round ended because it had handed out enough, not because nothing was left.
    more: bool,
    /// When to look for prefetched work to take back; `None` when nothing is prefetched.
    steal_at: Option<Monotonic>,
    /// Slots of the unfinished jobs that speculate.
    speculating: BTreeSet<u32>,
    /// When to look for stragglers; `None` when no task of such a job runs.
    speculate_at: Option<Monotonic>,
}

impl Machine {
    /// An empty dispatcher. The seed only jitters backoffs.
    pub fn new(config: Config, seed: u64) -> Self {
        Self {
            config,
            index: Index::new(),
            jobs: Jobs::default(),
            classes: ClassTable::default(),
            nodes: Nodes::default(),
            substrates: Substrates::default(),
            fair: FairShare::default(),
            timers: Timers::default(),
            recording: BTreeMap::new(),
            next_batch: 1,
            reattachment: None,
            dependents: IdMap::default(),
            promised_jobs: 0,
            promised_tasks: 0,
            touched: BTreeSet::new(),
            jitter: seed,
            round: 0,
            rotor: 0,
            more: false,
            steal_at: None,
            speculating: BTreeSet::new(),
            speculate_at: None,
        }
    }

    /// Takes one input in. Hands no new work out: [`Machine::assign`] does, once per batch of
    /// inputs.
    pub fn step(&mut self, now: Monotonic, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Submit(submission) => self.on_submit(now, submission, out),
            Input::Append { job, tasks, sealed } => self.on_append(job, tasks, sealed, out),
            Input::AwaitNodes { nodes, deadline } => self.on_await_nodes(nodes, deadline),
            Input::Recovered(recovered) => self.on_recovered(now, &recovered, out),
            Input::NodeUp {
                node,
                epoch,
                candidate,
                max_held,
                held,
            } => {
                let session = NewSession {
                    epoch,
                    candidate,
                    max_held,
                };
                self.on_node_up(now, &node, session, held, out);
            }
            Input::NodeChanged { node, candidate } => self.on_node_changed(&node, candidate),
            Input::NodeAvailability { node, availability } => {
                self.on_availability(&node, availability, out);
            }
            Input::NodeDown { node, epoch } => self.on_node_down(&node, epoch, out),
            Input::NodeRemoved { node } => self.on_node_removed(&node, out),
            Input::Started { node, epoch, tasks } => self.on_started(now, &node, epoch, &tasks),
            Input::Handback {
                node,
                epoch,
                tasks,
                reason,
            } => self.on_handback(now, &node, epoch, &tasks, reason, out),
            Input::Recorded { batch } => self.on_recorded(batch, out),
            Input::RecordFailed { batch } => self.on_record_failed(batch, out),
            Input::Cancel { job, tasks, reason } => {
                self.on_cancel(job, tasks.as_deref(), reason, out)
            }
            Input::Requeue { job, tasks } => self.on_requeue(job, tasks.as_deref()),
            Input::Forget { job } => self.on_forget(job),
            Input::Weight { namespace, weight } => self.fair.set_weight(&namespace, weight),
            Input::Tick => self.on_tick(now, out),
        }
    }

    /// When the machine wants its next [`Input::Tick`]; `None` when nothing is pending.
    pub fn next_tick(&self) -> Option<Monotonic> {
        let now = self.more.then_some(Monotonic(0));
        let reattachment = self.reattachment.as_ref().map(Reattachment::deadline);
        let timers = self.timers.next();
        let due = [now, timers, reattachment, self.steal_at, self.speculate_at];
        due.into_iter().flatten().min()
    }

    /// Where a job is, from the states of its tasks.
    pub fn job_state(&self, job: JobId) -> Option<JobState> {
        self.jobs.get(job).map(job::Job::state)
    }

    /// How many tasks of a job are in which state.
    pub fn counts(&self, job: JobId) -> Option<TaskCounts> {
        self.jobs.get(job).map(job::Job::counts)
    }

    /// Where a task is, how many attempts it has had, and the node that holds it.
    pub fn task(&self, job: JobId, task: u32) -> Option<(TaskState, u32, Option<&NodeId>)> {
        let cell = self.jobs.get(job)?.table.get(task)?;
        let holder = cell.node().filter(|_| cell.phase().is_held());
        let node = holder.and_then(|slot| self.nodes.id(slot));
        Some((cell.phase().state(), cell.attempt(), node))
    }

    /// The task of the same job because of which a task was cancelled: it did not complete.
    pub fn cause(&self, job: JobId, task: u32) -> Option<u32> {
        self.jobs.get(job)?.cause(task)
    }

    /// Why a task ended, unless it completed or has not ended.
    pub fn task_reason(&self, job: JobId, task: u32) -> Option<Reason> {
        self.jobs.get(job)?.table.get(task)?.reason()
    }

    /// Whether a job was cancelled: nothing of it can be queued again.
    pub fn is_cancelled(&self, job: JobId) -> bool {
        self.jobs
            .get(job)
            .is_some_and(|job| job.cancelled.is_some())
    }

    /// States and attempts of some tasks of a job, in order; past the end there is nothing.
    pub fn tasks(
        &self,
        job: JobId,
        first: u32,
        limit: u32,
    ) -> impl Iterator<Item = (u32, TaskState, u32)> + '_ {
        let table = self.jobs.get(job).map(|job| &job.table);
        (first..first.saturating_add(limit)).map_while(move |task| {
            let cell = table?.get(task)?;
            Some((task, cell.phase().state(), cell.attempt()))
        })
    }

    /// Jobs and tasks in memory, final ones included.
    pub fn size(&self) -> (u64, u64) {
        (self.jobs.len() as u64, self.jobs.tasks())
    }

    /// How many tasks of each namespace are in which state; looks at every job once.
    pub fn counts_by_namespace(&self) -> BTreeMap<weft_types::Namespace, TaskCounts> {
        self.jobs.counts_by_namespace(&self.fair)
    }

    /// What a node holds; `None` for an unknown node.
    pub fn node_load(&self, node: &NodeId) -> Option<NodeLoad> {
        self.nodes
            .slot(node)
            .and_then(|slot| self.nodes.get(slot))
            .map(node::Node::load)
    }

    /// A node as the index has it, and what of it no task reserves.
    pub fn node_room(&self, node: &NodeId) -> Option<(&Candidate, &Free)> {
        let id = node::candidate(self.nodes.slot(node)?);
        Some((self.index.candidate(id)?, self.index.free(id)?))
    }

    /// The capacity index, to explain placements with.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether recovered jobs still wait for nodes to reattach.
    pub fn is_awaiting_nodes(&self) -> bool {
        self.reattachment.is_some()
    }
}

//! What goes into the machine and what comes out of it.

use std::sync::Arc;

use weft_placement::{Availability, Candidate, Request};
use weft_types::{
    JobId, JobState, Namespace, NodeId, Reason, RetryPolicy, TaskCounts, TaskGraph, TaskState,
};

use crate::breaker;
use crate::{Epoch, Monotonic};

/// Bounds and sizes of the dispatcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The most tasks in memory before [`super::Machine::admit`] refuses.
    pub max_tasks: u64,
    /// The most jobs in memory before [`super::Machine::admit`] refuses.
    pub max_jobs: u64,
    /// Work a node is given beyond what it can run at once, in microseconds of each slot.
    pub prefetch_us: u64,
    /// The most tasks a node is given in one round.
    pub max_batch_tasks: u32,
    /// The most tasks handed out in one call of `assign`, so that inputs are not kept waiting.
    pub max_round_tasks: u32,
    /// How often a task may be moved because its node was lost, before it is a dead letter.
    pub max_moves: u32,
    /// How long prefetched work may wait on a busy node while another is idle, in milliseconds.
    pub steal_after_ms: u64,
    /// When a node gets no more work.
    pub breaker: breaker::Config,
    /// When no node of a provider, or none of one's own, gets more work.
    pub substrate_breaker: breaker::Config,
    /// How often the running tasks of jobs that speculate are looked at, in milliseconds.
    pub speculate_every_ms: u64,
    /// No task is called slow before it has run this long, in milliseconds.
    pub speculate_floor_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_tasks: 20_000_000,
            max_jobs: 2_000_000,
            prefetch_us: 30_000,
            max_batch_tasks: 1_024,
            max_round_tasks: 16_384,
            max_moves: 20,
            steal_after_ms: 100,
            breaker: breaker::Config::default(),
            substrate_breaker: breaker::Config {
                threshold: 20,
                cool_down_ms: 10_000,
                max_cool_down_ms: 120_000,
            },
            speculate_every_ms: 250,
            speculate_floor_ms: 1_000,
        }
    }
}

/// What the dispatcher needs to know of a job.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its id; greater than that of every earlier job.
    pub id: JobId,
    /// Whose it is.
    pub namespace: Namespace,
    /// What each task needs; equal requests share a class.
    pub request: Request,
    /// Larger runs first within a namespace.
    pub priority: i32,
    /// When and how often a failed task is tried again.
    pub retry: RetryPolicy,
    /// Number of tasks so far.
    pub tasks: u32,
    /// Whether no further tasks will be appended.
    pub sealed: bool,
    /// How long the whole job may take from now, in milliseconds.
    pub deadline_ms: Option<u64>,
    /// Jobs that must succeed first; unknown ones count as done.
    pub after: Vec<JobId>,
    /// Which of its tasks wait for which others; `None` when none does.
    pub graph: Option<Arc<TaskGraph>>,
    /// Whether a task that runs far longer than its siblings gets a second attempt.
    pub speculate: bool,
}

impl Submission {
    /// How much room it takes: its tasks, and the dependencies between them.
    pub fn weight(&self) -> u64 {
        let dependencies = self.graph.as_ref().map_or(0, |graph| graph.dependencies());
        u64::from(self.tasks) + u64::from(dependencies)
    }
}

/// Consecutive tasks that are final for the same cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FinalRun {
    /// First task.
    pub first: u32,
    /// How many.
    pub len: u32,
    /// A final state.
    pub state: TaskState,
    /// Why, unless completed.
    pub reason: Option<Reason>,
}

/// A job as the journal has it.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The job, with all tasks that the journal has.
    pub submission: Submission,
    /// Tasks that are final.
    pub finals: Vec<FinalRun>,
    /// Tasks that failed and were to be tried again: number and how often they failed.
    pub failures: Vec<(u32, u32)>,
    /// The greatest attempt that is known of a task: a later one gets a greater number.
    pub attempts: Vec<(u32, u32)>,
    /// Whether the job was cancelled, and why: what is not final becomes cancelled.
    pub cancelled: Option<Reason>,
}

/// One task under one attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TaskRef {
    /// Its job.
    pub job: JobId,
    /// Its number in the job.
    pub task: u32,
    /// Which assignment of it; from 1.
    pub attempt: u32,
}

/// What a node says it holds: queued, running, or finished and not acknowledged.
pub type Held = Vec<TaskRef>;

/// Consecutive tasks of a job under the same attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskRun {
    /// Their job.
    pub job: JobId,
    /// The first task.
    pub first: u32,
    /// How many, at least 1.
    pub len: u32,
    /// The attempt of each.
    pub attempt: u32,
}

impl TaskRun {
    /// The tasks one by one.
    pub fn tasks(self) -> impl Iterator<Item = TaskRef> {
        (self.first..self.first + self.len).map(move |task| TaskRef {
            job: self.job,
            task,
            attempt: self.attempt,
        })
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Well.
    Completed,
    /// Badly.
    Failed(Reason),
}

/// A node's report on one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskResult {
    /// Which attempt of which task.
    pub at: TaskRef,
    /// How it ended.
    pub outcome: Outcome,
    /// From start to end, in microseconds.
    pub run_us: u64,
}

/// What to do with one report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Append it to the journal; it becomes this final state once [`Input::Recorded`] says so.
    Record(TaskState),
    /// A failure that is tried again. The machine has taken it in and acknowledges it; the shell
    /// may note it in the journal for the history of attempts, and need not wait for that.
    Retry,
    /// The same report is being written already: do nothing.
    Pending,
    /// A stale attempt, a final or an unknown task: do nothing; the machine acknowledges it so
    /// that the node forgets it.
    Ignore,
    /// The node's epoch is stale: do nothing and end its session.
    Fenced,
}

/// Reports that are being written; each becomes final together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BatchId(pub u64);

/// A task that became final.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FinalTask {
    /// Which task; the attempt that made it final, 0 when it never had one.
    pub at: TaskRef,
    /// Its final state.
    pub state: TaskState,
    /// Why, unless completed.
    pub reason: Option<Reason>,
}

/// What a node holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeLoad {
    /// Tasks handed to it that it has not reported.
    pub held: u32,
    /// Of these, tasks for which capacity is reserved.
    pub reserved: u32,
    /// The most it will hold.
    pub max_held: u32,
    /// State of its circuit breaker.
    pub breaker: breaker::State,
    /// The epoch of its session; `None` while it is down.
    pub epoch: Option<Epoch>,
}

/// What happens to the dispatcher.
#[derive(Clone, Debug)]
pub enum Input {
    /// A job is on disk. A job that is known already is ignored.
    Submit(Submission),
    /// Further tasks of a job that is not sealed are on disk.
    Append {
        /// Which job.
        job: JobId,
        /// How many more.
        tasks: u32,
        /// Whether these are the last.
        sealed: bool,
    },
    /// The server has restarted: recovered jobs wait until these nodes have reattached, or until
    /// the deadline (at least a lease's TTL away). Comes before the recovered jobs.
    AwaitNodes {
        /// Nodes that may still run something.
        nodes: Vec<NodeId>,
        /// When the waiting ends anyway.
        deadline: Monotonic,
    },
    /// A job from the journal, after a restart.
    Recovered(Recovered),
    /// A node has a session, under a new epoch.
    NodeUp {
        /// Which node.
        node: NodeId,
        /// Greater than all its earlier ones.
        epoch: Epoch,
        /// Its capacity and whether it takes work.
        candidate: Candidate,
        /// The most tasks it will hold.
        max_held: u32,
        /// What it holds.
        held: Held,
    },
    /// A node's capacity, labels or price changed.
    NodeChanged {
        /// Which node.
        node: NodeId,
        /// What it is now; its availability included.
        candidate: Candidate,
    },
    /// A node takes work or does not: suspect, cordoned, draining, or back. Closing it for
    /// cordon or drain recalls what it has not started.
    NodeAvailability {
        /// Which node.
        node: NodeId,
        /// Whether it takes work.
        availability: Availability,
    },
    /// A node's lease ended: what it holds goes back to the queue at once.
    NodeDown {
        /// Which node.
        node: NodeId,
        /// Its epoch; a stale one is ignored.
        epoch: Epoch,
    },
    /// A node is gone for good.
    NodeRemoved {
        /// Which node.
        node: NodeId,
    },
    /// Tasks that began to run. For people and for stealing; correctness does not need it.
    Started {
        /// Which node.
        node: NodeId,
        /// Its epoch; a stale one is ignored.
        epoch: Epoch,
        /// Which tasks.
        tasks: Vec<TaskRef>,
    },
    /// A node gives tasks back that it has not run.
    Handback {
        /// Which node.
        node: NodeId,
        /// Its epoch; a stale one is ignored.
        epoch: Epoch,
        /// Which tasks.
        tasks: Vec<TaskRef>,
        /// Why, when it rejects them; `None` when they were recalled.
        reason: Option<Reason>,
    },
    /// A batch is on disk.
    Recorded {
        /// Which batch.
        batch: BatchId,
    },
    /// A batch could not be written (disk full): its nodes keep their reports and send them
    /// again.
    RecordFailed {
        /// Which batch.
        batch: BatchId,
    },
    /// The cancellation of a job, or of some of its tasks, is on disk.
    Cancel {
        /// Which job.
        job: JobId,
        /// Which tasks; all, and those still to be appended, when `None`.
        tasks: Option<Vec<u32>>,
        /// `cancelled`, or `timeout` when the job's deadline passed.
        reason: Reason,
    },
    /// The wish to try dead or failed tasks again is on disk.
    Requeue {
        /// Which job.
        job: JobId,
        /// Which tasks; all dead and failed ones when `None`.
        tasks: Option<Vec<u32>>,
    },
    /// A final job whose results have expired. Ignored while the job is not final.
    Forget {
        /// Which job.
        job: JobId,
    },
    /// How large a share a namespace gets beside others; 1 by default.
    Weight {
        /// Whose share.
        namespace: Namespace,
        /// At least 1.
        weight: u32,
    },
    /// Time has passed.
    Tick,
}

/// What the shell is to carry out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send work to a node; one per node and round.
    Assign {
        /// Which node.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
        /// Which tasks.
        runs: Vec<TaskRun>,
    },
    /// Answer to [`Input::NodeUp`].
    Attached {
        /// Which node.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
        /// How many tasks it goes on with.
        adopted: u32,
        /// What it must stop and forget.
        stop: Held,
    },
    /// Tell a node to stop tasks.
    Stop {
        /// Which node.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
        /// Which tasks.
        tasks: Vec<TaskRef>,
        /// Why.
        reason: Reason,
    },
    /// Ask a node for tasks that it has not started.
    Recall {
        /// Which node.
        node: NodeId,
        /// Under which epoch.
        epoch: Epoch,
        /// Which tasks.
        tasks: Vec<TaskRef>,
    },
    /// Tell a node to forget reports: they are on disk, or nobody needs them.
    Ack {
        /// Which node; over whatever session it has.
        node: NodeId,
        /// Which attempts.
        tasks: Vec<TaskRef>,
    },
    /// Write down outcomes that no node reported, and answer with [`Input::Recorded`].
    Record {
        /// Which batch.
        batch: BatchId,
        /// What becomes of which task.
        tasks: Vec<FinalTask>,
    },
    /// A job ought to be cancelled: write that down and answer with [`Input::Cancel`].
    CancelDue {
        /// Which job.
        job: JobId,
        /// Its deadline passed (`timeout`), or a job it waited for failed (`cancelled`).
        reason: Reason,
        /// The job it waited for that did not succeed.
        because: Option<JobId>,
    },
    /// The first task of a job was handed out.
    JobStarted {
        /// Which job.
        job: JobId,
    },
    /// Tasks became final, and their outcome is on disk.
    Finals(Vec<FinalTask>),
    /// A node was lost while these ran on it. Comes before what becomes of them.
    Lost {
        /// Which node.
        node: NodeId,
        /// Which attempts.
        tasks: Vec<TaskRef>,
    },
    /// A failed attempt is tried again.
    Retrying {
        /// The attempt that failed.
        at: TaskRef,
        /// Why.
        reason: Reason,
        /// When it is tried again.
        due: Monotonic,
    },
    /// Every task of a job is final.
    JobFinal {
        /// Which job.
        job: JobId,
        /// Its final state.
        state: JobState,
        /// How its tasks ended.
        counts: TaskCounts,
    },
    /// The circuit breaker of a class of nodes changed.
    SubstrateBreaker {
        /// The provider, or `own`.
        substrate: Box<str>,
        /// Its new state.
        state: breaker::State,
    },
    /// A node's circuit breaker changed.
    Breaker {
        /// Which node.
        node: NodeId,
        /// Its new state.
        state: breaker::State,
    },
}

//! What the dispatcher's thread is asked to do.

use bytes::Bytes;
use tokio::sync::oneshot;
use weft_core::Epoch;
use weft_core::dispatch::{BatchId, Submission, TaskRef, TaskResult};
use weft_placement::{Availability, Candidate};
use weft_types::{JobId, NodeCapacity, NodeId, Reason, Resources};

use super::attempts::AttemptNote;
use super::endings::Reply;
use super::job::Cancellation;
use super::requeue::{Change, Changed};
use super::shell::Shell;
use super::work::{Outbound, SessionEnd};
use crate::Error;

/// A job on its way in, checked and encoded.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// What the machine needs to know; the id is given by the dispatcher.
    pub submission: Submission,
    /// Its name.
    pub name: String,
    /// The runtime's word.
    pub runtime: &'static str,
    /// The encoded `JobSpec`.
    pub spec: Bytes,
    /// The encoded `TaskPayload` of each task; empty for tasks like the job says.
    pub payloads: Vec<Bytes>,
    /// The key under which the client may submit it again without doubling it.
    pub idempotency_key: Option<String>,
}

/// A node's report on one attempt, with what it left behind.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which attempt, how it ended, how long it took.
    pub result: TaskResult,
    /// The encoded `TaskOutcome`.
    pub outcome: Bytes,
}

/// What a node does to the dispatcher.
#[derive(Debug)]
pub enum NodeReport {
    /// It opened a session.
    Up {
        /// Its capacity.
        candidate: Box<Candidate>,
        /// The most tasks it will hold.
        max_held: u32,
        /// What it holds.
        held: Vec<TaskRef>,
        /// The way to its session.
        outbound: Outbound,
    },
    /// It offers something else than what it said when it opened the session.
    Offers(Box<NodeCapacity>),
    /// Results.
    Results(Vec<Report>),
    /// Tasks that began to run.
    Started(Vec<TaskRef>),
    /// Tasks it gives back.
    Handback {
        /// Which.
        tasks: Vec<TaskRef>,
        /// Why, when it rejects them.
        reason: Option<Reason>,
    },
}

/// A question that is answered on the dispatcher's thread.
pub(super) type Question = Box<dyn FnOnce(&Shell) + Send>;

/// What the dispatcher's thread is asked to do.
pub(super) enum Command {
    /// Take a job.
    Submit {
        job: Box<NewJob>,
        reply: oneshot::Sender<Result<JobId, Error>>,
    },
    /// Give room and a number to a job whose tasks will be streamed into the journal.
    Open {
        tasks: u64,
        reply: oneshot::Sender<Result<JobId, Error>>,
    },
    /// All tasks of the job of [`Command::Open`] are in the journal: complete it.
    Seal {
        job: Box<NewJob>,
        reply: oneshot::Sender<Result<JobId, Error>>,
    },
    /// The job of [`Command::Open`] will not come.
    Abandoned { tasks: u64 },
    /// A submission is on disk, or could not be written.
    Submitted {
        id: JobId,
        written: Result<(), Error>,
    },
    /// Results are on disk, or could not be written.
    Recorded { batch: BatchId, written: bool },
    /// A node reports.
    Node {
        node: NodeId,
        epoch: Epoch,
        report: NodeReport,
    },
    /// A node's availability changed.
    Availability {
        node: NodeId,
        availability: Availability,
    },
    /// Units of services reserve this much of a node.
    UnitsReserve { node: NodeId, reserve: Resources },
    /// A node's lease ended.
    LeaseLost { node: NodeId, epoch: Epoch },
    /// A node was removed.
    Removed { node: NodeId },
    /// Cancel a job.
    Cancel {
        job: JobId,
        reason: Reason,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// The cancellation is on disk, or could not be written.
    Cancelled {
        job: JobId,
        cancellation: Cancellation,
        written: bool,
        reply: Option<oneshot::Sender<Result<(), Error>>>,
    },
    /// Queue failed and dead tasks of a job again, or drop dead ones from the list.
    Change {
        change: Change,
        job: JobId,
        tasks: Vec<AttemptNote>,
        reply: Changed,
    },
    /// The change is on disk, or could not be written.
    Changed {
        change: Change,
        job: JobId,
        tasks: Vec<TaskRef>,
        written: Result<(), Error>,
        reply: Changed,
    },
    /// Forget a job that has ended.
    Forget {
        job: JobId,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    /// Answer once a job has ended; with nothing when it is not known.
    Ended { job: JobId, reply: Reply },
    /// Answer a question.
    Ask(Question),
    /// End every session and the thread.
    Stop {
        end: SessionEnd,
        reply: oneshot::Sender<()>,
    },
}

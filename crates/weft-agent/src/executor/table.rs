//! What is held, under which attempt, and what may start: the decisions, without any effect.
//!
//! Everything held is in one table by job and task, under the attempt that the server gave. What
//! was cancelled or superseded is not in it any more; whoever finishes such work finds that out and
//! drops the result.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use weft_proto::v1;
use weft_runtime::Control;
use weft_types::{NodeCapacity, Reason, Resources};

use super::claims::Claims;
use super::outgoing::Outgoing;
use super::{MAX_HELD_TASKS, TaskId};
use crate::capacity::{Free, offers};
use crate::outcome::Report;
use crate::task::{InlineOp, Job};

/// How far behind the first waiting task one is looked for that fits.
const LOOK_AHEAD: usize = 64;
/// How many tasks may overtake the first waiting one before everything waits for it.
const MAX_OVERTAKEN: u32 = 1_024;
/// Results that may wait for the server, in bytes; beyond that nothing new starts.
const MAX_UNACKNOWLEDGED_BYTES: usize = 256 << 20;

/// A task that is held.
pub(super) struct Held {
    pub(super) attempt: u32,
    pub(super) phase: Phase,
}

impl Held {
    fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done { .. })
    }
}

pub(super) enum Phase {
    /// Waits, or is in the hands of an op thread.
    Queued,
    /// Runs.
    Running(Control),
    /// Has ended; the server has not acknowledged it.
    Done {
        report: Report,
        /// The round in which it was sent over this session.
        sent: Option<u64>,
    },
}

/// What came with a task.
pub(super) enum Payload {
    /// A byte program over bytes at hand.
    Inline(InlineOp),
    /// Anything else, as it came.
    Raw(Bytes),
}

/// A byte program that waits for an op thread.
pub(super) struct Op {
    pub(super) job: Arc<Job>,
    pub(super) task: u32,
    pub(super) attempt: u32,
    pub(super) inline: InlineOp,
}

/// A task that waits for room.
pub(super) struct Waiting {
    pub(super) job: Arc<Job>,
    pub(super) task: u32,
    pub(super) attempt: u32,
    pub(super) payload: Bytes,
}

impl Waiting {
    pub(super) fn id(&self) -> TaskId {
        (self.job.id.0, self.task)
    }
}

/// The work on this node.
pub(super) struct Table {
    capacity: NodeCapacity,
    /// Headers of jobs that have tasks here, and how many.
    jobs: HashMap<u64, (Arc<Job>, u32)>,
    pub(super) held: HashMap<TaskId, Held>,
    ops: VecDeque<Op>,
    waiting: VecDeque<Waiting>,
    overtaken: u32,
    pub(super) free: Free,
    pub(super) claims: Claims,
    running: u32,
    unacknowledged_bytes: usize,
    pub(super) out: Outgoing,
    stopped: bool,
}

impl Table {
    pub(super) fn new(capacity: NodeCapacity) -> Self {
        Self {
            free: Free::all_of(&capacity),
            capacity,
            jobs: HashMap::new(),
            held: HashMap::new(),
            ops: VecDeque::new(),
            waiting: VecDeque::new(),
            overtaken: 0,
            claims: Claims::default(),
            running: 0,
            unacknowledged_bytes: 0,
            out: Outgoing::default(),
            stopped: false,
        }
    }

    pub(super) fn job(&self, id: u64) -> Option<Arc<Job>> {
        self.jobs.get(&id).map(|(job, _)| Arc::clone(job))
    }

    pub(super) fn control(&self, id: TaskId) -> Option<Control> {
        match &self.held.get(&id)?.phase {
            Phase::Running(control) => Some(control.clone()),
            _ => None,
        }
    }

    pub(super) fn is_unfinished(&self, id: TaskId) -> bool {
        self.held.get(&id).is_some_and(|held| !held.is_done())
    }

    /// Whether the whole node has room for this.
    pub(super) fn could_ever_fit(&self, need: &Resources) -> bool {
        offers(&self.capacity, need)
    }

    pub(super) fn load(&self) -> (u32, u32) {
        let held = u32::try_from(self.held.len()).unwrap_or(u32::MAX);
        (self.running, held)
    }

    /// Takes a task over. An older attempt of it is stopped; the same or an older one than is held
    /// changes nothing, so that a message that comes twice does no harm.
    pub(super) fn hold(&mut self, job: &Arc<Job>, task: u32, attempt: u32, payload: Payload) {
        let id = (job.id.0, task);
        if let Some(held) = self.held.get(&id) {
            if held.attempt >= attempt {
                return self.resend(id);
            }
            self.forget(id, attempt, true);
        }
        if !offers(&self.capacity, &job.resources) {
            let reason = Some(Reason::InsufficientResources);
            return self.out.hand_back(id, attempt, reason);
        }
        if self.stopped || self.held.len() >= MAX_HELD_TASKS as usize {
            return self.out.hand_back(id, attempt, None);
        }
        let phase = Phase::Queued;
        self.held.insert(id, Held { attempt, phase });
        self.jobs
            .entry(job.id.0)
            .or_insert_with(|| (Arc::clone(job), 0))
            .1 += 1;
        let job = Arc::clone(job);
        match payload {
            Payload::Inline(inline) => self.ops.push_back(Op {
                job,
                task,
                attempt,
                inline,
            }),
            Payload::Raw(payload) => self.waiting.push_back(Waiting {
                job,
                task,
                attempt,
                payload,
            }),
        }
    }

    pub(super) fn stop(&mut self, tasks: &[v1::HeldTasks]) {
        for group in tasks {
            let all: Vec<(u32, u32)> = if group.tasks.is_empty() {
                let of_job = self.held.iter().filter(|((job, _), _)| *job == group.job);
                of_job.map(|((_, task), h)| (*task, h.attempt)).collect()
            } else {
                pairs(group).collect()
            };
            for (task, attempt) in all {
                self.forget((group.job, task), attempt, true);
            }
        }
        self.drop_forgotten();
    }

    /// Forgets results; whether work that they had kept from starting may start now.
    pub(super) fn acknowledged(&mut self, tasks: &[v1::HeldTasks]) -> bool {
        let could_start = self.may_start();
        for group in tasks {
            for (task, attempt) in pairs(group) {
                let id = (group.job, task);
                if self.held.get(&id).is_some_and(Held::is_done) {
                    self.forget(id, attempt, false);
                }
            }
        }
        !could_start && self.may_start()
    }

    pub(super) fn recall(&mut self, tasks: &[v1::HeldTasks]) {
        for group in tasks {
            for (task, attempt) in pairs(group) {
                let id = (group.job, task);
                if self.waits(id, attempt) && self.forget(id, attempt, false) {
                    self.out.hand_back(id, attempt, None);
                }
            }
        }
        self.drop_forgotten();
    }

    /// Drops a task under this attempt, or an older one than that; whether it was held.
    fn forget(&mut self, id: TaskId, attempt: u32, cancel: bool) -> bool {
        let Entry::Occupied(held) = self.held.entry(id) else {
            return false;
        };
        if held.get().attempt > attempt {
            return false;
        }
        match held.remove().phase {
            Phase::Running(control) if cancel => control.cancel(),
            Phase::Done { report, .. } => self.unacknowledged_bytes -= report.outcome.len(),
            _ => {}
        }
        if let Some((_, count)) = self.jobs.get_mut(&id.0) {
            *count -= 1;
            if *count == 0 {
                self.jobs.remove(&id.0);
            }
        }
        true
    }

    /// Payloads of forgotten tasks must not pile up behind one that waits long for its room.
    fn drop_forgotten(&mut self) {
        let Self {
            held, ops, waiting, ..
        } = self;
        ops.retain(|op| waits(held, (op.job.id.0, op.task), op.attempt));
        waiting.retain(|task| waits(held, task.id(), task.attempt));
    }

    /// Whether this attempt waits to be started.
    fn waits(&self, id: TaskId, attempt: u32) -> bool {
        waits(&self.held, id, attempt)
    }

    fn may_start(&self) -> bool {
        !self.stopped && self.unacknowledged_bytes < MAX_UNACKNOWLEDGED_BYTES
    }

    /// The next waiting task that fits, its resources taken; it counts as running from here on.
    pub(super) fn start_next(&mut self) -> Option<(Waiting, Control)> {
        if !self.may_start() {
            return None;
        }
        let task = self.next_fitting()?;
        let control = Control::new();
        if let Some(held) = self.held.get_mut(&task.id()) {
            held.phase = Phase::Running(control.clone());
        }
        self.running += 1;
        self.out.started(task.id(), task.attempt);
        Some((task, control))
    }

    fn next_fitting(&mut self) -> Option<Waiting> {
        let mut position = 0;
        loop {
            let reach = if self.overtaken < MAX_OVERTAKEN {
                LOOK_AHEAD
            } else {
                1
            };
            if position >= self.waiting.len().min(reach) {
                return None;
            }
            let task = &self.waiting[position];
            if !self.waits(task.id(), task.attempt) {
                self.waiting.remove(position);
                continue;
            }
            if self.free.take(&task.job.resources) {
                self.overtaken = if position == 0 { 0 } else { self.overtaken + 1 };
                return self.waiting.remove(position);
            }
            position += 1;
        }
    }

    /// A task that [`start_next`](Self::start_next) gave has ended.
    pub(super) fn ended(&mut self, task: &Waiting, report: Report) {
        self.running -= 1;
        self.free.give(&task.job.resources);
        self.done(task.id(), task.attempt, report);
    }

    /// An attempt has ended; a result that nobody waits for is dropped.
    pub(super) fn done(&mut self, id: TaskId, attempt: u32, report: Report) {
        let unfinished = |held: &&mut Held| held.attempt == attempt && !held.is_done();
        if let Some(held) = self.held.get_mut(&id).filter(unfinished) {
            self.unacknowledged_bytes += report.outcome.len();
            held.phase = Phase::Done { report, sent: None };
            self.out.done(id);
        }
    }

    /// A part of the byte programs that wait, such that each of `threads` gets some; `None` when
    /// the agent stops.
    pub(super) fn take_ops(&mut self, max_count: usize, threads: usize) -> Option<Vec<Op>> {
        if self.stopped {
            return None;
        }
        if !self.may_start() {
            return Some(Vec::new());
        }
        let count = self.ops.len().div_ceil(threads).min(max_count);
        let taken: Vec<Op> = self.ops.drain(..count).collect();
        let wanted = |op: &Op| self.waits((op.job.id.0, op.task), op.attempt);
        Some(taken.into_iter().filter(wanted).collect())
    }

    pub(super) fn shutdown(&mut self) {
        self.stopped = true;
        self.ops.clear();
        self.waiting.clear();
        for held in self.held.values() {
            if let Phase::Running(control) = &held.phase {
                control.cancel();
            }
        }
        self.held.clear();
        self.jobs.clear();
        self.unacknowledged_bytes = 0;
    }
}

fn waits(held: &HashMap<TaskId, Held>, id: TaskId, attempt: u32) -> bool {
    matches!(held.get(&id), Some(Held { attempt: held, phase: Phase::Queued }) if *held == attempt)
}

fn pairs(group: &v1::HeldTasks) -> impl Iterator<Item = (u32, u32)> + '_ {
    group
        .tasks
        .iter()
        .copied()
        .zip(group.attempts.iter().copied())
}

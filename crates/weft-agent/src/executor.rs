//! The work on this node: what waits, what runs, what is done and not acknowledged.
//!
//! ```text
//!  dispatch ─▶ ops ─────▶ op threads, in batches ──┐
//!           └▶ waiting ─▶ fits? ─▶ a runtime ──────┴▶ done ─▶ outbox ─▶ server ─▶ ack ─▶ forgotten
//! ```
//!
//! Everything held is in one table by job and task, under the attempt that the server gave. What
//! was cancelled or superseded is not in it any more; whoever finishes such work finds that out and
//! drops the result.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_runtime::{Control, Input, OpRuntime, OpTask, Runtimes};
use weft_types::{JobId, NodeCapacity, Reason};

use crate::artifacts::Artifacts;
use crate::capacity::Free;
use crate::identity::now;
use crate::outcome::{Report, of_failure, of_op, of_run};
use crate::task::{InlineOp, Job, inline_op, prepare};

/// The most tasks that are held, running or not.
pub(crate) const MAX_HELD_TASKS: u32 = 8_192;
/// The most byte programs one thread takes at once.
const MAX_OP_BATCH: usize = 256;
/// How far behind the first waiting task one is looked for that fits.
const LOOK_AHEAD: usize = 64;
/// The most results, and about how many bytes of them, in one message.
const MAX_RESULTS_A_MESSAGE: usize = 2_048;
const MAX_RESULT_BYTES: usize = 4 << 20;

/// Which task of which job.
pub(crate) type TaskId = (u64, u32);

/// A task that is held.
struct Held {
    attempt: u32,
    phase: Phase,
}

enum Phase {
    /// Waits, or is in the hands of an op thread.
    Queued,
    /// Runs.
    Running(Control),
    /// Has ended; the server has not acknowledged it.
    Done(Report),
}

/// A byte program that waits for an op thread.
struct Op {
    job: Arc<Job>,
    task: u32,
    attempt: u32,
    inline: InlineOp,
}

/// A task that waits for room.
struct Waiting {
    job: Arc<Job>,
    task: u32,
    attempt: u32,
    payload: Bytes,
}

struct State {
    /// Headers of jobs that have tasks here, and how many.
    jobs: HashMap<u64, (Arc<Job>, u32)>,
    held: HashMap<TaskId, Held>,
    ops: VecDeque<Op>,
    waiting: VecDeque<Waiting>,
    free: Free,
    running: u32,
    /// Done and not sent over this session.
    outbox: VecDeque<TaskId>,
    started: Vec<(TaskId, u32)>,
    handbacks: Vec<(TaskId, u32, Option<Reason>)>,
    stopped: bool,
}

/// The work on this node; cloning shares it.
#[derive(Clone)]
pub(crate) struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    node: String,
    capacity: NodeCapacity,
    runtimes: Runtimes,
    artifacts: Artifacts,
    state: Mutex<State>,
    op_ready: Condvar,
    outgoing: Notify,
    tokio: tokio::runtime::Handle,
}

impl Executor {
    /// Starts `op_threads` threads for byte programs.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        node: String,
        capacity: NodeCapacity,
        runtimes: Runtimes,
        artifacts: Artifacts,
        op_threads: usize,
    ) -> std::io::Result<Self> {
        let state = State {
            jobs: HashMap::new(),
            held: HashMap::new(),
            ops: VecDeque::new(),
            waiting: VecDeque::new(),
            free: Free::all_of(&capacity),
            running: 0,
            outbox: VecDeque::new(),
            started: Vec::new(),
            handbacks: Vec::new(),
            stopped: false,
        };
        let shared = Arc::new(Shared {
            node,
            capacity,
            runtimes,
            artifacts,
            state: Mutex::new(state),
            op_ready: Condvar::new(),
            outgoing: Notify::new(),
            tokio: tokio::runtime::Handle::current(),
        });
        for _ in 0..op_threads.max(1) {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("weft-op".to_owned())
                .spawn(move || shared.run_ops())?;
        }
        Ok(Self { shared })
    }

    /// Takes work over.
    pub(crate) fn dispatch(&self, message: v1::Dispatch) {
        let mut state = self.shared.state.lock();
        let specs: HashMap<u64, Bytes> = message
            .jobs
            .into_iter()
            .map(|header| (header.job, header.spec))
            .collect();
        for group in message.groups {
            let known = state.jobs.get(&group.job).map(|(job, _)| Arc::clone(job));
            let spec = || specs.get(&group.job).cloned().unwrap_or_default();
            let job = known.unwrap_or_else(|| Arc::new(Job::parse(JobId(group.job), &spec())));
            for item in group.tasks {
                state.hold(&job, item.task, item.attempt);
                match inline_op(&job, &item.payload) {
                    Some(inline) => {
                        let op = Op {
                            job: Arc::clone(&job),
                            task: item.task,
                            attempt: item.attempt,
                            inline,
                        };
                        state.ops.push_back(op);
                    }
                    None => state.waiting.push_back(Waiting {
                        job: Arc::clone(&job),
                        task: item.task,
                        attempt: item.attempt,
                        payload: item.payload,
                    }),
                }
            }
        }
        let has_ops = !state.ops.is_empty();
        drop(state);
        if has_ops {
            self.shared.op_ready.notify_all();
        }
        self.shared.start_what_fits();
    }

    /// Stops tasks and forgets them; no tasks named means all of the job.
    pub(crate) fn stop(&self, tasks: &[v1::HeldTasks]) {
        let mut state = self.shared.state.lock();
        for group in tasks {
            let all: Vec<(u32, u32)> = if group.tasks.is_empty() {
                state
                    .held
                    .iter()
                    .filter(|((job, _), _)| *job == group.job)
                    .map(|((_, task), h)| (*task, h.attempt))
                    .collect()
            } else {
                group
                    .tasks
                    .iter()
                    .copied()
                    .zip(group.attempts.iter().copied())
                    .collect()
            };
            for (task, attempt) in all {
                state.forget((group.job, task), attempt, true);
            }
        }
    }

    /// Forgets results that the server has on disk.
    pub(crate) fn acknowledged(&self, tasks: &[v1::HeldTasks]) {
        let mut state = self.shared.state.lock();
        for group in tasks {
            for (task, attempt) in group.tasks.iter().zip(&group.attempts) {
                let id = (group.job, *task);
                if matches!(
                    state.held.get(&id),
                    Some(Held {
                        phase: Phase::Done(_),
                        ..
                    })
                ) {
                    state.forget(id, *attempt, false);
                }
            }
        }
    }

    /// Gives back what has not started.
    pub(crate) fn recall(&self, tasks: &[v1::HeldTasks]) {
        let mut state = self.shared.state.lock();
        for group in tasks {
            for (task, attempt) in group.tasks.iter().zip(&group.attempts) {
                let id = (group.job, *task);
                let waits = matches!(
                    state.held.get(&id),
                    Some(Held {
                        phase: Phase::Queued,
                        ..
                    })
                );
                if waits && state.forget(id, *attempt, false) {
                    state.handbacks.push((id, *attempt, None));
                }
            }
        }
        drop(state);
        self.shared.outgoing.notify_one();
    }

    /// Everything that is held, for the greeting of a session.
    pub(crate) fn held(&self) -> Vec<v1::HeldTasks> {
        let state = self.shared.state.lock();
        by_job(state.held.iter().map(|(id, held)| (*id, held.attempt)))
    }

    /// A new session: what is done has to be sent again.
    pub(crate) fn resend(&self) {
        let mut state = self.shared.state.lock();
        let done = state
            .held
            .iter()
            .filter(|(_, held)| matches!(held.phase, Phase::Done(_)));
        let mut done: Vec<TaskId> = done.map(|(id, _)| *id).collect();
        done.sort_unstable();
        state.outbox = done.into();
        drop(state);
        self.shared.outgoing.notify_one();
    }

    /// Resolves when there may be something to send.
    pub(crate) async fn outgoing(&self) {
        self.shared.outgoing.notified().await;
    }

    /// The next message to send; `None` when there is nothing.
    pub(crate) fn next_message(&self) -> Option<Message> {
        let mut state = self.shared.state.lock();
        if !state.started.is_empty() {
            let started = std::mem::take(&mut state.started);
            return Some(Message::Started(v1::Started {
                tasks: by_job(started.into_iter()),
            }));
        }
        if !state.handbacks.is_empty() {
            let reason = state.handbacks[0].2;
            let (same, others) = state
                .handbacks
                .drain(..)
                .partition::<Vec<_>, _>(|(_, _, why)| *why == reason);
            state.handbacks = others;
            let tasks = by_job(same.into_iter().map(|(id, attempt, _)| (id, attempt)));
            let detail = if reason.is_some() {
                "the node has too little for it"
            } else {
                ""
            }
            .to_owned();
            return Some(Message::Handback(v1::Handback {
                tasks,
                reason: reason.map_or(0, |reason| reason.code().into()),
                detail,
            }));
        }
        state.results().map(Message::Results)
    }

    /// The control of a task that runs.
    pub(crate) fn control(&self, id: TaskId) -> Option<Control> {
        match self.shared.state.lock().held.get(&id) {
            Some(Held {
                phase: Phase::Running(control),
                ..
            }) => Some(control.clone()),
            _ => None,
        }
    }

    /// Whether a task is held, whatever it does.
    pub(crate) fn holds(&self, id: TaskId) -> bool {
        let state = self.shared.state.lock();
        state
            .held
            .get(&id)
            .is_some_and(|held| !matches!(held.phase, Phase::Done(_)))
    }

    /// Tasks that run, and tasks that are held.
    pub(crate) fn load(&self) -> (u32, u32) {
        let state = self.shared.state.lock();
        (
            state.running,
            u32::try_from(state.held.len()).unwrap_or(u32::MAX),
        )
    }

    /// Stops everything, for good.
    pub(crate) fn shutdown(&self) {
        let mut state = self.shared.state.lock();
        state.stopped = true;
        state.ops.clear();
        state.waiting.clear();
        for held in state.held.values() {
            if let Phase::Running(control) = &held.phase {
                control.cancel();
            }
        }
        state.held.clear();
        drop(state);
        self.shared.op_ready.notify_all();
    }
}

impl State {
    /// Notes a task; an older attempt of it is stopped.
    fn hold(&mut self, job: &Arc<Job>, task: u32, attempt: u32) {
        let id = (job.id.0, task);
        let held = Held {
            attempt,
            phase: Phase::Queued,
        };
        match self.held.entry(id) {
            Entry::Occupied(mut old) => {
                if let Phase::Running(control) = &old.get().phase {
                    control.cancel();
                }
                old.insert(held);
            }
            Entry::Vacant(place) => {
                place.insert(held);
                self.jobs
                    .entry(job.id.0)
                    .or_insert_with(|| (Arc::clone(job), 0))
                    .1 += 1;
            }
        }
    }

    /// Drops a task under this attempt, or a later one than is held; whether it was held.
    fn forget(&mut self, id: TaskId, attempt: u32, cancel: bool) -> bool {
        let Entry::Occupied(held) = self.held.entry(id) else {
            return false;
        };
        if held.get().attempt > attempt {
            return false;
        }
        let held = held.remove();
        if let Phase::Running(control) = held.phase
            && cancel
        {
            control.cancel();
        }
        if let Some((_, count)) = self.jobs.get_mut(&id.0) {
            *count -= 1;
            if *count == 0 {
                self.jobs.remove(&id.0);
            }
        }
        true
    }

    /// Whether this attempt waits to be started.
    fn waits(&self, id: TaskId, attempt: u32) -> bool {
        matches!(self.held.get(&id), Some(Held { attempt: held, phase: Phase::Queued }) if *held == attempt)
    }

    /// An attempt has ended; a result that nobody waits for is dropped.
    fn done(&mut self, id: TaskId, attempt: u32, report: Report) {
        if let Some(held) = self
            .held
            .get_mut(&id)
            .filter(|held| held.attempt == attempt)
        {
            held.phase = Phase::Done(report);
            self.outbox.push_back(id);
        }
    }

    fn results(&mut self) -> Option<v1::ResultBatch> {
        let mut groups: Vec<v1::ResultGroup> = Vec::new();
        let (mut count, mut size) = (0, 0);
        while count < MAX_RESULTS_A_MESSAGE
            && size < MAX_RESULT_BYTES
            && let Some(id) = self.outbox.pop_front()
        {
            let Some(Held {
                attempt,
                phase: Phase::Done(report),
            }) = self.held.get(&id)
            else {
                continue;
            };
            count += 1;
            size += report.outcome.len();
            let item = v1::ResultItem {
                task: id.1,
                attempt: *attempt,
                reason: report.reason,
                run_us: report.run_us,
                outcome: report.outcome.clone(),
            };
            match groups.last_mut() {
                Some(group) if group.job == id.0 => group.results.push(item),
                _ => groups.push(v1::ResultGroup {
                    job: id.0,
                    results: vec![item],
                }),
            }
        }
        (count > 0).then_some(v1::ResultBatch { groups })
    }

    /// The next waiting task that fits, its resources taken.
    fn next_fitting(&mut self) -> Option<Waiting> {
        let mut position = 0;
        while position < self.waiting.len().min(LOOK_AHEAD) {
            let task = &self.waiting[position];
            if !self.waits((task.job.id.0, task.task), task.attempt) {
                self.waiting.remove(position);
                continue;
            }
            if self.free.take(&task.job.resources) {
                return self.waiting.remove(position);
            }
            position += 1;
        }
        None
    }
}

impl Shared {
    fn start_what_fits(self: &Arc<Self>) {
        let mut state = self.state.lock();
        self.reject_what_never_fits(&mut state);
        while let Some(task) = state.next_fitting() {
            let id = (task.job.id.0, task.task);
            let control = Control::new();
            if let Some(held) = state.held.get_mut(&id) {
                held.phase = Phase::Running(control.clone());
            }
            state.running += 1;
            state.started.push((id, task.attempt));
            let shared = Arc::clone(self);
            self.tokio
                .spawn(async move { shared.run(task, control).await });
        }
        let tell = !state.started.is_empty() || !state.handbacks.is_empty();
        drop(state);
        if tell {
            self.outgoing.notify_one();
        }
    }

    fn reject_what_never_fits(&self, state: &mut State) {
        let whole = Free::all_of(&self.capacity);
        let Some(first) = state.waiting.front() else {
            return;
        };
        if whole.fits(&first.job.resources) {
            return;
        }
        if let Some(task) = state.waiting.pop_front() {
            let id = (task.job.id.0, task.task);
            if state.forget(id, task.attempt, false) {
                state
                    .handbacks
                    .push((id, task.attempt, Some(Reason::InsufficientResources)));
            }
        }
    }

    async fn run(self: Arc<Self>, task: Waiting, control: Control) {
        let started_ms = now().as_millis();
        let report = match prepare(
            &task.job,
            task.task,
            task.attempt,
            &task.payload,
            &self.artifacts,
        )
        .await
        {
            Ok(run) => {
                let outcome = self.runtimes.run(run, control).await;
                of_run(&self.node, started_ms, outcome, &self.artifacts).await
            }
            Err(failure) => of_failure(&self.node, failure),
        };
        let mut state = self.state.lock();
        state.running -= 1;
        state.free.give(&task.job.resources);
        state.done((task.job.id.0, task.task), task.attempt, report);
        drop(state);
        self.outgoing.notify_one();
        self.start_what_fits();
    }

    /// An op thread: takes byte programs in batches until the agent stops.
    fn run_ops(&self) {
        // Heartbeats and reports go before computing.
        let _ = rustix::process::nice(5);
        while let Some(batch) = self.take_ops() {
            let tasks: Vec<OpTask<'_>> = batch.iter().filter_map(op_task).collect();
            let outcomes = OpRuntime.run_batch(&tasks);
            let finished_ms = now().as_millis();
            let reports: Vec<Report> = outcomes
                .into_iter()
                .map(|outcome| of_op(&self.node, finished_ms, outcome))
                .collect();
            let mut state = self.state.lock();
            for (op, report) in batch.iter().zip(reports) {
                state.done((op.job.id.0, op.task), op.attempt, report);
            }
            drop(state);
            self.outgoing.notify_one();
        }
    }

    fn take_ops(&self) -> Option<Vec<Op>> {
        let mut state = self.state.lock();
        loop {
            if state.stopped {
                return None;
            }
            let count = state.ops.len().min(MAX_OP_BATCH);
            if count > 0 {
                let taken: Vec<Op> = state.ops.drain(..count).collect();
                let wanted = |op: &Op| state.waits((op.job.id.0, op.task), op.attempt);
                return Some(taken.into_iter().filter(wanted).collect());
            }
            self.op_ready.wait(&mut state);
        }
    }
}

/// The program of the task, or of its job; one of them is there, or it would not be inline.
fn op_task(op: &Op) -> Option<OpTask<'_>> {
    let program = op.inline.program.as_ref().or(op.job.program.as_ref())?;
    let input: &Input = &op.inline.input;
    Some(OpTask {
        program,
        input,
        timeout: op.inline.timeout,
        control: None,
    })
}

fn by_job(tasks: impl Iterator<Item = (TaskId, u32)>) -> Vec<v1::HeldTasks> {
    let mut groups: BTreeMap<u64, v1::HeldTasks> = BTreeMap::new();
    for ((job, task), attempt) in tasks {
        let group = groups.entry(job).or_insert_with(|| v1::HeldTasks {
            job,
            ..Default::default()
        });
        group.tasks.push(task);
        group.attempts.push(attempt);
    }
    groups.into_values().collect()
}

//! The dispatcher's thread.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use weft_core::dispatch::{
    BatchId, FinalTask, Input, Machine, Output, TaskRef, TaskResult, TaskRun, Verdict,
};
use weft_core::{Epoch, Monotonic};
use weft_types::{JobId, JobState, NodeId, Reason, Resources, TaskCounts, TaskState, Timestamp};

use super::attempts::{AttemptNote, own_outcome};
use super::command::{Command, NewJob, NodeReport, Report};
use super::dead::DeadLetters;
use super::endings::{Endings, Reply};
use super::handle::Watchers;
use super::job::{Cancellation, JobRecord, JobStats};
use super::log::{Log, TaskRecord};
use super::reserved::{Reserved, difference};
use super::work::{Outbound, SessionEnd, Work};
use crate::Error;
use crate::clock::Clock;
use crate::events::Events;
use crate::metrics::Metrics;

/// The most commands that are taken before work is handed out.
const MAX_COMMANDS_A_ROUND: usize = 512;
/// The longest the thread sleeps, so that expired results are noticed.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// The most jobs that are forgotten in one round.
const MAX_FORGOTTEN_A_ROUND: usize = 256;

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

/// Figures of the dispatcher at one moment.
#[derive(Debug, Clone, Default)]
pub struct Gauges {
    /// Jobs in memory.
    pub jobs: u64,
    /// Tasks in memory.
    pub tasks: u64,
    /// Nodes with a session.
    pub sessions: u64,
    /// How many tasks of which namespace are in which state.
    pub counts: BTreeMap<String, TaskCounts>,
    /// Dead letters of each namespace that has some.
    pub dead: BTreeMap<String, u64>,
}

/// A node's session.
pub(super) struct Session {
    pub(super) epoch: Epoch,
    pub(super) outbound: Outbound,
}

/// A job that is being written, and everybody who waits for that.
pub(super) struct Submitting {
    job: Box<NewJob>,
    replies: Vec<oneshot::Sender<Result<JobId, Error>>>,
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

    fn now(&self) -> Monotonic {
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

    // Jobs in.

    /// Room for a job's tasks, and its number: greater than all before, and about the time.
    fn admit(&mut self, tasks: u64) -> Result<JobId, Error> {
        self.machine.admit(tasks)?;
        self.last_id = (self.last_id + 1).max(self.clock.wall().as_millis() << 20);
        Ok(JobId(self.last_id))
    }

    fn submit(&mut self, mut job: Box<NewJob>, reply: oneshot::Sender<Result<JobId, Error>>) {
        let Some(reply) = self.unless_known(&job, reply) else {
            return;
        };
        let id = match self.admit(job.submission.weight()) {
            Ok(id) => id,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        job.submission.id = id;
        let answers = self.answers.clone();
        self.log
            .append_job(id, &job, self.clock.wall(), move |written| {
                answer(&answers, Command::Submitted { id, written });
            });
        self.is_submitting(job, reply);
    }

    /// Completes a streamed job, unless an earlier one has its key.
    fn seal(&mut self, job: Box<NewJob>, reply: oneshot::Sender<Result<JobId, Error>>) {
        let (id, tasks) = (job.submission.id, job.submission.tasks);
        // It was opened before anybody knew how many tasks it has.
        self.machine.abandon(0);
        let Some(reply) = self.unless_known(&job, reply) else {
            return self.log.remove(id);
        };
        if let Err(error) = self.machine.admit(job.submission.weight()) {
            let _ = reply.send(Err(error.into()));
            return self.log.remove(id);
        }
        let answers = self.answers.clone();
        let dependent = job.submission.graph.is_some();
        self.log.seal_job(id, tasks, dependent, move |written| {
            answer(&answers, Command::Submitted { id, written });
        });
        self.is_submitting(job, reply);
    }

    /// Answers a submission whose key an earlier one had; otherwise gives the reply back.
    fn unless_known(
        &mut self,
        job: &NewJob,
        reply: oneshot::Sender<Result<JobId, Error>>,
    ) -> Option<oneshot::Sender<Result<JobId, Error>>> {
        let known = job.idempotency_key.as_ref();
        let Some(&known) = known.and_then(|key| self.keys.get(key)) else {
            return Some(reply);
        };
        match self.submitting.get_mut(&known) {
            Some(submitting) => submitting.replies.push(reply),
            None => drop(reply.send(Ok(known))),
        }
        None
    }

    /// A job is on its way to the disk.
    fn is_submitting(&mut self, job: Box<NewJob>, reply: oneshot::Sender<Result<JobId, Error>>) {
        let id = job.submission.id;
        if let Some(key) = &job.idempotency_key {
            self.keys.insert(key.clone(), id);
        }
        let replies = vec![reply];
        self.submitting.insert(id, Submitting { job, replies });
    }

    fn submitted(&mut self, now: Monotonic, id: JobId, written: Result<(), Error>) {
        let Some(Submitting { job, replies }) = self.submitting.remove(&id) else {
            return;
        };
        match written {
            Ok(()) => {
                self.accept_job(now, job);
                for reply in replies {
                    let _ = reply.send(Ok(id));
                }
            }
            Err(error) => {
                self.machine.abandon(job.submission.weight());
                if let Some(key) = &job.idempotency_key {
                    self.keys.remove(key);
                }
                self.log.remove(id);
                let detail = error.to_string();
                for reply in replies {
                    let _ = reply.send(Err(Error::not_written(&detail)));
                }
            }
        }
    }

    /// A job is on disk: it exists from now on.
    fn accept_job(&mut self, now: Monotonic, job: Box<NewJob>) {
        let NewJob {
            submission,
            name,
            runtime,
            spec,
            idempotency_key,
            ..
        } = *job;
        let record = JobRecord {
            name: name.into(),
            namespace: submission.namespace.clone(),
            runtime,
            priority: submission.priority,
            spec,
            created: self.clock.wall(),
            started: None,
            finished: None,
            accepted: Some(Instant::now()),
            key: idempotency_key.map(Into::into),
            cancelled: None,
            dependent_tasks: submission.graph.is_some(),
        };
        if let Some(key) = &record.key {
            self.keys.insert(key.to_string(), submission.id);
        }
        self.jobs.insert(submission.id, record);
        self.metrics.jobs_submitted.inc();
        self.metrics
            .tasks_submitted
            .inc_by(u64::from(submission.tasks));
        self.step(now, Input::Submit(submission));
    }

    // Nodes.

    fn node(&mut self, now: Monotonic, node: NodeId, epoch: Epoch, report: NodeReport) {
        match report {
            NodeReport::Up {
                candidate,
                max_held,
                held,
                outbound,
            } => {
                let session = Session { epoch, outbound };
                if let Some(old) = self.sessions.insert(node.clone(), session) {
                    let _ = old.outbound.try_send(Work::End(SessionEnd::Replaced));
                }
                let candidate = self.reserved.up(&node, *candidate);
                self.step(
                    now,
                    Input::NodeUp {
                        node,
                        epoch,
                        candidate,
                        max_held,
                        held,
                    },
                );
            }
            NodeReport::Offers(capacity) => {
                let session = self.sessions.get(&node);
                if session.is_some_and(|session| session.epoch == epoch)
                    && let Some(candidate) = self.reserved.offers(&node, *capacity)
                {
                    self.step(now, Input::NodeChanged { node, candidate });
                }
            }
            NodeReport::Results(reports) => self.results(now, &node, epoch, reports),
            NodeReport::Started(tasks) => self.step(now, Input::Started { node, epoch, tasks }),
            NodeReport::Handback { tasks, reason } => {
                self.note_rejected(&node, &tasks, reason);
                self.step(
                    now,
                    Input::Handback {
                        node,
                        epoch,
                        tasks,
                        reason,
                    },
                );
            }
        }
    }

    /// A node that refuses a task used up an attempt of it, unless it was merely full.
    fn note_rejected(&self, node: &NodeId, tasks: &[TaskRef], reason: Option<Reason>) {
        let Some(reason) = reason.filter(|reason| *reason != Reason::InsufficientResources) else {
            return;
        };
        let is_held = |at: &TaskRef| {
            let task = self.machine.task(at.job, at.task);
            task.is_some_and(|(_, attempt, holder)| attempt == at.attempt && holder == Some(node))
        };
        let tasks = tasks.iter().copied().filter(is_held).collect();
        self.note_unreported(node, tasks, reason);
    }

    /// Attempts that end without a report go into the history as well.
    fn note_unreported(&self, node: &NodeId, tasks: Vec<TaskRef>, reason: Reason) {
        if tasks.is_empty() {
            return;
        }
        self.metrics.failed(reason, tasks.len() as u64);
        let now = self.clock.wall();
        let notes = tasks
            .into_iter()
            .map(|at| AttemptNote::unreported(at, reason, node, now));
        self.log.note_attempts(notes.collect());
    }

    /// Sorts reports into those to record and those to let go, and writes the first.
    fn results(&mut self, now: Monotonic, node: &NodeId, epoch: Epoch, reports: Vec<Report>) {
        let results: Vec<TaskResult> = reports.iter().map(|report| report.result).collect();
        let accepted = self
            .machine
            .accept(now, node, epoch, &results, &mut self.out);
        let mut records = Vec::new();
        let mut notes = Vec::new();
        let mut ended = 0;
        for (report, verdict) in reports.into_iter().zip(accepted.verdicts) {
            let at = report.result.at;
            let reason = match report.result.outcome {
                weft_core::dispatch::Outcome::Completed => None,
                weft_core::dispatch::Outcome::Failed(reason) => Some(reason),
            };
            match verdict {
                Verdict::Record(state) => records.push(TaskRecord {
                    at,
                    state,
                    reason,
                    outcome: report.outcome,
                }),
                Verdict::Retry => notes.push(AttemptNote {
                    at,
                    reason,
                    counted: true,
                    outcome: report.outcome,
                }),
                Verdict::Pending | Verdict::Ignore => continue,
                Verdict::Fenced => return self.end_session(node, epoch, SessionEnd::LeaseLost),
            }
            ended += 1;
            self.metrics.attempt(reason, report.result.run_us);
        }
        self.metrics.activity.ended(node, ended);
        if !notes.is_empty() {
            self.log.note_attempts(notes);
        }
        if let Some(batch) = accepted.batch {
            self.append(batch, records);
        }
    }

    fn append(&self, batch: BatchId, records: Vec<TaskRecord>) {
        let answers = self.answers.clone();
        let metrics = Arc::clone(&self.metrics);
        let started = Instant::now();
        self.log.append_results(records, move |written| {
            metrics
                .journal_append_s
                .observe(started.elapsed().as_secs_f64());
            if let Err(error) = &written {
                tracing::error!(%error, "results could not be written; the nodes keep them");
            }
            answer(
                &answers,
                Command::Recorded {
                    batch,
                    written: written.is_ok(),
                },
            );
        });
    }

    fn recorded(&mut self, now: Monotonic, batch: BatchId, written: bool) {
        self.step(
            now,
            if written {
                Input::Recorded { batch }
            } else {
                Input::RecordFailed { batch }
            },
        );
    }

    fn lease_lost(&mut self, now: Monotonic, node: NodeId, epoch: Epoch) {
        self.end_session(&node, epoch, SessionEnd::LeaseLost);
        self.step(now, Input::NodeDown { node, epoch });
    }

    fn removed(&mut self, now: Monotonic, node: NodeId) {
        if let Some(session) = self.sessions.remove(&node) {
            let _ = session.outbound.try_send(Work::End(SessionEnd::Removed));
        }
        self.metrics.activity.removed(&node);
        self.reserved.removed(&node);
        self.step(now, Input::NodeRemoved { node });
    }

    fn end_session(&mut self, node: &NodeId, epoch: Epoch, end: SessionEnd) {
        if self
            .sessions
            .get(node)
            .is_some_and(|session| session.epoch == epoch)
            && let Some(session) = self.sessions.remove(node)
        {
            let _ = session.outbound.try_send(Work::End(end));
        }
    }

    fn end_sessions(&mut self, end: SessionEnd) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            let _ = session.outbound.try_send(Work::End(end));
        }
    }

    /// A session that is too far behind is dropped; the node comes back and says what it holds.
    fn send(&mut self, node: &NodeId, work: Work) {
        let Some(session) = self.sessions.get(node) else {
            return;
        };
        if session.outbound.try_send(work).is_err() {
            tracing::warn!(%node, "its session is too far behind and is dropped");
            self.sessions.remove(node);
        }
    }

    // Jobs out.

    fn forget(&mut self, now: Monotonic, job: JobId) -> Result<(), Error> {
        let state = self.machine.job_state(job).ok_or_else(|| unknown(job))?;
        if !state.is_final() {
            return Err(Error::NotFinal(job));
        }
        self.step(now, Input::Forget { job });
        self.dead.remove_job(job);
        if let Some(key) = self.jobs.remove(&job).and_then(|record| record.key) {
            self.keys.remove(&*key);
        }
        self.log.remove(job);
        self.watchers.notify(job);
        Ok(())
    }

    fn expire(&mut self) {
        let wall = self.clock.wall();
        for _ in 0..MAX_FORGOTTEN_A_ROUND {
            let Some(&(due, job)) = self.expiring.front() else {
                return;
            };
            if due > wall {
                return;
            }
            self.expiring.pop_front();
            let _ = self.forget(self.now(), job);
        }
    }

    // Outputs.

    fn carry_out(&mut self, now: Monotonic) {
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Assign { node, runs, .. } => {
                    self.count_assigned(&runs);
                    let with_spec = |run: TaskRun| (run, self.spec(run.job).unwrap_or_default());
                    let work = Work::Assign(runs.into_iter().map(with_spec).collect());
                    self.send(&node, work);
                }
                Output::Attached { node, stop, .. } => self.send(&node, Work::Attached { stop }),
                Output::Stop {
                    node,
                    tasks,
                    reason,
                    ..
                } => self.send(&node, Work::Stop { tasks, reason }),
                Output::Recall { node, tasks, .. } => self.send(&node, Work::Recall(tasks)),
                Output::Ack { node, tasks } => self.send(&node, Work::Ack(tasks)),
                Output::Record { batch, tasks } => self.record_own(batch, tasks),
                Output::CancelDue {
                    job,
                    reason,
                    because,
                } => self.cancel(job, self.cancellation(reason, because), None),
                Output::JobStarted { job } => self.job_started(job),
                Output::Finals(tasks) => self.finals(&tasks),
                Output::Lost { node, tasks } => {
                    self.note_unreported(&node, tasks, Reason::NodeLost);
                }
                Output::Retrying { at, reason, due } => {
                    self.metrics.retries.inc();
                    tracing::debug!(job = %at.job, task = at.task, %reason, in_ms = due.since_ms(now), "tried again");
                }
                Output::JobFinal { job, state, .. } => self.job_final(job, state),
                Output::SubstrateBreaker { substrate, state } => {
                    let data = json!({ "state": format!("{state:?}").to_lowercase() });
                    self.events
                        .emit(self.clock.wall(), "substrate.breaker", &substrate, data);
                }
                Output::Breaker { node, state } => {
                    self.metrics.activity.breaker(&node, state);
                    let data = json!({ "state": format!("{state:?}").to_lowercase() });
                    self.events
                        .emit(self.clock.wall(), "node.breaker", node.as_str(), data);
                }
            }
        }
    }

    /// Counts what is handed out, and how long it has waited since its job was on disk. Later
    /// attempts have waited for something else as well, and are not measured.
    fn count_assigned(&self, runs: &[TaskRun]) {
        let now = Instant::now();
        for run in runs {
            self.metrics.tasks_assigned.inc_by(run.len.into());
            let accepted = self.jobs.get(&run.job).and_then(|record| record.accepted);
            if let Some(accepted) = accepted.filter(|_| run.attempt == 1) {
                let waited = now.saturating_duration_since(accepted);
                self.metrics.dispatched(waited, run.len);
            }
        }
    }

    /// Outcomes that no node reported: cancelled, or dead because its nodes were lost.
    fn record_own(&self, batch: BatchId, tasks: Vec<FinalTask>) {
        let now = self.clock.wall();
        let record = |task: FinalTask| TaskRecord {
            at: task.at,
            state: task.state,
            reason: task.reason,
            outcome: match task.reason.filter(|_| task.state == TaskState::Dead) {
                Some(reason) => own_outcome("", reason.sentence().to_owned(), now),
                None => Bytes::new(),
            },
        };
        self.append(batch, tasks.into_iter().map(record).collect());
    }

    fn job_started(&mut self, job: JobId) {
        if let Some(record) = self.jobs.get_mut(&job) {
            record.started = Some(self.clock.wall());
        }
        self.watchers.notify(job);
    }

    fn finals(&mut self, tasks: &[FinalTask]) {
        let mut last = None;
        for task in tasks {
            self.metrics.task_final(task.state);
            if task.state == TaskState::Dead {
                self.died(task);
            }
            if last != Some(task.at.job) {
                last = Some(task.at.job);
                self.watchers.notify(task.at.job);
            }
        }
    }

    /// A dead letter more. Told at 1, 10, 100 and so on of a job: an event each would drown the rest.
    fn died(&mut self, task: &FinalTask) {
        let job = task.at.job;
        let count = self.dead.add(job, task.at.task);
        if count.to_string().trim_end_matches('0') == "1" {
            let reason = task.reason.unwrap_or(Reason::Internal);
            let data = json!({
                "dead": count, "task": task.at.task, "reason": reason.as_str(),
                "detail": reason.sentence(), "next": format!("weft dlq ls --job {job}"),
            });
            self.events
                .emit(self.clock.wall(), "job.dead-letter", &job.to_string(), data);
        }
    }

    fn job_final(&mut self, job: JobId, state: JobState) {
        let wall = self.clock.wall();
        let Some(record) = self.jobs.get_mut(&job) else {
            return;
        };
        record.finished = Some(wall);
        // A job of one task that went well is told by its result; an event each would drown the rest.
        let counts = self.machine.counts(job).unwrap_or_default();
        if counts.total > 1 || state != JobState::Succeeded {
            let data = json!({ "state": state.as_str(), "name": &*record.name, "tasks": counts });
            self.events.emit(wall, "job.ended", &job.to_string(), data);
        }
        let state = self.stored_state(job, None);
        self.log.append_state_unhurried(job, &state);
        self.expiring.push_back((wall.plus(self.result_ttl), job));
        self.watchers.notify(job);
        for reply in self.endings.take(job) {
            let _ = reply.send(self.stats(job));
        }
    }

    /// Answers at once when there is nothing to wait for: the job has ended, or is not known.
    fn tell_end(&mut self, job: JobId, reply: Reply) {
        if self
            .machine
            .job_state(job)
            .is_some_and(|state| !state.is_final())
        {
            self.endings.wait(job, reply);
        } else {
            let _ = reply.send(self.stats(job));
        }
    }

    // Questions.

    /// A job's record and counts.
    pub fn stats(&self, id: JobId) -> Option<JobStats> {
        let record = self.jobs.get(&id)?.clone();
        let state = self.machine.job_state(id)?;
        let counts = self.machine.counts(id)?;
        Some(JobStats {
            id,
            state,
            counts,
            record,
        })
    }

    /// The job that was submitted with an idempotency key.
    pub fn job_of_key(&self, key: &str) -> Option<JobId> {
        self.keys.get(key).copied()
    }

    /// The encoded `JobSpec` of a job.
    pub fn spec(&self, id: JobId) -> Option<Bytes> {
        self.jobs.get(&id).map(|record| record.spec.clone())
    }

    /// The machine, to be asked.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Ids of the jobs before `before`, newest first.
    pub fn newest_jobs(&self, before: JobId, limit: usize) -> Vec<JobId> {
        let mut ids: Vec<JobId> = self
            .jobs
            .keys()
            .copied()
            .filter(|id| *id < before)
            .collect();
        let count = limit.min(ids.len());
        if count > 0 && count < ids.len() {
            ids.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        }
        ids.truncate(count);
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids
    }

    /// Asks the node that has a task for its output, from these offsets on. Whether a node has it.
    pub fn follow(&self, job: JobId, task: u32, stdout_offset: u64, stderr_offset: u64) -> bool {
        let node = self.machine.task(job, task).and_then(|(_, _, node)| node);
        let Some(session) = node.and_then(|node| self.sessions.get(node)) else {
            return false;
        };
        session
            .outbound
            .try_send(Work::Follow {
                job,
                task,
                stdout_offset,
                stderr_offset,
            })
            .is_ok()
    }

    /// Figures that are read when somebody asks for metrics.
    pub fn gauges(&self) -> Gauges {
        let (jobs, tasks) = self.machine.size();
        let counts = self.machine.counts_by_namespace();
        let mut dead: BTreeMap<String, u64> = BTreeMap::new();
        for (job, count) in self.dead.counts() {
            if let Some(record) = self.jobs.get(&job) {
                *dead.entry(record.namespace.to_string()).or_default() += count;
            }
        }
        Gauges {
            jobs,
            tasks,
            sessions: self.sessions.len() as u64,
            counts: counts
                .into_iter()
                .map(|(namespace, counts)| (namespace.to_string(), counts))
                .collect(),
            dead,
        }
    }

    /// What tasks reserve of each node that has had a session.
    pub fn reserved_by_tasks(&self) -> BTreeMap<NodeId, Resources> {
        let nodes = self.reserved.nodes();
        let reserved = nodes.filter_map(|node| {
            let (candidate, free) = self.machine.node_room(node)?;
            Some((node.clone(), difference(&candidate.capacity, free)))
        });
        reserved.collect()
    }

    /// The nodes that have a session.
    pub fn connected(&self) -> usize {
        self.sessions.len()
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

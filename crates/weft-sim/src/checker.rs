//! What must never happen, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::breaker::State;
use weft_core::dispatch::{FinalTask, Machine, Submission, TaskRef, TaskRun};
use weft_types::{JobId, NodeId, TaskState};

use crate::journal::{Journal, Record};

/// What was promised and what was seen.
#[derive(Default, Debug)]
pub struct Checker {
    /// Acknowledged jobs and how many tasks they have.
    pub acknowledged: BTreeMap<JobId, u32>,
    /// Final states that somebody has seen.
    visible: BTreeMap<(JobId, u32), TaskState>,
    /// Results in the journal.
    recorded: BTreeSet<(JobId, u32)>,
    /// Every job that somebody tried to submit.
    submitted: BTreeMap<JobId, Submission>,
    /// Jobs whose cancellation is on disk.
    cancelled: BTreeSet<JobId>,
    /// What nodes said they hold when they came, until they are answered.
    claimed: BTreeMap<NodeId, Vec<TaskRef>>,
    /// Substrates whose breaker is open.
    open: BTreeSet<Box<str>>,
    /// Attempts that this server process has handed out.
    assigned: BTreeSet<TaskRef>,
    violation: Option<String>,
}

impl Checker {
    /// Notes the first thing that went wrong.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// What went wrong first.
    pub fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// A job is on its way into the journal.
    pub fn submit(&mut self, submission: &Submission) {
        self.submitted.insert(submission.id, submission.clone());
    }

    /// The cancellation of a job is on disk.
    pub fn cancel(&mut self, job: JobId) {
        self.cancelled.insert(job);
    }

    /// The breaker of a substrate has changed.
    pub fn substrate(&mut self, substrate: &str, state: State) {
        if state == State::Open {
            self.open.insert(substrate.into());
        } else {
            self.open.remove(substrate);
        }
    }

    /// A node opens a session and says what it holds.
    pub fn hello(&mut self, node: &NodeId, held: &[TaskRef]) {
        self.claimed.insert(node.clone(), held.to_vec());
    }

    /// A node is told what to stop: it goes on only with what is unfinished.
    pub fn attached(&mut self, machine: &Machine, node: &NodeId, stop: &[TaskRef]) {
        let claimed = self.claimed.remove(node).unwrap_or_default();
        for at in claimed.iter().filter(|at| !stop.contains(at)) {
            let state = machine.task(at.job, at.task).map(|(state, ..)| state);
            if !matches!(state, Some(TaskState::Assigned | TaskState::Running)) {
                let (job, task) = (at.job, at.task);
                self.fail(format!(
                    "{node} goes on with {job}/{task}, which is {state:?}"
                ));
            }
        }
    }

    /// A node begins a task: everything it waits for has been seen to complete.
    pub fn begin(&mut self, at: TaskRef) {
        if let Some(early) = self.missing(at.job, at.task) {
            let (job, task) = (at.job, at.task);
            self.fail(format!("{job}/{task} runs before {early} has completed"));
        }
    }

    /// A task or job that a task waits for and that has not completed.
    fn missing(&self, job: JobId, task: u32) -> Option<String> {
        let submission = self.submitted.get(&job)?;
        let completed =
            |job: JobId, task: u32| self.visible.get(&(job, task)) == Some(&TaskState::Completed);
        let mut tasks = submission.graph.iter().flat_map(|graph| graph.after(task));
        if let Some(early) = tasks.find(|early| !completed(job, **early)) {
            return Some(format!("{job}/{early}"));
        }
        let mut jobs = submission.after.iter();
        let unfinished = jobs.find(|earlier| {
            let tasks = self.submitted.get(earlier).map_or(0, |known| known.tasks);
            (0..tasks).any(|task| !completed(**earlier, task))
        });
        unfinished.map(ToString::to_string)
    }

    /// A result is appended to the journal: at most once a task.
    pub fn record(&mut self, at: TaskRef) {
        if !self.recorded.insert((at.job, at.task)) {
            self.fail(format!(
                "the result of {}/{} was recorded twice",
                at.job, at.task
            ));
        }
    }

    /// Tasks were announced as final: each once, and in one state.
    pub fn announce(&mut self, finals: &[FinalTask]) {
        for done in finals {
            let key = (done.at.job, done.at.task);
            if let Some(before) = self.visible.insert(key, done.state) {
                let (job, task) = key;
                self.fail(format!("{job}/{task} was {before} and then {}", done.state));
            }
        }
    }

    /// Work was handed to a node: only while its lease lives and its substrate works, no attempt
    /// twice, nothing of a cancelled job, and nothing before what it waits for.
    pub fn assign(&mut self, node: &NodeId, is_live: bool, provider: &str, runs: &[TaskRun]) {
        let substrate = if provider.is_empty() { "own" } else { provider };
        if self.open.contains(substrate) {
            self.fail(format!("{node} got work though {substrate} is closed"));
        }
        if !is_live {
            self.fail(format!("{node} got work without a live lease"));
        }
        for at in runs.iter().flat_map(|run| run.tasks()) {
            if self.cancelled.contains(&at.job) {
                self.fail(format!("{} is cancelled and {} runs", at.job, at.task));
            }
            if let Some(early) = self.missing(at.job, at.task) {
                let (job, task) = (at.job, at.task);
                self.fail(format!("{job}/{task} was handed out before {early}"));
            }
            if !self.assigned.insert(at) {
                self.fail(format!(
                    "attempt {} of {}/{} was handed out twice",
                    at.attempt, at.job, at.task
                ));
            }
        }
    }

    /// A node's lease was ended after so much silence that was not the server's own.
    pub fn lose_lease(&mut self, node: &NodeId, silent_ms: u64, ttl_ms: u64) {
        if silent_ms < ttl_ms {
            self.fail(format!(
                "{node} was given up after {silent_ms} ms of silence"
            ));
        }
    }

    /// The server has read its journal back: everything that was promised is there.
    pub fn recovered(&mut self, machine: &Machine, journal: &Journal) {
        self.assigned.clear();
        self.recorded.clear();
        self.open.clear();
        self.claimed.clear();
        for record in journal.durable() {
            match record {
                Record::Final(done) => {
                    self.recorded.insert((done.at.job, done.at.task));
                }
                Record::Cancel(job, _) => {
                    self.cancelled.insert(*job);
                }
                Record::Job(_) | Record::Note(_) => {}
            }
        }
        let lost = self
            .acknowledged
            .keys()
            .find(|job| machine.job_state(**job).is_none());
        if let Some(&job) = lost {
            self.fail(format!("{job} was acknowledged and is lost"));
        }
        let changed = self.visible.iter().find_map(|(&(job, task), &seen)| {
            let now = machine.task(job, task).map(|(state, ..)| state);
            (now != Some(seen))
                .then(|| format!("{job}/{task} was {seen} and is {now:?} after a restart"))
        });
        if let Some(changed) = changed {
            self.fail(changed);
        }
        self.note_silent_finals(machine);
    }

    /// Finals that a restart makes visible without announcing them.
    fn note_silent_finals(&mut self, machine: &Machine) {
        for (&job, submission) in &self.submitted {
            for (task, state, _) in machine.tasks(job, 0, submission.tasks) {
                if state.is_final() {
                    self.visible.insert((job, task), state);
                }
            }
        }
    }

    /// Nothing contradicts itself, no node has more than it can run, no queue grows without end.
    pub fn look(&mut self, machine: &Machine, nodes: &[(NodeId, u32)], max_tasks: u64) {
        machine.check();
        for (node, slots) in nodes {
            if let Some(load) = machine.node_load(node) {
                if load.reserved > *slots {
                    self.fail(format!(
                        "{node} runs {slots} tasks and got {}",
                        load.reserved
                    ));
                }
                if load.held > load.max_held {
                    self.fail(format!(
                        "{node} holds {} tasks and got {}",
                        load.max_held, load.held
                    ));
                }
            }
        }
        if machine.size().1 > max_tasks {
            self.fail(format!("{} tasks are in memory", machine.size().1));
        }
    }

    /// Whether everything that was acknowledged has ended.
    pub fn is_done(&self, machine: &Machine) -> bool {
        let mut jobs = self.acknowledged.keys();
        jobs.all(|job| {
            machine
                .job_state(*job)
                .is_some_and(weft_types::JobState::is_final)
        })
    }

    /// Every acknowledged task has ended, and somebody has seen it end.
    pub fn all_seen(&mut self) {
        let unseen = self.acknowledged.iter().find_map(|(&job, &tasks)| {
            let unseen = (0..tasks).find(|task| !self.visible.contains_key(&(job, *task)));
            unseen.map(|task| format!("nobody saw {job}/{task} end"))
        });
        if let Some(unseen) = unseen {
            self.fail(unseen);
        }
        let ran = self.visible.iter().find_map(|(&(job, task), &state)| {
            let early = self
                .missing(job, task)
                .filter(|_| state != TaskState::Cancelled)?;
            Some(format!(
                "{job}/{task} is {state}, and {early} has not completed"
            ))
        });
        if let Some(ran) = ran {
            self.fail(ran);
        }
    }
}

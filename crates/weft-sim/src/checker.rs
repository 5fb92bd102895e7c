//! What must never happen, looked at after every step.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::dispatch::{FinalTask, Machine, TaskRef, TaskRun};
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

    /// Work was handed to a node: only while its lease lives, and no attempt twice.
    pub fn assign(&mut self, node: &NodeId, is_live: bool, runs: &[TaskRun]) {
        if !is_live {
            self.fail(format!("{node} got work without a live lease"));
        }
        for at in runs.iter().flat_map(|run| run.tasks()) {
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
        for record in journal.durable() {
            if let Record::Final(done) = record {
                self.recorded.insert((done.at.job, done.at.task));
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
        for (&job, &tasks) in &self.acknowledged {
            for (task, state, _) in machine.tasks(job, 0, tasks) {
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
    }
}

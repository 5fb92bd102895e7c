//! The model of an agent: it holds, runs, reports until acknowledged, and dials again.

use std::collections::BTreeMap;

use weft_core::dispatch::{Held, Outcome, TaskRef, TaskResult, TaskRun};
use weft_types::{JobId, NodeId};

/// Where a held task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Not begun.
    Waiting,
    /// Begun.
    Running,
    /// Ended; the report is kept until it is acknowledged.
    Ended(Outcome),
}

/// A held task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// Under which attempt.
    pub attempt: u32,
    /// Where it is.
    pub stage: Stage,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its node.
    pub id: NodeId,
    /// Who it is rented from; empty for an own machine.
    pub provider: &'static str,
    /// How many tasks it runs at once.
    pub slots: usize,
    /// The most it holds.
    pub max_held: usize,
    /// Whether its process lives.
    pub is_up: bool,
    /// It stands still until then.
    pub paused_until_ms: u64,
    /// Its runtime fails everything until then.
    pub broken_until_ms: u64,
    /// Its session; `None` while it dials.
    pub link: Option<usize>,
    /// Whether the server has welcomed it.
    pub is_welcome: bool,
    /// Grows with each start of the process, so that timers of an earlier one are passed over.
    pub incarnation: u32,
    /// What it holds.
    pub held: BTreeMap<(JobId, u32), Holding>,
}

impl Agent {
    /// An agent that has just started.
    pub fn new(number: usize) -> Self {
        Self {
            id: format!("node-{number}")
                .parse()
                .expect("a well-formed name"),
            provider: if number == 0 { "" } else { "rented" },
            slots: 4,
            max_held: 64,
            is_up: true,
            paused_until_ms: 0,
            broken_until_ms: 0,
            link: None,
            is_welcome: false,
            incarnation: 0,
            held: BTreeMap::new(),
        }
    }

    /// The process dies, and what it ran with it.
    pub fn crash(&mut self) {
        self.is_up = false;
        self.link = None;
        self.is_welcome = false;
        self.incarnation += 1;
        self.held.clear();
    }

    /// The session is over.
    pub fn disconnect(&mut self) {
        self.link = None;
        self.is_welcome = false;
    }

    /// What it says when it dials.
    pub fn held(&self) -> Held {
        let holding = self.held.iter();
        holding
            .map(|(&(job, task), held)| TaskRef {
                job,
                task,
                attempt: held.attempt,
            })
            .collect()
    }

    /// Takes work in; answers what there is no room for.
    pub fn take(&mut self, runs: &[TaskRun]) -> Vec<TaskRef> {
        let mut rejected = Vec::new();
        for at in runs.iter().flat_map(|run| run.tasks()) {
            let known = self.held.get(&(at.job, at.task)).map(|held| held.attempt);
            if known.is_some_and(|attempt| attempt >= at.attempt) {
                continue;
            }
            if known.is_none() && self.held.len() >= self.max_held {
                rejected.push(at);
                continue;
            }
            let stage = Stage::Waiting;
            self.held.insert(
                (at.job, at.task),
                Holding {
                    attempt: at.attempt,
                    stage,
                },
            );
        }
        rejected
    }

    /// Stops and forgets tasks; other attempts of them are left alone.
    pub fn drop_tasks(&mut self, tasks: &[TaskRef]) {
        for at in tasks {
            if self
                .held
                .get(&(at.job, at.task))
                .is_some_and(|held| held.attempt == at.attempt)
            {
                self.held.remove(&(at.job, at.task));
            }
        }
    }

    /// Forgets those of some tasks that have not begun; answers which.
    pub fn hand_back(&mut self, tasks: &[TaskRef]) -> Vec<TaskRef> {
        let waiting = Stage::Waiting;
        let mut back = Vec::new();
        for &at in tasks {
            let held = Holding {
                attempt: at.attempt,
                stage: waiting,
            };
            if self.held.get(&(at.job, at.task)) == Some(&held) {
                self.held.remove(&(at.job, at.task));
                back.push(at);
            }
        }
        back
    }

    /// Begins what there is room for; answers which.
    pub fn begin(&mut self) -> Vec<TaskRef> {
        let running = self
            .held
            .values()
            .filter(|held| held.stage == Stage::Running)
            .count();
        let mut begun = Vec::new();
        for (&(job, task), held) in &mut self.held {
            if running + begun.len() >= self.slots {
                break;
            }
            if held.stage == Stage::Waiting {
                held.stage = Stage::Running;
                begun.push(TaskRef {
                    job,
                    task,
                    attempt: held.attempt,
                });
            }
        }
        begun
    }

    /// An attempt ends. Answers whether it was still running.
    pub fn end(&mut self, at: TaskRef, outcome: Outcome) -> bool {
        match self.held.get_mut(&(at.job, at.task)) {
            Some(held) if held.attempt == at.attempt && held.stage == Stage::Running => {
                held.stage = Stage::Ended(outcome);
                true
            }
            _ => false,
        }
    }

    /// Reports that are not acknowledged.
    pub fn reports(&self) -> Vec<TaskResult> {
        let ended = self
            .held
            .iter()
            .filter_map(|(&(job, task), held)| match held.stage {
                Stage::Ended(outcome) => Some(TaskResult {
                    at: TaskRef {
                        job,
                        task,
                        attempt: held.attempt,
                    },
                    outcome,
                    run_us: 20_000,
                }),
                Stage::Waiting | Stage::Running => None,
            });
        ended.collect()
    }
}

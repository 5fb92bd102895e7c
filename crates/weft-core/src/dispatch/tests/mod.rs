//! Scenes with a dispatcher, nodes that hold what they are given, and a journal that works when
//! told so.

mod depend;
mod faults;
mod life;
mod property;
mod speculate;
mod substrate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_placement::{Availability, Candidate, Request};
use weft_types::{
    Bytes, JobId, JobState, Millicores, Namespace, NodeCapacity, NodeId, Reason, RetryPolicy,
    RuntimeKind, TaskGraph, TaskGraphBuilder, TaskState,
};

use super::{
    BatchId, Config, Input, Machine, Outcome, Output, Submission, TaskRef, TaskResult, Verdict,
};
use crate::{Epoch, Monotonic, breaker};

/// A node that runs this many op tasks at once.
pub(super) fn node_of(name: &str, slots: u64) -> Candidate {
    Candidate {
        key: name.into(),
        capacity: NodeCapacity {
            cpu: Millicores(100 * slots),
            memory: Bytes(64 << 30),
            disk: Bytes(64 << 30),
            arch: "x86_64".to_owned(),
            os: "linux".to_owned(),
            runtimes: vec![RuntimeKind::Op],
            ..NodeCapacity::default()
        },
        state: Availability::Open,
        ..Candidate::default()
    }
}

/// What tasks wait for, a row each.
pub(super) fn graph_of(rows: &[&[u32]]) -> Option<Arc<TaskGraph>> {
    let mut builder = TaskGraphBuilder::default();
    for row in rows {
        builder.push(row).expect("few dependencies");
    }
    builder.finish().expect("no cycle").map(Arc::new)
}

/// A job of op tasks in the default namespace.
pub(super) fn job_of(id: u64, tasks: u32) -> Submission {
    Submission {
        id: JobId(id),
        namespace: Namespace::default(),
        request: Request {
            resources: weft_types::Resources::for_op(),
            runtime: RuntimeKind::Op,
            ..Request::default()
        },
        priority: 0,
        retry: RetryPolicy::default(),
        tasks,
        sealed: true,
        deadline_ms: None,
        after: Vec::new(),
        graph: None,
        speculate: false,
    }
}

pub(super) fn id(name: &str) -> NodeId {
    name.parse().expect("a well-formed name")
}

/// A dispatcher and what the world around it has seen.
pub(super) struct Scene {
    pub(super) machine: Machine,
    pub(super) now: Monotonic,
    epochs: BTreeMap<NodeId, Epoch>,
    next_epoch: Epoch,
    /// What each node holds.
    pub(super) held: BTreeMap<NodeId, BTreeSet<TaskRef>>,
    /// Final state of each task, once.
    pub(super) finals: BTreeMap<(JobId, u32), (TaskState, Option<Reason>)>,
    pub(super) jobs: BTreeMap<JobId, JobState>,
    pub(super) cancel_due: Vec<(JobId, Reason, Option<JobId>)>,
    /// Outcomes that the machine wants written.
    pub(super) to_write: Vec<BatchId>,
    pub(super) recalled: Vec<TaskRef>,
    pub(super) substrates: Vec<(String, breaker::State)>,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self {
            machine: Machine::new(Config::default(), 1),
            now: Monotonic(0),
            epochs: BTreeMap::new(),
            next_epoch: 1,
            held: BTreeMap::new(),
            finals: BTreeMap::new(),
            jobs: BTreeMap::new(),
            cancel_due: Vec::new(),
            to_write: Vec::new(),
            recalled: Vec::new(),
            substrates: Vec::new(),
        }
    }

    pub(super) fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.machine.step(self.now, input, &mut out);
        self.machine.assign(self.now, &mut out);
        self.carry_out(out);
        self.machine.check();
    }

    /// Time passes, and the machine is told.
    pub(super) fn wait(&mut self, ms: u64) {
        self.now = self.now.plus_ms(ms);
        self.step(Input::Tick);
    }

    pub(super) fn up(&mut self, name: &str, slots: u64) {
        self.rent("", name, slots);
    }

    /// A node of a provider opens a session.
    pub(super) fn rent(&mut self, provider: &str, name: &str, slots: u64) {
        let node = id(name);
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        self.epochs.insert(node.clone(), epoch);
        let held = self.held.entry(node.clone()).or_default();
        let held = held.iter().copied().collect();
        self.step(Input::NodeUp {
            node,
            epoch,
            candidate: Candidate {
                provider: provider.into(),
                ..node_of(name, slots)
            },
            max_held: 1_024,
            held,
        });
    }

    /// The node's lease ends; the node itself knows nothing of it.
    pub(super) fn down(&mut self, name: &str) {
        let node = id(name);
        let epoch = self.epochs[&node];
        self.step(Input::NodeDown { node, epoch });
    }

    /// The node forgets everything, as a machine that lost power does.
    pub(super) fn forget(&mut self, name: &str) {
        self.held.remove(&id(name));
    }

    pub(super) fn on(&self, name: &str) -> Vec<TaskRef> {
        let held = self.held.get(&id(name));
        held.into_iter().flatten().copied().collect()
    }

    /// A node reports an attempt; the answer of the machine.
    pub(super) fn report(
        &mut self,
        name: &str,
        at: TaskRef,
        outcome: Outcome,
    ) -> (Verdict, Option<BatchId>) {
        let node = id(name);
        let epoch = self.epochs[&node];
        self.report_under(name, epoch, at, outcome)
    }

    pub(super) fn report_under(
        &mut self,
        name: &str,
        epoch: Epoch,
        at: TaskRef,
        outcome: Outcome,
    ) -> (Verdict, Option<BatchId>) {
        let result = TaskResult {
            at,
            outcome,
            run_us: 50_000,
        };
        let mut out = Vec::new();
        let accepted = self
            .machine
            .accept(self.now, &id(name), epoch, &[result], &mut out);
        self.machine.assign(self.now, &mut out);
        self.carry_out(out);
        self.machine.check();
        (accepted.verdicts[0], accepted.batch)
    }

    /// A node reports an attempt, and the journal works.
    pub(super) fn finish(&mut self, name: &str, at: TaskRef, outcome: Outcome) -> Verdict {
        let (verdict, batch) = self.report(name, at, outcome);
        if let Some(batch) = batch {
            self.step(Input::Recorded { batch });
        }
        verdict
    }

    /// Every node completes everything, until nothing is left or an hour has passed.
    pub(super) fn run_out(&mut self) {
        for _ in 0..3_600 {
            for batch in std::mem::take(&mut self.to_write) {
                self.step(Input::Recorded { batch });
            }
            let work: Vec<(NodeId, TaskRef)> = self
                .held
                .iter()
                .flat_map(|(node, held)| held.iter().map(|&at| (node.clone(), at)))
                .collect();
            for (node, at) in work {
                if self.held[&node].contains(&at) {
                    self.finish(node.as_str(), at, Outcome::Completed);
                }
            }
            self.wait(1_000);
        }
    }

    fn carry_out(&mut self, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Assign { node, epoch, runs } => {
                    assert_eq!(
                        self.epochs[&node], epoch,
                        "assigned under the current epoch"
                    );
                    let held = self.held.entry(node).or_default();
                    held.extend(runs.into_iter().flat_map(|run| run.tasks()));
                }
                Output::Attached {
                    node, stop: tasks, ..
                }
                | Output::Stop { node, tasks, .. }
                | Output::Ack { node, tasks } => {
                    let held = self.held.entry(node).or_default();
                    for at in tasks {
                        held.remove(&at);
                    }
                }
                Output::Recall { tasks, .. } => self.recalled.extend(tasks),
                Output::Record { batch, .. } => self.to_write.push(batch),
                Output::CancelDue {
                    job,
                    reason,
                    because,
                } => self.cancel_due.push((job, reason, because)),
                Output::Finals(finals) => {
                    for done in finals {
                        let key = (done.at.job, done.at.task);
                        self.finals.insert(key, (done.state, done.reason));
                    }
                }
                Output::JobFinal { job, state, .. } => {
                    self.jobs.insert(job, state);
                }
                Output::SubstrateBreaker { substrate, state } => {
                    self.substrates.push((substrate.to_string(), state));
                }
                Output::JobStarted { .. }
                | Output::Retrying { .. }
                | Output::Lost { .. }
                | Output::Breaker { .. } => {}
            }
        }
    }
}

//! How fast the dispatch machine alone is: a million tasks over three nodes, no I/O.
//!
//! `cargo run --release -p weft-core --example dispatch_bench`
//!
//! Prints transitions per second (queued → assigned → recording → final: three a task) and the
//! bytes a queued task takes, from the resident size of the process.

use std::time::Instant;

use weft_core::dispatch::{
    Config, Input, Machine, Outcome, Output, Submission, TaskRef, TaskResult,
};
use weft_core::{Epoch, Monotonic};
use weft_placement::{Candidate, Request};
use weft_types::{
    Bytes, JobId, Millicores, Namespace, NodeCapacity, NodeId, RetryPolicy, RuntimeKind,
};

const TASKS: u32 = 1_000_000;
const NODES: [&str; 3] = ["a", "b", "c"];
const TRANSITIONS_PER_TASK: u32 = 3;
const RUN_US: u64 = 5;

fn main() {
    let shapes = [(1u32, TASKS), (1_000, TASKS / 1_000), (100_000, 1)];
    for (jobs, tasks) in shapes {
        run(jobs, tasks);
    }
}

fn run(jobs: u32, tasks: u32) {
    let mut machine = Machine::new(Config::default(), 1);
    let mut out = Vec::new();
    for (number, name) in NODES.iter().enumerate() {
        machine.step(Monotonic(0), up(name, number as Epoch + 1), &mut out);
    }
    out.clear();
    let before = resident_bytes();
    let submitted = Instant::now();
    for job in 1..=jobs {
        machine.step(
            Monotonic(0),
            Input::Submit(submission(job, tasks)),
            &mut out,
        );
    }
    let submit_s = submitted.elapsed().as_secs_f64();
    let bytes = resident_bytes().saturating_sub(before) / (u64::from(jobs) * u64::from(tasks));
    let started = Instant::now();
    let (finals, worst_ms) = drive(&mut machine, out);
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(
        finals,
        u64::from(jobs) * u64::from(tasks),
        "every task ends"
    );
    let rate = finals as f64 * f64::from(TRANSITIONS_PER_TASK) / seconds;
    println!(
        "{jobs:>6} jobs x {tasks:>7} tasks: {:.2} M transitions/s, {:.2} M tasks/s, {bytes} bytes/task, submitted in {:.1} ms, longest round {worst_ms:.2} ms",
        rate / 1e6,
        finals as f64 / seconds / 1e6,
        submit_s * 1e3,
    );
}

/// Nodes complete at once what they are given, and the journal writes at once.
fn drive(machine: &mut Machine, mut out: Vec<Output>) -> (u64, f64) {
    let (mut finals, mut now, mut worst_ms) = (0, 0, 0f64);
    let mut next = Vec::new();
    loop {
        let round = Instant::now();
        machine.step(Monotonic(now), Input::Tick, &mut out);
        machine.assign(Monotonic(now), &mut out);
        worst_ms = worst_ms.max(round.elapsed().as_secs_f64() * 1e3);
        let mut worked = false;
        for output in out.drain(..) {
            match output {
                Output::Assign { node, epoch, runs } => {
                    worked = true;
                    let held: Vec<TaskRef> = runs.into_iter().flat_map(|run| run.tasks()).collect();
                    report(machine, Monotonic(now), &node, epoch, &held, &mut next);
                }
                Output::Finals(tasks) => finals += tasks.len() as u64,
                _ => {}
            }
        }
        if !worked && next.is_empty() {
            return (finals, worst_ms);
        }
        std::mem::swap(&mut out, &mut next);
        now += 1;
    }
}

fn report(
    machine: &mut Machine,
    now: Monotonic,
    node: &NodeId,
    epoch: Epoch,
    held: &[TaskRef],
    out: &mut Vec<Output>,
) {
    let results: Vec<TaskResult> = held
        .iter()
        .map(|&at| TaskResult {
            at,
            outcome: Outcome::Completed,
            run_us: RUN_US,
        })
        .collect();
    let accepted = machine.accept(now, node, epoch, &results, out);
    if let Some(batch) = accepted.batch {
        machine.step(now, Input::Recorded { batch }, out);
    }
}

fn submission(job: u32, tasks: u32) -> Submission {
    Submission {
        id: JobId(u64::from(job)),
        namespace: Namespace::default(),
        request: Request::default(),
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

fn up(name: &str, epoch: Epoch) -> Input {
    Input::NodeUp {
        node: name.parse().expect("a well-formed name"),
        epoch,
        candidate: Candidate {
            key: name.into(),
            capacity: NodeCapacity {
                cpu: Millicores(1_600),
                memory: Bytes(16 << 30),
                disk: Bytes(64 << 30),
                runtimes: vec![RuntimeKind::Op],
                ..NodeCapacity::default()
            },
            ..Candidate::default()
        },
        max_held: 8_192,
        held: Vec::new(),
    }
}

/// Resident size of this process, 0 where `/proc` does not say.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}

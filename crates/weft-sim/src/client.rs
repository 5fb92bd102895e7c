//! What the client asks for, and how its tasks behave.

use std::sync::Arc;

use weft_core::dispatch::{Outcome, Submission, TaskRef};
use weft_placement::Request;
use weft_types::{JobId, Namespace, Reason, RetryPolicy, TaskGraph, TaskGraphBuilder};

use crate::random::{Random, mix};

/// The most tasks of a job.
const MAX_TASKS: u64 = 24;

/// How a run of a task ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// After some milliseconds, like this.
    Ends(u64, Outcome),
    /// It takes its agent with it, after some milliseconds.
    KillsAgent(u64),
}

/// A job with random traits.
pub fn job(id: JobId, random: &mut Random) -> Submission {
    let namespace = if random.chance(3) { "other" } else { "default" };
    let on = if random.chance(4) {
        vec![Reason::NodeLost, Reason::RuntimeError]
    } else {
        Vec::new()
    };
    let after = if id.0 > 1 && random.chance(6) {
        vec![JobId(id.0 - 1)]
    } else {
        Vec::new()
    };
    let tasks = random.between(1, MAX_TASKS) as u32;
    Submission {
        id,
        namespace: namespace.parse().unwrap_or_else(|_| Namespace::default()),
        request: Request::default(),
        priority: random.between(0, 2) as i32,
        retry: RetryPolicy {
            attempts: random.between(1, 4) as u32,
            on,
            ..RetryPolicy::default()
        },
        tasks,
        sealed: true,
        deadline_ms: random.chance(8).then(|| random.between(1_000, 60_000)),
        after,
        graph: graph(tasks, random),
        speculate: random.chance(2),
    }
}

/// What tasks wait for, in two of five jobs: chains, fans, diamonds, and anything between.
fn graph(tasks: u32, random: &mut Random) -> Option<Arc<TaskGraph>> {
    if random.between(1, 5) > 2 {
        return None;
    }
    // The lower, the more of a chain it is.
    let reach = random.between(1, u64::from(tasks));
    let mut builder = TaskGraphBuilder::default();
    for task in 0..u64::from(tasks) {
        let count = if task == 0 { 0 } else { random.between(0, 3) };
        let nearest = |random: &mut Random| task - random.between(1, reach.min(task));
        let after: Vec<u32> = (0..count).map(|_| nearest(random) as u32).collect();
        builder.push(&after).ok()?;
    }
    builder.finish().ok()?.map(Arc::new)
}

/// How an attempt of a task ends: a function of the seed, not of the order of events.
pub fn fate(seed: u64, at: TaskRef) -> Fate {
    let task = mix(seed ^ mix(at.job.0) ^ mix(u64::from(at.task) << 20));
    let attempt = mix(task ^ u64::from(at.attempt));
    // Some tasks are slow wherever they run, some only this time.
    let long = task.is_multiple_of(23) || attempt.is_multiple_of(19);
    let run_ms = if long {
        500 + attempt % 5_000
    } else {
        1 + attempt % 60
    };
    if task.is_multiple_of(401) {
        return Fate::KillsAgent(run_ms);
    }
    let outcome = match (attempt >> 8) % 16 {
        0 => Outcome::Failed(Reason::RuntimeError),
        1 if task.is_multiple_of(3) => Outcome::Failed(Reason::NonzeroExit),
        _ => Outcome::Completed,
    };
    Fate::Ends(run_ms, outcome)
}

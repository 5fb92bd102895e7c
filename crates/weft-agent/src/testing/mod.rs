//! What the tests of this crate stand on: a server that does what a test says, and a node whose
//! slow tasks end when a test says.

mod engine;
mod node;
mod server;

use std::time::{Duration, Instant};

use prost::Message;
use weft_proto::v1;
use weft_runtime::Control;

pub(crate) use engine::Engine;
pub(crate) use node::{Gate, Node};
pub(crate) use server::{Server, Session, TunnelEnd};

/// How long anything may take in a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until something is the case.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < DEADLINE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The header of a job of byte programs.
pub(crate) fn op_job() -> v1::JobSpec {
    let program = weft_types::Program::single(weft_ops::Step {
        op: weft_ops::Op::Crc32c,
        imm: 0,
        offset: None,
        length: None,
    });
    v1::JobSpec {
        runtime: "op".to_owned(),
        program: program.encode().into(),
        ..v1::JobSpec::default()
    }
}

/// The header of a job whose tasks run until the [`Gate`] lets them end.
pub(crate) fn slow_job(cpu_millicores: u64) -> v1::JobSpec {
    v1::JobSpec {
        runtime: "process".to_owned(),
        args: vec!["true".to_owned()],
        cpu_millicores,
        ..v1::JobSpec::default()
    }
}

/// A message that hands these tasks over, in their first attempt.
pub(crate) fn dispatch(job: u64, spec: &v1::JobSpec, tasks: std::ops::Range<u32>) -> v1::Dispatch {
    let tasks = tasks.map(|task| v1::TaskItem {
        task,
        attempt: 1,
        payload: bytes::Bytes::new(),
    });
    v1::Dispatch {
        jobs: vec![v1::JobHeader {
            job,
            spec: spec.encode_to_vec().into(),
        }],
        groups: vec![v1::TaskGroup {
            job,
            tasks: tasks.collect(),
        }],
    }
}

/// First attempts by job and task.
pub(crate) fn held(job: u64, tasks: &[u32]) -> Vec<v1::HeldTasks> {
    vec![v1::HeldTasks {
        job,
        tasks: tasks.to_vec(),
        attempts: vec![1; tasks.len()],
    }]
}

/// Task numbers of one job, in order.
pub(crate) fn numbers(held: &[v1::HeldTasks], job: u64) -> Vec<u32> {
    let of_job = held.iter().filter(|group| group.job == job);
    let mut tasks: Vec<u32> = of_job.flat_map(|group| group.tasks.clone()).collect();
    tasks.sort_unstable();
    tasks
}

/// Whether somebody wants a task to stop.
pub(crate) fn is_cancelled(control: &Option<Control>) -> bool {
    control.as_ref().is_some_and(Control::is_cancelled)
}

use std::sync::Arc;

use bytes::Bytes as Buffer;
use proptest::prelude::*;
use prost::Message as _;
use weft_proto::v1::agent_message::Message;
use weft_types::{Bytes, JobId, Millicores, NodeCapacity, Reason};

use super::table::{Payload, Table, Waiting};
use super::*;
use crate::outcome::Report;
use crate::testing::{held, is_cancelled, numbers, slow_job};

fn table() -> Table {
    Table::new(NodeCapacity {
        cpu: Millicores(2_000),
        memory: Bytes(1 << 30),
        ..NodeCapacity::default()
    })
}

fn job(id: u64, cpu_millicores: u64) -> Arc<Job> {
    let spec = slow_job(cpu_millicores).encode_to_vec();
    Arc::new(Job::parse(JobId(id), &spec))
}

fn hold(table: &mut Table, job: &Arc<Job>, task: u32, attempt: u32) {
    table.hold(job, task, attempt, Payload::Raw(Buffer::new()));
}

fn report(bytes: usize) -> Report {
    Report {
        reason: 0,
        run_us: 1,
        outcome: vec![0; bytes].into(),
    }
}

fn start(table: &mut Table) -> Option<Waiting> {
    table.start_next().map(|(task, _)| task)
}

fn result_tasks(table: &mut Table) -> Vec<u32> {
    let mut tasks = Vec::new();
    while let Some(message) = table.next_message() {
        if let Message::Results(batch) = message {
            let items = batch.groups.into_iter().flat_map(|group| group.results);
            tasks.extend(items.map(|item| item.task));
        }
    }
    tasks
}

#[test]
fn all_that_can_never_fit_is_given_back_with_the_reason() {
    let mut table = table();
    let (small, large) = (job(1, 1_000), job(2, 9_000));
    hold(&mut table, &small, 0, 1);
    for task in 0..3 {
        hold(&mut table, &large, task, 1);
    }
    let Some(Message::Handback(handback)) = table.next_message() else {
        panic!("nothing is given back");
    };
    assert_eq!(numbers(&handback.tasks, 2), [0, 1, 2]);
    let reason = u32::from(Reason::InsufficientResources.code());
    assert!(handback.reason == reason && !handback.detail.is_empty());
    assert_eq!(table.load(), (0, 1));
}

#[test]
fn a_dispatch_that_comes_twice_changes_nothing_and_a_newer_attempt_replaces_the_older() {
    let mut table = table();
    let job = job(1, 1_000);
    hold(&mut table, &job, 0, 2);
    let first = start(&mut table).unwrap();
    let control = table.control((1, 0));
    hold(&mut table, &job, 0, 2);
    hold(&mut table, &job, 0, 1);
    assert!(!is_cancelled(&control) && table.load() == (1, 1));
    assert!(start(&mut table).is_none());

    hold(&mut table, &job, 0, 3);
    assert!(is_cancelled(&control));
    table.ended(&first, report(1));
    assert!(result_tasks(&mut table).is_empty());
    assert_eq!(start(&mut table).unwrap().attempt, 3);
}

#[test]
fn a_lost_result_is_sent_again_when_the_task_is_dispatched_again() {
    let mut table = table();
    let job = job(1, 1_000);
    hold(&mut table, &job, 0, 1);
    let task = start(&mut table).unwrap();
    table.ended(&task, report(1));
    assert_eq!(result_tasks(&mut table), [0]);
    hold(&mut table, &job, 0, 1);
    assert_eq!(result_tasks(&mut table), [0]);
}

#[test]
fn results_that_are_not_acknowledged_are_sent_again_after_a_whole_round() {
    let mut table = table();
    let job = job(1, 100);
    for task in 0..3 {
        hold(&mut table, &job, task, 1);
        let task = start(&mut table).unwrap();
        table.ended(&task, report(1));
    }
    assert_eq!(result_tasks(&mut table), [0, 1, 2]);
    assert!(!table.resend_unacknowledged());
    table.acknowledged(&held(1, &[1]));
    assert!(table.resend_unacknowledged());
    assert_eq!(result_tasks(&mut table), [0, 2]);
    table.acknowledged(&held(1, &[0, 2]));
    assert!(!table.resend_unacknowledged() && !table.resend_unacknowledged());
    assert_eq!(table.load(), (0, 0));
}

#[test]
fn nothing_starts_while_too_many_bytes_of_results_wait_for_the_server() {
    let mut table = table();
    let job = job(1, 100);
    for task in 0..6 {
        hold(&mut table, &job, task, 1);
    }
    let mut started = 0;
    while let Some(task) = start(&mut table) {
        table.ended(&task, report(64 << 20));
        started += 1;
    }
    assert_eq!(started, 4);
    assert!(
        table.acknowledged(&held(1, &[0])),
        "nobody is told to start"
    );
    assert!(start(&mut table).is_some());
}

#[test]
fn a_large_task_is_overtaken_only_so_often() {
    let mut table = table();
    let (small, large) = (job(1, 1_000), job(2, 2_000));
    hold(&mut table, &small, 0, 1);
    let mut running = start(&mut table).unwrap();
    hold(&mut table, &large, 0, 1);
    let mut overtaken = 0u32;
    // A small task always follows before the last one has ended, so that the large never fits.
    loop {
        hold(&mut table, &small, overtaken + 1, 1);
        let Some(next) = start(&mut table) else { break };
        table.ended(&running, report(0));
        table.acknowledged(&held(1, &[running.task]));
        running = next;
        overtaken += 1;
        assert!(overtaken < 10_000, "the large task starves");
    }
    table.ended(&running, report(0));
    assert_eq!(start(&mut table).unwrap().id(), (2, 0));
}

#[test]
fn no_more_is_held_than_was_said() {
    let mut table = table();
    let job = job(1, 1_000);
    for task in 0..=MAX_HELD_TASKS {
        hold(&mut table, &job, task, 1);
    }
    assert_eq!(table.load().1, MAX_HELD_TASKS);
    let Some(Message::Handback(handback)) = table.next_message() else {
        panic!("nothing is given back");
    };
    assert_eq!(numbers(&handback.tasks, 1), [MAX_HELD_TASKS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_breaks_its_runtime_fails_and_gives_its_room_back() {
    let dir = tempfile::tempdir().unwrap();
    let gate = crate::testing::Gate(Arc::new(tokio::sync::Semaphore::new(0)));
    let capacity = NodeCapacity {
        cpu: Millicores(1_000),
        ..NodeCapacity::default()
    };
    let executor = Executor::start(
        "n1".to_owned(),
        capacity,
        Runtimes::new().with(Arc::new(gate.clone())),
        Artifacts::open(dir.path(), Default::default())
            .await
            .unwrap(),
        1,
    )
    .unwrap();
    executor.dispatch(crate::testing::dispatch(666, &slow_job(1_000), 0..2));
    executor.dispatch(crate::testing::dispatch(7, &slow_job(1_000), 0..1));
    gate.0.add_permits(1);
    let mut reasons = Vec::new();
    crate::testing::until("all three have ended", || {
        while let Some(message) = executor.next_message() {
            if let Message::Results(batch) = message {
                let groups = batch.groups.into_iter();
                let items = groups.flat_map(|group| group.results);
                reasons.extend(items.map(|item| item.reason));
            }
        }
        reasons.len() == 3
    })
    .await;
    let internal = u32::from(Reason::Internal.code());
    assert_eq!(reasons, [internal, internal, 0]);
    executor.shutdown();
}

proptest! {
    #[test]
    fn what_runs_never_exceeds_the_capacity_and_is_always_counted(
        steps in proptest::collection::vec((0..6u32, 0..40u32, 1..4u32), 1..200)
    ) {
        let jobs = [job(0, 300), job(1, 700), job(2, 1_900)];
        let mut table = table();
        let mut running: Vec<Waiting> = Vec::new();
        for (action, task, attempt) in steps {
            let job = &jobs[task as usize % jobs.len()];
            let named = vec![v1::HeldTasks { job: job.id.0, tasks: vec![task], attempts: vec![attempt] }];
            match action {
                0 | 1 => hold(&mut table, job, task, attempt),
                2 => table.stop(&named),
                3 => table.recall(&named),
                4 if !running.is_empty() => {
                    let ended = running.remove(task as usize % running.len());
                    table.ended(&ended, report(9));
                }
                _ => {
                    table.acknowledged(&named);
                }
            }
            while let Some(task) = start(&mut table) {
                running.push(task);
            }
            let used: u64 = running.iter().map(|task| task.job.resources.cpu.0).sum();
            prop_assert!(used <= 2_000, "{used} millicores are in use");
            prop_assert_eq!(table.load().0 as usize, running.len());
        }
        for task in running.drain(..) {
            table.ended(&task, report(0));
        }
        for job in &jobs {
            table.stop(&held(job.id.0, &[]));
        }
        prop_assert_eq!(table.load(), (0, 0));
        hold(&mut table, &job(9, 2_000), 0, 1);
        prop_assert!(start(&mut table).is_some(), "room was lost");
    }
}

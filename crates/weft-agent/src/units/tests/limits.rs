//! Room on the node, what units use of it, and what they may.

use weft_types::{Bytes, RestartPolicy, RestartWhen};

use super::*;

fn needs_cpu(number: u32, cpu: u64) -> Assignment {
    let mut assignment = service(number);
    assignment.spec.resources = Some(Resources {
        cpu: Millicores(cpu),
        ..Resources::default()
    });
    assignment
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_wait_for_tasks_to_end_and_tasks_do_not_take_their_room() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    let tasks = dispatch(5, &slow_job(1_000), 0..3);
    talk.session.send(Answer::Dispatch(tasks)).await;
    until("two tasks fit", || bench.node().executor.load() == (2, 3)).await;
    talk.apply(true, &[needs_cpu(1, 1_500)]).await;
    let reason = Some(Reason::InsufficientResources);
    talk.until(unit(1), |status| status.reason == reason).await;
    bench.node().gate.0.add_permits(2);
    talk.ready(unit(1)).await;
    assert_eq!(bench.node().executor.load().0, 0, "a task took the room");
    talk.apply(true, &[]).await;
    until("the third task has room again", || {
        bench.node().executor.load().0 == 1
    })
    .await;
    talk.apply(true, &[needs_cpu(2, 9_000)]).await;
    let status = talk.until(unit(2), |status| status.given_up).await;
    assert_eq!(status.reason, reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_stalls_neither_the_session_nor_other_figures() {
    let (bench, mut talk) = Bench::serving().await;
    while talk.loads.is_empty() {
        talk.hear().await;
    }
    let load = &talk.loads[&unit(1).to_string()];
    assert_eq!(load.memory_bytes, 1 << 20);
    bench.engine.hang(Some("observe"));
    talk.session
        .send(Answer::Dispatch(dispatch(5, &slow_job(100), 0..1)))
        .await;
    until("the session goes on", || {
        bench.node().executor.load().0 == 1
    })
    .await;
}

/// Writes until it is measured and ended for it.
async fn overfill(bench: &Bench, talk: &mut Talk) -> UnitStatus {
    bench.engine.write(unit(1), 64 << 20);
    let full = |status: &UnitStatus| status.reason == Some(Reason::StorageError);
    let status = talk.until(unit(1), full).await;
    assert_eq!(status.step, "run");
    assert!(
        status.detail.contains("limit of 16Mi") && status.detail.contains("`resources.disk`"),
        "{}",
        status.detail
    );
    status
}

fn may_write(bytes: u64, policy: RestartWhen) -> Assignment {
    let mut assignment = service(1);
    assignment.spec.resources = Some(Resources {
        cpu: Millicores(100),
        disk: Bytes(bytes),
        ..Resources::default()
    });
    let container = assignment.spec.container.as_mut().expect("a container");
    container.restart = Some(RestartPolicy { policy, max: None });
    assignment
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_writes_more_than_its_limit_is_killed_and_begins_anew() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[may_write(16 << 20, RestartWhen::Always)])
        .await;
    talk.ready(unit(1)).await;
    bench.engine.write(unit(1), 16 << 20);
    let id = unit(1).to_string();
    while talk.loads.get(&id).is_none_or(|it| it.disk_bytes == 0) {
        talk.hear().await;
    }
    assert!(talk.statuses[&unit(1)].ready, "its limit is not beyond it");
    overfill(&bench, &mut talk).await;
    let status = talk.ready(unit(1)).await;
    assert_eq!((status.restarts, bench.engine.starts(unit(1))), (1, 2));
    assert_eq!(bench.engine.grace(unit(1)), Some(Duration::ZERO));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_writes_more_than_its_limit_and_is_not_to_start_again_has_failed() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[may_write(16 << 20, RestartWhen::No)])
        .await;
    talk.ready(unit(1)).await;
    overfill(&bench, &mut talk).await;
    let status = talk.until(unit(1), |status| status.given_up).await;
    assert_eq!(status.state, WorkloadState::Failed);
    let engine = &bench.engine;
    until("it is stopped", || !engine.is_running(unit(1))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_anything_may_be_written() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[may_write(0, RestartWhen::Always)]).await;
    talk.ready(unit(1)).await;
    bench.engine.write(unit(1), 1 << 40);
    let id = unit(1).to_string();
    while talk.loads.get(&id).is_none_or(|it| it.disk_bytes == 0) {
        talk.hear().await;
    }
    // Two more readings, of which the machine has had the first.
    let stats = bench.engine.calls("stats");
    let engine = &bench.engine;
    until("it is measured again", || engine.calls("stats") > stats + 2).await;
    assert!(engine.is_running(unit(1)) && engine.starts(unit(1)) == 1);
}

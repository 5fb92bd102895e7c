//! Exclusive units: leases and epochs.

use super::*;

fn exclusive(number: u32) -> Assignment {
    let mut assignment = service(number);
    assignment.spec.exclusive = true;
    assignment
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exclusive_units_stop_when_the_lease_ends_and_come_back_when_a_server_says_so() {
    let mut bench = Bench::start().await;
    let lease_ttl_ms = &bench.server.state.lease_ttl_ms;
    lease_ttl_ms.store(4_000, Ordering::Relaxed);
    let mut talk = bench.session().await;
    let shared = service(2);
    talk.apply(true, &[exclusive(1), shared.clone()]).await;
    talk.ready(unit(1)).await;
    talk.ready(unit(2)).await;
    bench.server.state.beats.store(false, Ordering::Relaxed);
    let engine = Arc::clone(&bench.engine);
    until("it is stopped", || !engine.is_running(unit(1))).await;
    assert!(engine.is_running(unit(2)), "what is not exclusive runs on");
    bench.server.state.beats.store(true, Ordering::Relaxed);
    let mut talk = bench.session().await;
    let lost = |status: &UnitStatus| status.reason == Some(Reason::NodeLost);
    talk.until(unit(1), lost).await;
    assert!(
        !engine.is_running(unit(1)),
        "no server has said that it may"
    );
    talk.apply(true, &[exclusive(1), shared]).await;
    talk.ready(unit(1)).await;
    assert_eq!(engine.starts(unit(2)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greater_epoch_of_an_exclusive_workload_fences_the_smaller() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[exclusive(1)]).await;
    talk.ready(unit(1)).await;
    bench.engine.hang(Some("stop"));
    talk.apply(false, &[exclusive(2)]).await;
    let waits = |status: &UnitStatus| status.detail.contains("earlier unit");
    talk.until(unit(2), waits).await;
    assert_eq!(bench.engine.starts(unit(2)), 0);
    bench.engine.hang(None);
    // The call that hangs ends with its bound; the order to go is a new one.
    talk.apply(true, &[exclusive(2)]).await;
    bench.restart().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[exclusive(2)]).await;
    talk.ready(unit(2)).await;
    assert!(!bench.engine.is_running(unit(1)));
}

//! Engines that are slow to find, or down when an agent starts.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_greets_before_it_knows_its_engine_and_units_wait_for_that() {
    let engine = Engine::new();
    engine.hang(Some("probe"));
    let mut bench = Bench::over(engine).await;
    let (session, hello) = bench.welcomed().await;
    let capacity = hello.capacity.unwrap();
    assert!(!capacity.runtimes.contains(&"container".to_owned()));
    assert!(
        capacity.missing[0].contains("looked for"),
        "{:?}",
        capacity.missing
    );
    let mut talk = Talk::new(session);
    talk.apply(true, &[service(1)]).await;
    let status = talk
        .until(unit(1), |status| status.state == WorkloadState::Starting)
        .await;
    assert_eq!((status.reason, status.given_up), (None, false));
    assert_eq!(bench.engine.calls("observe"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_found_is_offered_within_the_session() {
    let mut bench = Bench::start().await;
    let (mut session, hello) = bench.welcomed().await;
    let mut capacity = hello.capacity.unwrap();
    while !capacity.runtimes.contains(&"container".to_owned()) {
        if let Message::Offer(offer) = session.of_units().await {
            capacity = offer.capacity.unwrap();
        }
    }
    assert_eq!(capacity.missing, Vec::<String>::new());
    assert_eq!(capacity.cpu_millicores, 2_000);
    assert!(capacity.max_held_tasks > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_whose_engine_is_down_when_the_agent_starts_are_neither_doubled_nor_given_up() {
    let (mut bench, _talk) = Bench::serving().await;
    bench.crash().await;
    bench.engine.lack(true);
    bench.agent(None).await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    let status = talk.until(unit(1), |status| status.reason.is_some()).await;
    assert_eq!(status.reason, Some(Reason::RuntimeUnavailable));
    assert_eq!(status.state, WorkloadState::Pending);
    assert!(!status.given_up && !status.gone && status.next_try_ms.is_some());
    assert!(status.detail.contains("it is down"), "{}", status.detail);
    bench.engine.lack(false);
    let status = talk.ready(unit(1)).await;
    assert_eq!((status.restarts, bench.engine.starts(unit(1))), (0, 1));
    assert!(bench.engine.is_running(unit(1)));
}

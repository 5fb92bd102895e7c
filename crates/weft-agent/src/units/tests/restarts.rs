//! Agents that start again, and sessions that end.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_again_without_a_server_adopts_and_restarts() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1), service(2)]).await;
    talk.ready(unit(1)).await;
    talk.ready(unit(2)).await;
    let refusal = || tonic::Status::unavailable("away");
    let away = (0..1_000).map(|_| refusal());
    bench.server.state.refusals.lock().extend(away);
    bench.crash().await;
    bench.engine.exit(unit(2), 1);
    bench.agent(None).await;
    let engine = Arc::clone(&bench.engine);
    until("what ended runs again", || engine.starts(unit(2)) == 2).await;
    assert_eq!(engine.starts(unit(1)), 1);
    bench.server.state.refusals.lock().clear();
    let mut talk = bench.session().await;
    let status = talk.ready(unit(2)).await;
    assert_eq!((status.restarts, talk.completes), (1, 1));
    assert!(talk.statuses[&unit(1)].ready, "known in the first report");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_wants_is_removed_also_when_it_is_half_made() {
    let (mut bench, _talk) = Bench::serving().await;
    bench.engine.plant(unit(77));
    bench.restart().await;
    let engine = Arc::clone(&bench.engine);
    until("the ghost is gone", || engine.phase(unit(77)).is_none()).await;
    assert!(engine.is_running(unit(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_during_an_outage_are_reported_after_it() {
    let (mut bench, _talk) = Bench::serving().await;
    bench.server.break_off();
    let engine = Arc::clone(&bench.engine);
    engine.exit(unit(1), 3);
    until("it runs again", || engine.starts(unit(1)) == 2).await;
    let mut talk = bench.session().await;
    let status = talk.ready(unit(1)).await;
    assert_eq!((status.restarts, status.exit_code), (1, Some(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_is_made_good_for_wherever_it_was() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[]).await;
    let mut number = 0;
    for is_done in [false, true] {
        for call in 1..=6 {
            number += 1;
            let engine = Arc::clone(&bench.engine);
            engine.halt_at(call, is_done);
            talk.apply(true, &[service(number)]).await;
            tokio::select! {
                () = until("it stands still", || engine.is_halted()) => {}
                _ = talk.ready(unit(number)) => {}
            }
            if !engine.is_halted() {
                // It came that far without so many calls: the next ones are of its end.
                talk.apply(true, &[]).await;
                until("it stands still at its end", || engine.is_halted()).await;
            }
            bench.crash().await;
            engine.resume();
            bench.agent(None).await;
            talk = bench.session().await;
            talk.apply(true, &[service(number)]).await;
            talk.ready(unit(number)).await;
            assert!(engine.starts(unit(number)) <= 2);
            talk.apply(true, &[]).await;
            until("nothing is left", || engine.is_empty()).await;
            until("no record is left", || bench.records() == 0).await;
        }
    }
}

//! Units that fail, and when others take their place.

use super::*;

#[test]
fn a_failed_unit_is_replaced_elsewhere_after_a_wait_that_grows() {
    let mut bench = Bench::new(service(1), 3);
    bench.converge();
    let mut waits = Vec::new();
    for _ in 0..8 {
        let number = bench.running()[0];
        let failed_on = bench.places();
        bench.give_up(number, Reason::RuntimeError);
        bench.rest();
        assert_eq!(bench.running(), NONE);
        let next_ms = bench.retry.as_ref().map_or(0, |retry| retry.next_ms);
        waits.push(next_ms - bench.now_ms);
        bench.make_gone(number);
        bench.now_ms = next_ms - 1;
        bench.rest();
        assert_eq!(bench.running(), NONE);
        bench.now_ms = next_ms;
        bench.rest();
        assert_ne!(bench.places(), failed_on);
    }
    assert!((500..=1_000).contains(&waits[0]), "{waits:?}");
    assert!((1_000..=2_000).contains(&waits[1]), "{waits:?}");
    assert!((30_000..=60_000).contains(&waits[7]), "{waits:?}");
}

#[test]
fn a_permanent_reason_is_tried_again_slowly_and_says_so() {
    let mut bench = Bench::new(service(1), 1);
    bench.converge();
    bench.give_up(1, Reason::ImageNotFound);
    let plan = bench.step();
    let next_ms = plan.summary.next_try_ms.unwrap_or(0);
    assert!(next_ms >= bench.now_ms + 30_000);
    assert!(
        plan.summary.why.contains("only a change"),
        "{}",
        plan.summary.why
    );
}

#[test]
fn failures_are_forgotten_after_a_calm_while_only() {
    let mut bench = Bench::new(service(1), 2);
    bench.converge();
    bench.give_up(1, Reason::RuntimeError);
    bench.rest();
    bench.pass(1_000);
    bench.rest();
    bench.obey();
    bench.rest();
    assert_eq!(bench.retry.as_ref().map(|retry| retry.failures), Some(1));
    bench.pass(59_999);
    bench.rest();
    assert!(bench.retry.is_some());
    bench.pass(1);
    bench.rest();
    assert_eq!(bench.retry, None);
}

#[test]
fn a_wait_written_by_a_clock_that_was_ahead_begins_anew() {
    let mut bench = Bench::new(service(1), 1);
    bench.converge();
    bench.give_up(1, Reason::RuntimeError);
    bench.rest();
    bench.now_ms -= 3_600_000;
    bench.leading_since_ms = bench.now_ms;
    let plan = bench.step();
    assert!(plan.wake_ms <= Some(bench.now_ms + 60_000));
    bench.rest();
    bench.pass(60_000);
    bench.rest();
    assert_eq!(bench.running(), [2]);
}

#[test]
fn a_unit_that_vanished_is_replaced() {
    let mut bench = Bench::new(service(1), 1);
    bench.converge();
    bench.make_gone(1);
    bench.rest();
    assert!(bench.assignments.is_empty());
    bench.pass(1_000);
    bench.rest();
    assert_eq!(bench.running(), [2]);
}

#[test]
fn an_old_unit_that_fails_during_an_update_does_not_hold_the_new_ones_back() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench.update(|_| {});
    bench.rest();
    bench.give_up(1, Reason::NonzeroExit);
    bench.rest();
    assert_eq!(bench.retry, None);
    assert!(!bench.is_rolled_back());
    bench.converge();
    assert_eq!(bench.revisions(), [2, 2]);
}

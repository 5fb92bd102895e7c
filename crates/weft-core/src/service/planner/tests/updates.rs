//! Rolling updates and their way back.

use super::*;
fn updated(replicas: u32, update: UpdateSpec) -> Bench {
    let mut spec = service(replicas);
    spec.update = Some(update);
    let mut bench = Bench::new(spec, 3);
    bench.converge();
    bench.update(|spec| {
        if let Some(container) = &mut spec.container {
            container.image = "web:2".to_owned();
        }
    });
    bench
}

#[test]
fn one_new_unit_comes_first_and_an_old_one_goes_only_then() {
    let mut bench = updated(3, rolling(1, 0));
    bench.rest();
    assert_eq!(bench.running(), [1, 2, 3, 4]);
    bench.make_ready(4);
    bench.step();
    assert_eq!(bench.stopping().len(), 1);
    bench.rest();
    assert_eq!(bench.running().len(), 4, "the next one has come");
    bench.converge();
    assert_eq!(bench.revisions(), [2, 2, 2]);
    assert!(bench.is_complete());
}

#[test]
fn without_surge_old_ones_go_first_but_no_more_than_may_be_missing() {
    let mut bench = updated(3, rolling(0, 1));
    bench.rest();
    assert_eq!(bench.revisions().len(), 3);
    assert_eq!(bench.stopping().len(), 1);
}

#[test]
fn a_new_unit_counts_once_it_has_been_ready_long_enough() {
    let update = UpdateSpec {
        min_ready: seconds(10),
        ..rolling(1, 0)
    };
    let mut bench = updated(2, update);
    bench.rest();
    bench.make_ready(3);
    let plan = bench.step();
    assert_eq!(bench.stopping(), NONE);
    assert_eq!(plan.wake_ms, Some(bench.now_ms + 10_000));
    bench.pass(10_000);
    bench.step();
    assert_eq!(bench.stopping().len(), 1);
}

#[test]
fn a_nodes_wrong_clock_does_not_make_a_unit_count_early() {
    let update = UpdateSpec {
        min_ready: seconds(10),
        ..rolling(1, 0)
    };
    let mut bench = updated(2, update);
    bench.rest();
    bench.make_ready(3);
    bench.report(3, |status| status.ready_since_ms = Some(1));
    bench.rest();
    assert_eq!(bench.stopping(), NONE);
}

#[test]
fn an_update_whose_units_fail_goes_back_to_what_worked() {
    let mut bench = updated(3, rolling(1, 0));
    bench.rest();
    bench.give_up(4, Reason::NonzeroExit);
    bench.rest();
    assert!(bench.is_rolled_back());
    bench.converge();
    assert_eq!(bench.running(), [1, 2, 3]);
    let summary = bench.plan().summary;
    assert_eq!(summary.state, WorkloadState::Running);
    assert_eq!(summary.reason, Some(Reason::NonzeroExit));
    assert_eq!(summary.revision, 1);
}

#[test]
fn a_failed_revision_is_not_tried_again_until_the_record_changes() {
    let mut bench = updated(2, rolling(1, 0));
    bench.rest();
    bench.give_up(3, Reason::InvalidSpec);
    bench.converge();
    bench.pass(86_400_000);
    bench.converge();
    assert_eq!(bench.running(), [1, 2]);
    bench.update(|_| {});
    bench.converge();
    assert_eq!(bench.revisions(), [3, 3]);
}

#[test]
fn an_update_without_progress_fails_at_its_deadline_and_not_before() {
    let mut bench = updated(2, rolling(1, 0));
    bench.rest();
    bench.pass(299_999);
    bench.rest();
    assert!(!bench.is_rolled_back());
    bench.pass(1);
    bench.rest();
    assert!(bench.is_rolled_back());
}

#[test]
fn progress_gives_an_update_its_deadline_anew() {
    let mut bench = updated(2, rolling(1, 0));
    bench.rest();
    bench.pass(299_000);
    bench.make_ready(3);
    bench.rest();
    bench.pass(299_000);
    bench.rest();
    assert!(!bench.is_rolled_back());
}

#[test]
fn a_clock_that_jumped_while_nobody_led_fails_no_update() {
    for jump_ms in [3_600_000_i64, -3_600_000] {
        let mut bench = updated(2, rolling(1, 0));
        bench.rest();
        bench.now_ms = bench.now_ms.saturating_add_signed(jump_ms);
        bench.leading_since_ms = bench.now_ms;
        bench.rest();
        assert!(!bench.is_rolled_back(), "by {jump_ms} ms");
        bench.pass(300_000);
        bench.rest();
        assert!(bench.is_rolled_back(), "by {jump_ms} ms");
    }
}

#[test]
fn failures_that_may_be_the_nodes_fault_are_tried_elsewhere_first() {
    let mut bench = updated(1, rolling(1, 0));
    bench.rest();
    bench.give_up(2, Reason::StorageError);
    bench.rest();
    assert!(!bench.is_rolled_back());
    bench.pass(60_000);
    bench.rest();
    assert_eq!(bench.running(), [1, 3]);
    let node_of =
        |bench: &Bench, number: u32| bench.assignments.get(&number).map(|a| a.node.clone());
    assert_ne!(node_of(&bench, 3), node_of(&bench, 2));
    for number in [3, 4] {
        bench.give_up(number, Reason::StorageError);
        bench.rest();
        bench.pass(60_000);
        bench.rest();
    }
    assert!(bench.is_rolled_back());
}

#[test]
fn without_rollback_a_failed_update_stays_and_is_tried_again() {
    let mut bench = updated(
        2,
        UpdateSpec {
            rollback: false,
            ..rolling(1, 0)
        },
    );
    bench.rest();
    bench.give_up(3, Reason::NonzeroExit);
    bench.rest();
    assert!(matches!(
        bench.state(),
        Some(RolloutState::Failed {
            rolled_back: false,
            ..
        })
    ));
    assert_eq!(bench.running(), [1, 2], "what worked is left alone");
    bench.pass(60_000);
    bench.rest();
    assert_eq!(bench.running(), [1, 2, 4]);
    bench.converge();
    assert!(bench.is_complete());
}

#[test]
fn a_first_rollout_that_fails_is_tried_again_and_can_still_succeed() {
    let mut bench = Bench::new(service(1), 2);
    bench.step();
    bench.give_up(1, Reason::ImageNotFound);
    bench.rest();
    let summary = bench.plan().summary;
    assert_eq!(summary.state, WorkloadState::Failed);
    assert!(summary.next_try_ms > Some(bench.now_ms));
    bench.pass(60_000);
    bench.converge();
    assert!(bench.is_complete());
}

#[test]
fn a_failed_restart_leaves_the_units_that_work() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench.record.restarts = 1;
    bench.rest();
    bench.give_up(3, Reason::ImageNotFound);
    bench.converge();
    assert_eq!(bench.running(), [1, 2]);
    assert!(bench.is_rolled_back());
}

#[test]
fn an_old_unit_with_data_is_not_stopped_while_the_new_one_has_no_place() {
    let mut spec = service(1);
    spec.exclusive = true;
    let mut bench = Bench::new(spec, 1);
    bench.converge();
    bench.update(|spec| {
        spec.resources = Some(Resources {
            cpu: Millicores(9_000),
            ..Resources::default()
        });
    });
    let plan = bench.step();
    assert_eq!(bench.running(), [1]);
    assert!(plan.summary.waiting.is_some());
}

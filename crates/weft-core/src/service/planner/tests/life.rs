//! Apply, scale, stop, delete.

use weft_types::{Spread, WorkloadState};

use super::*;

#[test]
fn a_service_gets_its_replicas_and_is_then_left_alone() {
    let mut bench = Bench::new(service(3), 3);
    let plan = bench.step();
    assert_eq!(plan.summary.state, WorkloadState::Starting);
    assert_eq!(bench.running(), [1, 2, 3]);
    bench.obey();
    bench.rest();
    assert!(bench.is_complete());
    let plan = bench.plan();
    assert_eq!(plan.actions, []);
    assert_eq!(plan.summary.state, WorkloadState::Running);
    assert_eq!(plan.summary.counts.ready, 3);
    assert_eq!(plan.summary.why, "");
}

#[test]
fn spread_puts_each_replica_on_its_own_node_also_after_an_update() {
    let mut spec = service(3);
    spec.placement.spread = Some(Spread::Node);
    let mut bench = Bench::new(spec, 3);
    bench.converge();
    assert_eq!(bench.places(), ["a", "b", "c"]);
    bench.update(|_| {});
    bench.converge();
    assert_eq!(bench.places(), ["a", "b", "c"]);
    assert_eq!(bench.revisions(), [2, 2, 2]);
}

#[test]
fn spread_over_zones_looks_at_zones() {
    let mut spec = service(2);
    spec.placement.spread = Some(Spread::Zone);
    let mut bench = Bench::new(spec, 0);
    for (name, zone) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut candidate = cores(8);
        candidate
            .capacity
            .labels
            .insert("zone".to_owned(), zone.to_owned());
        bench
            .board
            .set_node(node(name), candidate, NodeHealth::Usable);
    }
    bench.converge();
    assert_eq!(bench.places(), ["a", "c"]);
}

#[test]
fn scaling_by_people_makes_and_stops_units_without_replacing_any() {
    let mut bench = Bench::new(service(2), 3);
    bench.converge();
    bench.record.scale = Some(4);
    bench.converge();
    assert_eq!(bench.running(), [1, 2, 3, 4]);
    bench.record.scale = Some(1);
    bench.converge();
    assert_eq!(bench.running().len(), 1);
    assert_eq!(bench.stopping(), NONE);
    assert!(bench.is_complete());
}

#[test]
fn what_does_not_answer_goes_first_when_fewer_are_wanted() {
    let mut bench = Bench::new(service(3), 3);
    bench.converge();
    bench.report(2, |status| status.ready = false);
    bench.record.scale = Some(2);
    bench.step();
    assert_eq!(bench.stopping(), [2]);
}

#[test]
fn a_change_of_placement_alone_replaces_nothing() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench
        .record
        .spec
        .placement
        .prefer
        .insert("ssd".to_owned(), "true".to_owned());
    bench.converge();
    assert_eq!(bench.running(), [1, 2]);
    let good = bench.rollout.and_then(|rollout| rollout.good);
    assert_eq!(good.map(|good| good.spec), Some(bench.record.spec));
}

#[test]
fn a_stopped_service_runs_nothing_and_comes_back() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench.record.stopped = true;
    bench.converge();
    assert!(bench.assignments.is_empty());
    assert_eq!(bench.plan().summary.state, WorkloadState::Stopped);
    bench.pass(3_600_000);
    bench.record.stopped = false;
    bench.converge();
    assert_eq!(bench.running(), [3, 4], "numbers are never given twice");
}

#[test]
fn a_service_stopped_during_its_update_has_its_deadline_anew() {
    let mut bench = Bench::new(service(1), 1);
    bench.step();
    bench.record.stopped = true;
    bench.converge();
    bench.pass(3_600_000);
    bench.record.stopped = false;
    bench.record.changed_ms = bench.now_ms;
    bench.rest();
    assert!(matches!(
        bench.state(),
        Some(RolloutState::Progressing { .. })
    ));
}

#[test]
fn a_deleted_service_goes_when_nothing_of_it_is_left() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench.record.deleting = true;
    bench.step();
    assert_eq!(bench.stopping(), [1, 2]);
    bench.make_gone(1);
    bench.rest();
    assert!(!bench.is_deleted);
    bench.make_gone(2);
    bench.step();
    assert!(bench.is_deleted);
}

#[test]
fn a_deleted_service_does_not_wait_for_lost_nodes() {
    let mut bench = Bench::new(service(1), 1);
    bench.converge();
    bench.record.deleting = true;
    bench.set_health("a", NodeHealth::LeaseLost { since_ms: START_MS });
    bench.step();
    assert!(bench.is_deleted);
}

#[test]
fn a_restart_replaces_every_unit_one_after_the_other() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench.record.restarts = 1;
    bench.step();
    assert_eq!(bench.running(), [1, 2, 3]);
    bench.converge();
    assert_eq!(bench.running(), [3, 4]);
    assert!(bench.assignments.values().all(|a| a.restarts == 1));
}

#[test]
fn a_service_that_ended_well_is_not_made_anew() {
    let mut bench = Bench::new(service(1), 1);
    bench.step();
    bench.report(1, |status| status.state = WorkloadState::Succeeded);
    bench.rest();
    assert_eq!(bench.running(), [1]);
    assert_eq!(bench.plan().summary.state, WorkloadState::Succeeded);
    bench.make_gone(1);
    bench.report(1, |status| status.state = WorkloadState::Succeeded);
}

#[test]
fn many_replicas_come_in_plans_of_bounded_size() {
    let mut bench = Bench::new(service(100), 0);
    bench
        .board
        .set_node(node("big"), cores(1_000), NodeHealth::Usable);
    let plan = bench.step();
    assert_eq!(bench.running().len(), 64);
    assert_eq!(plan.wake_ms, Some(bench.now_ms));
    bench.rest();
    assert_eq!(bench.running().len(), 100);
}

#[test]
fn what_answers_on_a_suspect_node_outlasts_what_does_not_answer() {
    let mut bench = Bench::new(service(2), 2);
    bench.step();
    bench.make_ready(1);
    let home = bench.assignments[&1].node.to_string();
    bench.set_health(&home, NodeHealth::Suspect);
    bench.record.scale = Some(1);
    bench.step();
    assert_eq!(bench.running(), [1]);
}

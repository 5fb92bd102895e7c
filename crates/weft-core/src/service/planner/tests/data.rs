//! Units with data of their own on their nodes.

use weft_types::{VolumeClass, VolumeSpec};

use super::nodes::{of_tenant, tenant};
use super::*;

/// A service whose units keep data on their nodes.
fn database(replicas: u32) -> Workload {
    let mut spec = service(replicas);
    if let Some(container) = &mut spec.container {
        container.volumes = vec![VolumeSpec {
            target: "/data".to_owned(),
            class: Some(VolumeClass::Local),
            ..VolumeSpec::default()
        }];
    }
    spec
}

#[test]
fn a_volume_on_the_node_is_taken_over_by_the_unit_that_follows_there() {
    let mut bench = Bench::new(database(1), 3);
    bench.converge();
    let home = bench.places();
    bench.update(|_| {});
    bench.step();
    assert_eq!(bench.running(), NONE);
    assert!(bench.assignments.values().all(|a| a.keep_volumes));
    bench.rest();
    assert_eq!(bench.running(), NONE, "the old one is still there");
    bench.make_gone(1);
    bench.rest();
    assert_eq!(bench.running(), [2]);
    assert_eq!(bench.places(), home);
    assert_eq!(bench.stopping(), NONE, "the old one is forgotten now");
}

/// Stops everything, gives the place on `a` to another workload, and starts again.
fn come_back_to_a_full_node(bench: &mut Bench, priority: i32) -> Plan {
    bench.record.stopped = true;
    bench.converge();
    for number in 1..=4 {
        tenant(bench, number, "a", priority);
    }
    bench.record.stopped = false;
    bench.step()
}

#[test]
fn data_that_waits_for_room_keeps_no_other_replica_waiting() {
    let mut bench = Bench::new(database(1), 2);
    bench.converge();
    assert_eq!(bench.places(), ["a"]);
    bench.record.scale = Some(2);
    let plan = come_back_to_a_full_node(&mut bench, 9);
    assert_eq!(bench.places(), ["b"]);
    let waiting = plan.summary.waiting.map(|waiting| waiting.detail);
    assert!(waiting.is_some_and(|detail| detail.contains("its data is on a")));
    bench.rest();
    assert_eq!(
        bench.running().len(),
        1,
        "the other one stays with its data"
    );
}

#[test]
fn lower_priority_makes_room_where_the_data_is_and_nowhere_else() {
    let mut spec = database(1);
    spec.priority = 5;
    let mut bench = Bench::new(spec, 2);
    bench.converge();
    tenant(&mut bench, 9, "b", 0);
    let plan = come_back_to_a_full_node(&mut bench, 0);
    let preempted = |action: &&Action| matches!(action, Action::Preempt { .. });
    assert_eq!(plan.actions.iter().filter(preempted).count(), 1);
    assert_eq!(plan.claim.map(|claim| claim.node), Some(node("a")));
    assert_eq!(bench.running(), NONE);
    let stops = bench.board.units();
    let stops = stops.filter(|(id, unit)| *id != super::unit(1) && unit.intent == Intent::Stop);
    let victim = stops.map(|(id, _)| id).next();
    bench.board.remove_unit(victim.unwrap_or(super::unit(0)));
    bench.rest();
    assert_eq!(bench.places(), ["a"]);
}

#[test]
fn what_nodes_keep_goes_before_a_stopped_workload_is_deleted() {
    let mut bench = Bench::new(database(2), 3);
    bench.converge();
    bench.record.stopped = true;
    bench.converge();
    assert_eq!(bench.stopping(), [1, 2], "their data waits");
    bench.record.deleting = true;
    bench.step();
    assert!(!bench.is_deleted);
    assert!(bench.assignments.values().all(|it| !it.keep_volumes));
    let plan = bench.step();
    assert_eq!(plan.actions, [], "until the nodes have answered");
    bench.make_gone(1);
    bench.step();
    assert_eq!(bench.stopping(), [2]);
    bench.set_health("a", NodeHealth::Removed);
    bench.set_health("b", NodeHealth::Removed);
    bench.converge();
    assert!(bench.is_deleted, "what is on a lost node is beyond reach");
}

#[test]
fn data_that_no_replica_needs_any_more_goes() {
    let mut bench = Bench::new(database(2), 2);
    bench.converge();
    bench.record.stopped = true;
    bench.converge();
    bench.record.scale = Some(1);
    bench.record.stopped = false;
    bench.converge();
    assert_eq!(bench.running().len(), 1);
    assert_eq!(bench.stopping(), NONE);
    assert!(bench.statuses.values().all(|status| !status.kept));
}

#[test]
fn data_on_a_cordoned_node_is_not_left_behind() {
    let mut bench = Bench::new(database(1), 2);
    bench.converge();
    bench.record.stopped = true;
    bench.converge();
    bench.set_health("a", NodeHealth::Cordoned);
    bench.record.stopped = false;
    bench.rest();
    assert_eq!(bench.running(), NONE);
    assert_eq!(bench.stopping(), [1], "its data is still there");
    bench.set_health("a", NodeHealth::Usable);
    bench.rest();
    assert_eq!(bench.places(), ["a"]);
}

#[test]
fn a_place_that_somebody_took_is_not_kept_from_the_next_unit_beside_it() {
    let mut bench = Bench::new(database(1), 1);
    bench.converge();
    let kept = Assignment {
        intent: Intent::Stop,
        keep_volumes: true,
        stopping_ms: Some(bench.now_ms),
        ..of_tenant(9, "a", 0)
    };
    bench.board.set_unit(&kept, true);
    for number in 1..=3 {
        tenant(&mut bench, number, "a", 5);
    }
    bench.pass(1_000);
    bench.update(|_| {});
    bench.converge();
    assert_eq!(bench.revisions(), [2]);
    assert!(bench.is_complete());
}

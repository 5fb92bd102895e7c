//! What must never run in two places.

use super::*;

const LOST: NodeHealth = NodeHealth::LeaseLost { since_ms: START_MS };

fn exclusive() -> Bench {
    let mut spec = service(1);
    spec.exclusive = true;
    let mut bench = Bench::new(spec, 2);
    bench.converge();
    bench
}

#[test]
fn it_moves_from_a_lost_node_only_after_its_end_was_written() {
    let mut bench = exclusive();
    let home = bench.places();
    bench.set_health(&home[0], LOST);
    bench.step();
    assert_eq!(bench.running(), NONE);
    assert_eq!(bench.stopping(), [1]);
    bench.step();
    assert_eq!(bench.running(), [2]);
    assert_ne!(bench.places(), home);
}

#[test]
fn it_waits_for_a_node_that_came_back_in_between() {
    let mut bench = exclusive();
    let home = bench.places();
    bench.set_health(&home[0], LOST);
    bench.step();
    bench.set_health(&home[0], NodeHealth::Usable);
    bench.rest();
    assert_eq!(bench.running(), NONE);
    bench.make_gone(1);
    bench.rest();
    assert_eq!(bench.running(), [2]);
}

#[test]
fn it_waits_for_a_removed_node_until_its_lease_is_over() {
    let mut bench = exclusive();
    let home = bench.places();
    bench.set_health(&home[0], NodeHealth::Removed);
    bench.rest();
    assert_eq!(bench.running(), NONE);
    bench.board.remove_node(&node(&home[0]));
    bench.rest();
    assert_eq!(bench.running(), [2]);
}

#[test]
fn its_update_waits_until_the_old_one_is_gone() {
    let mut bench = exclusive();
    bench.update(|_| {});
    bench.rest();
    assert_eq!(bench.running(), NONE);
    bench.make_gone(1);
    bench.rest();
    assert_eq!(bench.running(), [2]);
}

#[test]
fn a_unit_that_did_not_know_to_be_exclusive_is_not_fenced_by_its_lease() {
    let mut bench = Bench::new(service(1), 2);
    bench.converge();
    let home = bench.places();
    bench.update(|spec| spec.exclusive = true);
    bench.set_health(&home[0], LOST);
    bench.rest();
    assert_eq!(bench.running(), NONE);
    bench.board.remove_node(&node(&home[0]));
    bench.rest();
    assert_eq!(bench.running(), [2]);
}

#[test]
fn a_restart_of_a_stopped_one_waits_for_the_fence_too() {
    let mut bench = exclusive();
    let home = bench.places();
    bench.record.stopped = true;
    bench.set_health(&home[0], NodeHealth::Removed);
    bench.rest();
    bench.record.stopped = false;
    bench.rest();
    assert_eq!(bench.running(), NONE);
    bench.set_health(&home[0], LOST);
    bench.rest();
    assert_eq!(bench.running(), [2]);
}

//! Updates of services that are apart from themselves.

use super::*;

/// A service of which no node has two units, as updated on this many nodes.
fn alone(replicas: u32, min: u32, nodes: usize, update: UpdateSpec) -> Bench {
    let mut spec = service(replicas);
    spec.name = "web".parse().ok();
    spec.placement.apart = spec.name.clone().into_iter().collect();
    spec.update = Some(update);
    if let Some(replicas) = &mut spec.replicas {
        replicas.min = min;
    }
    let mut bench = Bench::new(spec, nodes);
    bench.converge();
    bench.update(|spec| {
        if let Some(container) = &mut spec.container {
            container.image = "web:2".to_owned();
        }
    });
    bench
}

/// Goes on until nothing changes, and looks at every moment how many are on each node.
/// The fewest that were ready at any time.
fn watch(bench: &mut Bench) -> usize {
    let mut least = usize::MAX;
    for _ in 0..600 {
        let plan = bench.step();
        let there = bench.assignments.values().filter(|assignment| {
            let status = bench.statuses.get(&assignment.unit.number);
            !status.is_some_and(|status| status.gone)
        });
        let mut places: Vec<&NodeId> = there.map(|assignment| &assignment.node).collect();
        places.sort();
        let all = places.len();
        places.dedup();
        assert_eq!(places.len(), all, "one a node: {places:?}");
        let ready = bench.running().into_iter();
        let ready = ready.filter(|number| bench.statuses.get(number).is_some_and(|s| s.ready));
        least = least.min(ready.count());
        let before = bench.statuses.clone();
        bench.obey();
        if plan.actions.is_empty() && before == bench.statuses && plan.wake_ms.is_none() {
            break;
        }
        bench.now_ms += 1_000;
    }
    least
}

#[test]
fn a_free_node_is_used_and_nothing_is_missing() {
    let mut bench = alone(2, 0, 3, rolling(1, 0));
    assert_eq!(watch(&mut bench), 2);
    assert_eq!(bench.revisions(), [2, 2]);
    assert!(bench.is_complete());
}

#[test]
fn without_a_free_node_one_after_the_other_is_replaced_where_it_is() {
    let mut bench = alone(3, 0, 3, rolling(1, 0));
    assert_eq!(watch(&mut bench), 2);
    assert_eq!(bench.revisions(), [2, 2, 2]);
    assert!(bench.is_complete());
}

#[test]
fn more_may_be_replaced_at_a_time_where_the_update_says_so() {
    let mut bench = alone(3, 0, 3, rolling(0, 2));
    assert_eq!(watch(&mut bench), 1);
    assert_eq!(bench.revisions(), [2, 2, 2]);
}

#[test]
fn what_has_no_place_anyhow_keeps_no_update_waiting() {
    let mut bench = alone(4, 0, 3, rolling(1, 0));
    assert_eq!(watch(&mut bench), 2);
    assert_eq!(bench.revisions(), [2, 2, 2]);
}

#[test]
fn none_makes_way_that_the_least_number_needs() {
    let mut bench = alone(3, 3, 3, rolling(1, 1));
    bench.rest();
    assert_eq!(bench.stopping(), NONE);
    let why = bench.plan().summary.waiting.map(|waiting| waiting.detail);
    assert!(
        why.is_some_and(|why| why.ends_with("`replicas.min` is 3")),
        "it says so"
    );
    bench
        .board
        .set_node(node("d"), cores(4), NodeHealth::Usable);
    assert_eq!(watch(&mut bench), 3, "another node will do");
    assert_eq!(bench.revisions(), [2, 2, 2]);
}

#[test]
fn a_unit_that_does_not_come_back_ends_the_update_there() {
    let mut bench = alone(3, 0, 3, rolling(1, 0));
    bench.rest();
    let old = bench.stopping();
    assert_eq!(old.len(), 1);
    bench.make_gone(old[0]);
    bench.rest();
    assert_eq!(bench.revisions(), [1, 1, 2]);
    bench.give_up(4, Reason::NonzeroExit);
    bench.rest();
    assert!(bench.is_rolled_back());
    watch(&mut bench);
    assert_eq!(bench.revisions(), [1, 1, 1]);
}

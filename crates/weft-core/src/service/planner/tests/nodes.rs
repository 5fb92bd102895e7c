//! Cordon, drain, loss, room.

use super::*;

const LOST: NodeHealth = NodeHealth::LeaseLost { since_ms: START_MS };

#[test]
fn nothing_new_goes_to_closed_nodes_and_nothing_leaves_them() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    assert_eq!(bench.places(), ["a", "b"]);
    bench.set_health("a", NodeHealth::Cordoned);
    bench.set_health("b", NodeHealth::Suspect);
    bench.rest();
    assert_eq!(bench.running(), [1, 2]);
    bench.record.scale = Some(3);
    let plan = bench.step();
    assert_eq!(bench.running(), [1, 2]);
    let waiting = plan.summary.waiting.map(|waiting| waiting.reason);
    assert_eq!(waiting, Some(Reason::NoCandidate));
}

#[test]
fn a_drained_node_is_emptied_new_units_first() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench.set_health("a", NodeHealth::Draining);
    bench.rest();
    assert_eq!(bench.running(), [1, 2, 3]);
    bench.converge();
    assert_eq!(bench.places(), ["b", "b"]);
    assert!(bench.is_complete(), "that is no update");
}

#[test]
fn a_drain_waits_while_there_is_no_place() {
    let mut bench = Bench::new(service(2), 1);
    bench.converge();
    bench.set_health("a", NodeHealth::Draining);
    bench.rest();
    assert_eq!(bench.running(), [1, 2]);
    assert!(bench.plan().summary.waiting.is_some());
}

#[test]
fn units_of_a_lost_node_are_replaced_at_once_and_forgotten() {
    let mut bench = Bench::new(service(2), 2);
    bench.converge();
    bench.set_health("a", LOST);
    bench.step();
    assert_eq!(bench.places(), ["b", "b"]);
    assert_eq!(bench.assignments.len(), 2);
    assert_eq!(bench.retry, None, "that is nobody's failure");
}

#[test]
fn lost_units_do_not_wait_for_the_backoff_of_others() {
    let mut bench = Bench::new(service(2), 3);
    bench.converge();
    bench.give_up(1, Reason::RuntimeError);
    bench.rest();
    let lost = bench.places();
    bench.set_health(&lost[0], LOST);
    bench.step();
    assert_eq!(bench.running().len(), 1);
}

#[test]
fn a_node_that_is_not_known_is_gone_once_the_board_has_settled() {
    let mut bench = Bench::new(service(1), 2);
    bench.converge();
    let home = bench.places();
    bench.board.remove_node(&node(&home[0]));
    bench.step();
    assert_ne!(bench.places(), home);
}

#[test]
fn no_node_gets_more_than_it_has() {
    let mut bench = Bench::new(service(20), 2);
    bench.rest();
    assert_eq!(bench.running().len(), 8);
    let summary = bench.plan().summary;
    assert_eq!(summary.counts.wanted, 20);
    let reason = summary.waiting.map(|waiting| waiting.reason);
    assert_eq!(reason, Some(Reason::InsufficientResources));
    bench
        .board
        .set_node(node("c"), cores(20), NodeHealth::Usable);
    bench.rest();
    assert_eq!(bench.running().len(), 20);
}

#[test]
fn tasks_of_jobs_take_room_as_well() {
    let mut bench = Bench::new(service(4), 1);
    bench.board.reserve_tasks(
        &node("a"),
        Resources {
            cpu: Millicores(2_000),
            ..Resources::default()
        },
    );
    bench.rest();
    assert_eq!(bench.running().len(), 2);
}

#[test]
fn an_assignment_keeps_why_it_is_where_it_is() {
    let mut bench = Bench::new(service(1), 2);
    bench.step();
    let kept = bench
        .assignments
        .get(&1)
        .and_then(|a| a.explanation.clone());
    let explanation: Option<weft_placement::Explanation> =
        kept.and_then(|value| serde_json::from_value(value).ok());
    assert_eq!(explanation.map(|e| e.considered.len()), Some(2));
}

/// A unit of another workload on a node.
pub(super) fn tenant(bench: &mut Bench, number: u32, place: &str, priority: i32) -> UnitId {
    let assignment = of_tenant(number, place, priority);
    bench.board.set_unit(&assignment, false);
    assignment.unit
}

pub(super) fn of_tenant(number: u32, place: &str, priority: i32) -> Assignment {
    let mut spec = service(1);
    spec.priority = priority;
    Assignment {
        v: RECORD_VERSION,
        unit: UnitId {
            workload: WorkloadId(1),
            number,
        },
        node: node(place),
        revision: 1,
        restarts: 0,
        epoch: 1,
        spec,
        intent: Intent::Run,
        why: String::new(),
        created_ms: START_MS,
        stopping_ms: None,
        keep_volumes: false,
        explanation: None,
    }
}

#[test]
fn the_fewest_and_lowest_units_make_room_for_greater_priority() {
    let mut spec = service(1);
    spec.priority = 10;
    let mut bench = Bench::new(spec, 2);
    for number in 1..=4 {
        tenant(&mut bench, number, "a", 5);
        tenant(
            &mut bench,
            number + 4,
            "b",
            if number == 3 { -5 } else { 20 },
        );
    }
    let plan = bench.step();
    let preempted: Vec<UnitId> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Preempt { unit, .. } => Some(*unit),
            _ => None,
        })
        .collect();
    assert_eq!(
        preempted.iter().map(|unit| unit.number).collect::<Vec<_>>(),
        [7]
    );
    assert_eq!(plan.claim.map(|claim| claim.node), Some(node("b")));
    assert!(
        !bench
            .step()
            .actions
            .iter()
            .any(|a| matches!(a, Action::Preempt { .. })),
        "enough room is being made"
    );
    bench.board.remove_unit(preempted[0]);
    bench.rest();
    assert_eq!(bench.places(), ["b"]);
}

#[test]
fn equal_priority_makes_no_room() {
    let mut bench = Bench::new(service(1), 1);
    for number in 1..=4 {
        tenant(&mut bench, number, "a", 0);
    }
    let plan = bench.step();
    assert_eq!(plan.claim, None);
    assert!(plan.summary.waiting.is_some());
}

#[test]
fn room_that_is_claimed_is_left_to_those_who_wait_for_it() {
    let mut spec = service(1);
    spec.priority = 10;
    let mut bench = Bench::new(spec, 1);
    for number in 1..=4 {
        tenant(&mut bench, number, "a", 0);
    }
    bench.step();
    let victim = bench
        .board
        .units()
        .find(|(_, unit)| unit.intent == Intent::Stop);
    let victim = victim.map(|(id, _)| id).unwrap_or(unit(0));
    bench.board.remove_unit(victim);
    let mut low = crate::service::UnitRequest::new(WorkloadId(1), &service(1));
    assert!(bench.board.place(&low).is_err());
    low.priority = 11;
    assert!(bench.board.place(&low).is_ok());
}

#[test]
fn a_place_kept_for_data_gives_way_to_greater_priority_only() {
    let mut bench = Bench::new(service(1), 1);
    for number in 1..=3 {
        tenant(&mut bench, number, "a", 5);
    }
    let kept = Assignment {
        intent: Intent::Stop,
        keep_volumes: true,
        ..of_tenant(4, "a", 5)
    };
    bench.board.set_unit(&kept, true);
    let mut request = crate::service::UnitRequest::new(WorkloadId(2), &service(1));
    for (priority, fits) in [(4, false), (5, false), (6, true)] {
        request.priority = priority;
        assert_eq!(bench.board.place(&request).is_ok(), fits, "{priority}");
    }
    request.priority = 5;
    request.without = vec![kept.unit];
    assert!(bench.board.place(&request).is_ok(), "its own successor");
}

#[test]
fn nothing_is_claimed_where_a_place_will_be_kept_for_data() {
    let mut bench = Bench::new(service(1), 1);
    for number in 1..=3 {
        tenant(&mut bench, number, "a", 0);
    }
    let stopping = Assignment {
        intent: Intent::Stop,
        keep_volumes: true,
        ..of_tenant(4, "a", 0)
    };
    bench.board.set_unit(&stopping, false);
    assert_eq!(bench.step().claim, None);
    let passing = Assignment {
        keep_volumes: false,
        ..stopping
    };
    bench.board.set_unit(&passing, false);
    assert!(bench.step().claim.is_some());
}

#[test]
fn those_who_wait_learn_that_a_claim_was_given_up() {
    let mut spec = service(1);
    spec.priority = 1;
    let mut bench = Bench::new(spec, 1);
    for number in 1..=4 {
        tenant(&mut bench, number, "a", 0);
    }
    let claiming = bench.plan();
    assert!(claiming.claim.is_some());
    assert!(!bench.board.apply(unit(7).workload, &claiming));
    assert!(!bench.board.apply(unit(7).workload, &claiming), "the same");
    bench.set_health("a", NodeHealth::Cordoned);
    let quiet = bench.plan();
    assert_eq!(quiet.claim, None);
    assert!(bench.board.apply(unit(7).workload, &quiet));
    assert!(!bench.board.apply(unit(7).workload, &quiet));
}

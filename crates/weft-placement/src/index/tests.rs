//! Properties of placement.

use proptest::prelude::*;
use weft_types::{
    Bytes, GpuRequest, Interruptible, Millicores, Money, NodeCapacity, PlacementSpec, Resources,
    RuntimeKind, Strategy as Goal,
};

use super::*;
use crate::{ClosedReason, NearestChange, Verdict};

fn node(key: &str, cores: u64, gib: u64) -> Candidate {
    Candidate {
        key: key.into(),
        capacity: NodeCapacity {
            cpu: Millicores(cores * 1000),
            memory: Bytes(gib << 30),
            disk: Bytes(100 << 30),
            runtimes: vec![RuntimeKind::Op, RuntimeKind::Process],
            ..NodeCapacity::default()
        },
        ..Candidate::default()
    }
}

fn request(cpu_millicores: u64, gib: u64) -> Request {
    let resources = Resources {
        cpu: Millicores(cpu_millicores),
        memory: Bytes(gib << 30),
        disk: Bytes(0),
        gpu: None,
    };
    Request {
        resources,
        ..Request::default()
    }
}

fn index_of(nodes: Vec<Candidate>) -> Index {
    let mut index = Index::new();
    for (number, node) in nodes.into_iter().enumerate() {
        index.upsert(CandidateId(number as u32), node);
    }
    index
}

#[test]
fn the_cheapest_suitable_node_wins_and_ties_go_by_key() {
    let priced = |key: &str, dollars: i64| Candidate {
        price_per_hour: Money(dollars * 1_000_000),
        ..node(key, 4, 8)
    };
    let mut index = index_of(vec![priced("c", 1), priced("b", 1), priced("a", 2)]);
    let class = index.class(&request(1000, 1));
    assert_eq!(index.choose(class), Some(CandidateId(1)));
}

#[test]
fn spread_goes_round_and_binpack_stays() {
    for (strategy, distinct) in [(Goal::Spread, 3), (Goal::Binpack, 1)] {
        let mut index = index_of(vec![node("a", 8, 8), node("b", 8, 8), node("c", 8, 8)]);
        let placement = PlacementSpec {
            strategy,
            ..PlacementSpec::default()
        };
        let class = index.class(&Request {
            placement,
            ..request(1000, 1)
        });
        let mut used = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let id = index.choose(class).expect("there is room");
            assert!(index.reserve(id, class, 1));
            used.insert(id);
        }
        assert_eq!(used.len(), distinct, "{strategy:?}");
    }
}

#[test]
fn spread_over_zones_counts_the_zone() {
    let zoned = |key: &str, zone: &str| {
        let mut candidate = node(key, 8, 8);
        candidate.capacity.labels.insert("zone".into(), zone.into());
        candidate
    };
    let mut index = index_of(vec![zoned("a", "x"), zoned("b", "x"), zoned("c", "y")]);
    let placement = PlacementSpec {
        spread: Some(weft_types::Spread::Zone),
        ..PlacementSpec::default()
    };
    let class = index.class(&Request {
        placement,
        ..request(1000, 1)
    });
    let zones: Vec<String> = (0..4)
        .map(|_| {
            let id = index.choose(class).expect("there is room");
            assert!(index.reserve(id, class, 1));
            index
                .candidate(id)
                .map(|candidate| candidate.zone().to_owned())
                .unwrap_or_default()
        })
        .collect();
    assert_eq!(zones, ["x", "y", "x", "y"]);
}

#[test]
fn gpus_of_different_models_are_not_mixed_within_a_unit() {
    let mut candidate = node("a", 64, 64);
    candidate.capacity.gpus = ["H100", "A100", "A100", "T4"].map(str::to_owned).to_vec();
    let mut index = index_of(vec![candidate]);
    let mut two = request(1000, 1);
    two.resources.gpu = Some(GpuRequest {
        count: 2,
        model: Some("h100|a100".into()),
    });
    let class = index.class(&two);
    assert_eq!(index.fits(CandidateId(0), class), 1);
    assert!(index.reserve(CandidateId(0), class, 1));
    assert_eq!(index.choose(class), None);
    index.release(CandidateId(0), class, 1);
    assert_eq!(index.fits(CandidateId(0), class), 1);
}

#[test]
fn a_node_that_comes_back_smaller_has_nothing_free_until_enough_is_released() {
    let mut index = index_of(vec![node("a", 4, 8)]);
    let class = index.class(&request(1000, 1));
    assert!(index.reserve(CandidateId(0), class, 4));
    index.upsert(CandidateId(0), node("a", 2, 8));
    assert_eq!(index.choose(class), None);
    index.release(CandidateId(0), class, 2);
    assert_eq!(index.fits(CandidateId(0), class), 0);
    index.release(CandidateId(0), class, 2);
    assert_eq!(index.fits(CandidateId(0), class), 2, "no more than it has");
}

#[test]
fn the_nearest_change_prefers_waiting_then_opening_then_asking_for_less() {
    let mut index = index_of(vec![node("a", 4, 8), node("b", 4, 8)]);
    let whole = index.class(&request(4000, 8));
    assert!(index.reserve(CandidateId(0), whole, 1) && index.reserve(CandidateId(1), whole, 1));
    let explained = index.explain(whole);
    assert_eq!(
        explained.nearest,
        Some(NearestChange::Wait { node: "a".into() }),
        "{explained}"
    );
    index.release(CandidateId(1), whole, 1);
    index.set_availability(CandidateId(1), Availability::Closed(ClosedReason::Cordoned));
    let large = index.explain_request(&request(4000, 9));
    assert!(
        large
            .nearest
            .is_some_and(|change| change == NearestChange::AddNode),
        "closed and full nodes cannot shrink"
    );
    index.set_availability(CandidateId(1), Availability::Open);
    let large = index.explain_request(&request(4000, 9));
    assert!(
        large
            .nearest
            .as_ref()
            .is_some_and(|change| change.to_string().contains("memory ≤ 8Gi")),
        "{:?}",
        large.nearest
    );
    assert_eq!(
        large.to_string(),
        "none of 2 nodes: 1 with too little CPU, 1 with too little memory"
    );
}

#[test]
fn extreme_amounts_do_not_overflow() {
    let mut huge = node("a", 1, 1);
    huge.capacity.cpu = Millicores(u64::MAX);
    huge.capacity.memory = Bytes(u64::MAX);
    huge.price_per_hour = Money(i64::MAX);
    huge.latency_ms = u32::MAX;
    huge.interruptions_per_million_hours = u32::MAX;
    let mut index = index_of(vec![huge]);
    for strategy in [
        Goal::Cheapest,
        Goal::Balanced,
        Goal::Fastest,
        Goal::Binpack,
        Goal::Spread,
    ] {
        let placement = PlacementSpec {
            strategy,
            ..PlacementSpec::default()
        };
        let class = index.class(&Request {
            placement,
            expected_run_ms: u32::MAX,
            ..request(u64::MAX, 1)
        });
        assert_eq!(index.choose(class), Some(CandidateId(0)));
        assert_eq!(index.explain(class).chosen, Some(CandidateId(0)));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Upsert(u32, u64, u64),
    Remove(u32),
    Close(u32, bool),
    Place(usize, u32),
    Release(usize, u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (0..8u32, 0..9u64, 0..9u64).prop_map(|(id, cores, gib)| Step::Upsert(id, cores, gib)),
        1 => (0..8u32).prop_map(Step::Remove),
        1 => (0..8u32, any::<bool>()).prop_map(|(id, open)| Step::Close(id, open)),
        6 => (0..5usize, 1..3u32).prop_map(|(class, units)| Step::Place(class, units)),
        3 => (0..5usize, 0..8u32, 1..4u32).prop_map(|(class, id, units)| Step::Release(class, id, units)),
    ];
    proptest::collection::vec(step, 1..60)
}

fn requests() -> Vec<Request> {
    let with = |strategy, base: Request| Request {
        placement: PlacementSpec {
            strategy,
            ..PlacementSpec::default()
        },
        ..base
    };
    let mut picky = with(Goal::Cheapest, request(250, 1));
    picky.placement.labels.insert("disk".into(), "ssd".into());
    picky.placement.interruptible = Interruptible::Forbid;
    vec![
        with(Goal::Balanced, request(1000, 1)),
        with(Goal::Spread, request(500, 2)),
        with(Goal::Binpack, request(2000, 1)),
        with(Goal::Fastest, request(100, 0)),
        picky,
    ]
}

fn candidate(id: u32, cores: u64, gib: u64) -> Candidate {
    let mut candidate = node(&format!("n{}", 9 - id), cores, gib);
    candidate.price_per_hour = Money(i64::from(id % 3) * 100_000);
    candidate.latency_ms = (id * 7) % 5;
    candidate.interruptible = id.is_multiple_of(2);
    if id.is_multiple_of(3) {
        candidate
            .capacity
            .labels
            .insert("disk".into(), "ssd".into());
    }
    candidate
}

proptest! {
    #[test]
    fn the_index_never_oversubscribes_and_agrees_with_a_full_scan(steps in steps()) {
        let mut index = Index::new();
        let classes: Vec<ClassId> = requests().iter().map(|request| index.class(request)).collect();
        // Shrinking a node may leave it with more reserved than it has; these are left out.
        let mut shrunk = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Upsert(id, cores, gib) => {
                    if index.candidate(CandidateId(id)).is_some() {
                        shrunk.insert(id);
                    }
                    index.upsert(CandidateId(id), candidate(id, cores, gib));
                }
                Step::Remove(id) => {
                    shrunk.remove(&id);
                    index.remove(CandidateId(id));
                }
                Step::Close(id, open) => {
                    let state = if open { Availability::Open } else { Availability::Closed(ClosedReason::Cordoned) };
                    index.set_availability(CandidateId(id), state);
                }
                Step::Place(class, units) => {
                    let class = classes[class];
                    if let Some(id) = index.choose(class) {
                        let fits = index.fits(id, class);
                        prop_assert!(fits >= 1);
                        prop_assert_eq!(index.reserve(id, class, units), fits >= units);
                    }
                }
                Step::Release(class, id, units) => index.release(CandidateId(id), classes[class], units),
            }
            for (id, slot) in &index.slots {
                let mut used = (0, 0);
                for (class, (units, _)) in &slot.reserved {
                    let need = &index.request(*class).resources;
                    used.0 += need.cpu.0 * u64::from(*units);
                    used.1 += need.memory.0 * u64::from(*units);
                }
                if !shrunk.contains(&id.0) {
                    prop_assert!(used.0 <= slot.candidate.capacity.cpu.0 && used.1 <= slot.candidate.capacity.memory.0);
                    prop_assert_eq!(slot.free.cpu.0, slot.candidate.capacity.cpu.0 - used.0);
                }
                prop_assert!(slot.free.cpu <= slot.candidate.capacity.cpu);
            }
            for class in &classes {
                let chosen = index.choose(*class);
                prop_assert_eq!(chosen, index.explain(*class).chosen);
            }
        }
    }

    #[test]
    fn the_order_in_which_candidates_come_changes_nothing(
        sizes in proptest::collection::vec((1..9u64, 1..9u64), 1..8),
        seed: u64,
    ) {
        let ids: Vec<u32> = (0..sizes.len() as u32).collect();
        let mut shuffled = ids.clone();
        shuffled.sort_by_key(|id| (u64::from(*id) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let build = |order: &[u32]| {
            let mut index = Index::new();
            for id in order {
                let (cores, gib) = sizes[*id as usize];
                index.upsert(CandidateId(*id), candidate(*id, cores, gib));
            }
            index
        };
        let (mut one, mut other) = (build(&ids), build(&shuffled));
        for request in requests() {
            let (a, b) = (one.class(&request), other.class(&request));
            for _ in 0..4 {
                let chosen = one.choose(a);
                prop_assert_eq!(chosen, other.choose(b));
                if let Some(id) = chosen {
                    prop_assert_eq!(one.reserve(id, a, 1), other.reserve(id, b, 1));
                }
            }
        }
    }

    #[test]
    fn the_nearest_change_really_helps(sizes in proptest::collection::vec((0..5u64, 0..5u64), 1..5), cpu in 1..9000u64, gib in 0..9u64) {
        let nodes = sizes.iter().enumerate().map(|(id, (cores, gib))| candidate(id as u32, *cores, *gib)).collect();
        let mut index = index_of(nodes);
        let wanted = request(cpu, gib);
        let explained = index.explain_request(&wanted);
        if let Some(NearestChange::Shrink { resources, .. }) = explained.nearest {
            let class = index.class(&Request { resources, ..wanted });
            prop_assert!(index.choose(class).is_some());
        }
        for considered in &explained.considered {
            let refused = matches!(considered.verdict, Verdict::Refused(_));
            prop_assert!(!(refused && explained.chosen == Some(considered.id)));
        }
    }
}

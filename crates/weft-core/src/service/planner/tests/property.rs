//! Whatever the records and the nodes say.

use proptest::prelude::*;

use super::*;
use crate::service::board::NodeHealth;
use weft_types::{Percent, Scaling, Spread};

/// One unit as it may be found.
#[derive(Clone, Debug)]
struct Found {
    node: usize,
    revision: u64,
    stops: bool,
    keeps: bool,
    status: Option<(u8, bool, bool, bool)>,
    load: Option<u64>,
}

/// A whole situation.
#[derive(Clone, Debug)]
struct Situation {
    replicas: u32,
    exclusive: bool,
    is_vm: bool,
    spread: bool,
    scaled: bool,
    surge: u32,
    unavailable: u32,
    revision: u64,
    rolled_out: u64,
    progress: u8,
    has_good: bool,
    stopped: bool,
    deleting: bool,
    retry_ms: Option<i64>,
    health: Vec<u8>,
    units: Vec<Found>,
}

prop_compose! {
    fn found()(
        node in 0usize..4,
        revision in 1u64..4,
        stops in any::<bool>(),
        keeps in any::<bool>(),
        status in proptest::option::of((0u8..8, any::<bool>(), any::<bool>(), any::<bool>())),
        load in proptest::option::of(0u64..5_000),
    ) -> Found {
        Found { node, revision, stops, keeps, status, load }
    }
}

prop_compose! {
    fn situation()(
        (replicas, surge, unavailable) in (0u32..12, 0u32..3, 0u32..3),
        (exclusive, is_vm, spread, scaled) in any::<(bool, bool, bool, bool)>(),
        (revision, rolled_out, progress) in (1u64..4, 1u64..4, 0u8..5),
        (has_good, stopped, deleting) in (any::<bool>(), prop::bool::weighted(0.1), prop::bool::weighted(0.1)),
        retry_ms in proptest::option::of(-4_000_000i64..4_000_000),
        health in prop::collection::vec(0u8..8, 3),
        units in prop::collection::vec(found(), 0..10),
    ) -> Situation {
        Situation {
            replicas, exclusive, is_vm, spread, scaled, surge, unavailable, revision, rolled_out,
            progress, has_good, stopped, deleting, retry_ms, health, units,
        }
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "unknown"];

fn health(code: u8) -> NodeHealth {
    match code {
        0 => NodeHealth::Cordoned,
        1 => NodeHealth::Draining,
        2 => NodeHealth::Suspect,
        3 => NodeHealth::LeaseLost { since_ms: START_MS },
        4 => NodeHealth::Removed,
        _ => NodeHealth::Usable,
    }
}

impl Situation {
    fn spec(&self) -> Workload {
        let mut spec = service(self.replicas);
        if self.is_vm {
            spec.runtime = RuntimeKind::Vm;
        }
        spec.exclusive = self.exclusive;
        spec.placement.spread = self.spread.then_some(Spread::Node);
        spec.scaling = self.scaled.then(|| Scaling {
            cpu: Some(Percent(50)),
            ..Scaling::default()
        });
        spec.update = Some(rolling(self.surge, self.unavailable));
        spec
    }

    fn bench(&self, is_reversed: bool) -> Bench {
        let mut bench = Bench::new(self.spec(), 0);
        let mut nodes: Vec<(usize, u8)> = self.health.iter().copied().enumerate().collect();
        if is_reversed {
            nodes.reverse();
        }
        for (number, code) in nodes {
            bench
                .board
                .set_node(node(NAMES[number]), cores(4), health(code));
        }
        bench.record.revision = self.revision;
        bench.record.stopped = self.stopped;
        bench.record.deleting = self.deleting;
        bench.rollout = (self.progress < 4).then(|| self.rollout());
        bench.retry = self.retry_ms.map(|ms| Retry {
            v: RECORD_VERSION,
            failures: 2,
            reason: Reason::RuntimeError,
            detail: String::new(),
            node: Some(node("a")),
            next_ms: START_MS.saturating_add_signed(ms),
            failed_ms: START_MS,
        });
        for (index, found) in self.units.iter().enumerate() {
            let number = u32::try_from(index).unwrap_or(0) + 1;
            self.add(&mut bench, number, found);
        }
        bench
    }

    fn rollout(&self) -> Rollout {
        let mut rollout = Rollout::new(self.rolled_out, 0, START_MS);
        rollout.state = match self.progress {
            0 => rollout.state,
            1 => RolloutState::Complete { at_ms: START_MS },
            rolled_back => RolloutState::Failed {
                at_ms: START_MS,
                reason: Reason::Timeout,
                detail: String::new(),
                rolled_back: rolled_back == 2,
            },
        };
        rollout.good = self.has_good.then(|| crate::service::record::GoodRevision {
            revision: 1,
            spec: self.spec(),
        });
        rollout
    }

    fn add(&self, bench: &mut Bench, number: u32, found: &Found) {
        let assignment = Assignment {
            v: RECORD_VERSION,
            unit: unit(number),
            node: node(NAMES[found.node]),
            revision: found.revision,
            restarts: 0,
            epoch: u64::from(number),
            spec: self.spec(),
            intent: if found.stops {
                Intent::Stop
            } else {
                Intent::Run
            },
            why: String::new(),
            created_ms: START_MS,
            stopping_ms: None,
            keep_volumes: found.keeps,
            explanation: None,
        };
        bench.assignments.insert(number, assignment.clone());
        bench.board.set_unit(&assignment, false);
        if let Some((state, ready, gone, given_up)) = found.status {
            bench.report(number, |status| {
                status.state = WorkloadState::from_code(state).unwrap_or(WorkloadState::Unknown);
                status.ready = ready;
                status.gone = gone;
                status.given_up = given_up;
            });
        }
        if let Some(cpu_millicores) = found.load {
            let load = UnitLoad {
                cpu_millicores,
                ..UnitLoad::default()
            };
            bench.loads.insert(number, load);
        }
    }
}

/// Cores that units reserve on a node, those that are gone left out.
fn reserved(bench: &Bench, name: &str) -> u64 {
    let here = bench
        .assignments
        .values()
        .filter(|a| a.node.as_str() == name);
    let held = here.filter(|a| {
        let status = bench.statuses.get(&a.unit.number);
        !status.is_some_and(|status| status.gone)
    });
    held.count() as u64
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_plan_takes_more_than_a_node_has(situation in situation()) {
        let mut bench = situation.bench(false);
        let before: Vec<u64> = NAMES.iter().map(|name| reserved(&bench, name)).collect();
        bench.step();
        for (name, before) in NAMES.iter().zip(before) {
            let after = reserved(&bench, name);
            prop_assert!(after <= 4 || after <= before, "{name}: {before} and then {after}");
        }
    }

    #[test]
    fn planning_comes_to_rest_and_stays_there(situation in situation()) {
        let mut bench = situation.bench(false);
        bench.rest();
        if !bench.is_deleted {
            let plan = bench.plan();
            prop_assert_eq!(plan.actions, vec![]);
        }
    }

    #[test]
    fn a_plan_applied_twice_changes_nothing_more(situation in situation()) {
        let mut bench = situation.bench(false);
        let plan = bench.step();
        let after = (bench.assignments.clone(), bench.rollout.clone(), bench.retry.clone());
        bench.apply(&plan);
        prop_assert_eq!(after, (bench.assignments, bench.rollout, bench.retry));
    }

    #[test]
    fn the_order_in_which_nodes_were_added_does_not_matter(situation in situation()) {
        prop_assert_eq!(situation.bench(false).plan(), situation.bench(true).plan());
    }

    #[test]
    fn an_exclusive_unit_never_comes_beside_another(situation in situation()) {
        let situation = Situation { exclusive: true, ..situation };
        let mut bench = situation.bench(false);
        let before: Vec<u32> = bench.assignments.keys().copied().collect();
        let plan = bench.step();
        let is_new = plan.actions.iter().any(|action| matches!(action, Action::Assign(_)));
        let others = bench.assignments.values().filter(|a| before.contains(&a.unit.number));
        let alive = others.filter(|a| {
            let status = bench.statuses.get(&a.unit.number);
            !status.is_some_and(|status| status.gone)
        });
        prop_assert!(!is_new || alive.count() == 0);
    }

    #[test]
    fn every_write_fits_in_one_transaction(situation in situation()) {
        let plan = situation.bench(false).plan();
        prop_assert!(plan.actions.len() < 1_000);
    }
}

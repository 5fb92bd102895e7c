//! Which backend serves, as they come and go.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use weft_types::RuntimeKind::Container;

use super::*;
use crate::testing::Engine;

/// Two engines of one kind, the first of which is preferred.
struct Bench {
    docker: Arc<Engine>,
    oci: Arc<Engine>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self {
            docker: Engine::new(),
            oci: Engine::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn runtimes(&self) -> UnitRuntimes {
        let of = |name, engine: &Arc<Engine>| Candidate {
            name,
            is_configured: true,
            runtime: Arc::clone(engine) as Arc<dyn UnitRuntime>,
        };
        let candidates = vec![of("docker", &self.docker), of("oci", &self.oci)];
        UnitRuntimes::new(candidates, remembered(self.dir.path()))
    }
}

fn remembered(dir: &Path) -> Remembered {
    Remembered::load(dir).unwrap()
}

fn serves(runtimes: &UnitRuntimes) -> Option<&'static str> {
    let kinds = runtimes.shared.kinds.lock();
    kinds[&Container].bound.as_ref().map(|it| it.name)
}

/// Whether containers are offered, and what is told as missing.
fn told(runtimes: &UnitRuntimes) -> (bool, Vec<String>) {
    let (mut capacity, mut missing) = (NodeCapacity::default(), Vec::new());
    runtimes.describe(&mut capacity, &mut missing);
    (capacity.runtimes.contains(&Container), missing)
}

#[tokio::test]
async fn units_wait_until_it_is_known_what_serves_them() {
    let bench = Bench::new();
    let runtimes = bench.runtimes();
    let (is_offered, missing) = told(&runtimes);
    assert!(
        !is_offered && missing[0].contains("looked for"),
        "{missing:?}"
    );
    let waiting = tokio::time::timeout(Duration::from_millis(20), runtimes.hold(Container));
    assert!(waiting.await.is_err());
    let (held, outcome) = tokio::join!(runtimes.hold(Container), runtimes.round(Container));
    assert!(outcome.unwrap().is_well);
    assert_eq!(held.unwrap().unwrap().name(), "docker");
    assert_eq!(told(&runtimes), (true, Vec::new()));
    assert_eq!(remembered(bench.dir.path()).get(Container), Some("docker"));
    assert!(runtimes.hold(RuntimeKind::Vm).await.unwrap().is_none());
}

#[tokio::test]
async fn without_units_the_first_that_works_serves_and_a_better_one_that_comes() {
    let bench = Bench::new();
    bench.docker.lack(true);
    let runtimes = bench.runtimes();
    runtimes.round(Container).await;
    assert_eq!(serves(&runtimes), Some("oci"));
    assert_eq!(told(&runtimes), (true, Vec::new()));
    bench.docker.lack(false);
    runtimes.round(Container).await;
    assert_eq!(serves(&runtimes), Some("docker"));
    bench.docker.lack(true);
    bench.oci.lack(true);
    assert!(!runtimes.round(Container).await.unwrap().is_well);
    assert_eq!(serves(&runtimes), Some("docker"), "away for a moment");
    runtimes.round(Container).await;
    let (is_offered, missing) = told(&runtimes);
    assert!(
        !is_offered && missing[0].contains("start it"),
        "{missing:?}"
    );
    assert!(runtimes.hold(Container).await.unwrap().is_none());
}

#[tokio::test]
async fn what_has_units_is_waited_for_and_not_replaced() {
    let bench = Bench::new();
    let runtimes = bench.runtimes();
    runtimes.round(Container).await;
    let held = runtimes.hold(Container).await.unwrap().unwrap();
    bench.docker.lack(true);
    runtimes.round(Container).await;
    assert_eq!(told(&runtimes), (true, Vec::new()));
    assert!(!runtimes.round(Container).await.unwrap().is_well);
    let (is_offered, missing) = told(&runtimes);
    assert!(
        !is_offered && missing[0].contains("it is down"),
        "{missing:?}"
    );
    assert_eq!(serves(&runtimes), Some("docker"));
    bench.docker.lack(false);
    let outcome = runtimes.round(Container).await.unwrap();
    assert!(outcome.is_well && outcome.came_back);
    assert_eq!(told(&runtimes), (true, Vec::new()));
    drop(held);
    bench.docker.lack(true);
    for _ in 0..pace::MAX_MISSES {
        runtimes.round(Container).await;
    }
    assert_eq!(
        serves(&runtimes),
        Some("oci"),
        "there is nothing to wait for"
    );
}

#[tokio::test]
async fn the_next_agent_does_not_take_another_engine_for_what_runs_in_one_that_is_down() {
    let bench = Bench::new();
    let before = bench.runtimes();
    before.round(Container).await;
    drop(before.hold(Container).await.unwrap());
    bench.docker.lack(true);
    let runtimes = bench.runtimes();
    runtimes.recall(&BTreeSet::from([Container]));
    let held = runtimes.hold_recalled(Container).unwrap();
    assert_eq!(held.name(), "docker", "known before anything is tried");
    runtimes.round(Container).await;
    assert_eq!(serves(&runtimes), Some("docker"));
    assert!(!told(&runtimes).0);
    // Without units of before it does not matter what had some.
    let runtimes = bench.runtimes();
    runtimes.recall(&BTreeSet::new());
    runtimes.round(Container).await;
    assert_eq!(serves(&runtimes), Some("oci"));
}

#[tokio::test]
async fn what_the_configuration_does_not_name_serves_what_it_has_and_gets_no_more() {
    let bench = Bench::new();
    let before = bench.runtimes();
    before.round(Container).await;
    drop(before.hold(Container).await.unwrap());
    let docker = Candidate {
        name: "docker",
        is_configured: false,
        runtime: Arc::clone(&bench.docker) as Arc<dyn UnitRuntime>,
    };
    let runtimes = UnitRuntimes::new(vec![docker], remembered(bench.dir.path()));
    runtimes.recall(&BTreeSet::from([Container]));
    let held = runtimes.hold_recalled(Container).unwrap();
    runtimes.round(Container).await;
    assert_eq!(
        (serves(&runtimes), told(&runtimes).0),
        (Some("docker"), false)
    );
    drop(held);
    runtimes.round(Container).await;
    assert_eq!(serves(&runtimes), None);
}

//! A server that is dropped at any moment, and another over the same directory.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use parking_lot::Mutex;
use weft_types::NodeId;

use super::agent::{Machine, images, join};
use super::{Agent, call, show, start, until, web};
use crate::state::Server as State;

/// How often the server is dropped.
const DROPS: u64 = 24;

/// A repeatable sequence of numbers (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % bound
    }
}

struct Fleet {
    machines: Vec<(NodeId, Arc<Mutex<Machine>>)>,
}

impl Fleet {
    async fn connect(&self, state: &Arc<State>) -> Vec<Agent> {
        let mut agents = Vec::new();
        for (node, machine) in &self.machines {
            agents.push(Agent::connect(state, node.clone(), Arc::clone(machine)).await);
        }
        agents
    }

    fn images(&self) -> Vec<String> {
        let machines = self.machines.iter();
        machines
            .flat_map(|(_, machine)| images(&machine.lock()))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_moment_the_server_is_dropped_at_the_desired_state_is_reached() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let mut machines = Vec::new();
    for name in ["one", "two"] {
        machines.push((join(server.state(), name).await, Arc::default()));
    }
    let fleet = Fleet { machines };
    server.shutdown().await;

    let mut random = Random(7);
    for drop_number in 0..DROPS {
        let server = start(dir.path()).await;
        let agents = fleet.connect(server.state()).await;
        let spec = web(&format!("web:{drop_number}"), 1 + drop_number as u32 % 3);
        match drop_number % 6 {
            5 => call(server.state(), Method::DELETE, "/v1/workloads/web", "").await,
            // While it is being deleted it is refused; another round applies it.
            _ => call(server.state(), Method::POST, "/v1/workloads", &spec).await,
        };
        tokio::time::sleep(Duration::from_millis(random.below(120))).await;
        server.kill().await;
        drop(agents);
    }

    let server = start(dir.path()).await;
    let _agents = fleet.connect(server.state()).await;
    let spec = web("web:last", 3);
    let deadline = tokio::time::Instant::now() + super::SOON;
    loop {
        let applied = call(server.state(), Method::POST, "/v1/workloads", &spec).await;
        if applied.status.is_success() {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", applied.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let healthy = show(server.state(), "web?wait=120s&for=healthy").await;
    assert_eq!(
        healthy.body["rollout"]["state"], "complete",
        "{}",
        healthy.text
    );
    until("three of the last, and nothing else, run", || {
        (fleet.images() == ["web:last"; 3]).then_some(())
    })
    .await;
    for (node, machine) in &fleet.machines {
        assert!(
            machine.lock().doubles.is_empty(),
            "a unit came again on {node}"
        );
    }
    call(
        server.state(),
        Method::DELETE,
        "/v1/workloads/web?wait=120s",
        "",
    )
    .await;
    assert_eq!(fleet.images(), Vec::<String>::new());
    for prefix in [
        "workloads/",
        "rollouts/",
        "assignments/",
        "statuses/",
        "retries/",
    ] {
        let (left, _) = server
            .state()
            .records
            .list_raw(prefix)
            .await
            .expect("a list");
        assert!(left.is_empty(), "{prefix}: {left:?}");
    }
    server.shutdown().await;
}

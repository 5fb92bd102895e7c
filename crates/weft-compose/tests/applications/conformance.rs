//! The suite of all backends, over a private engine.

use std::sync::Arc;
use std::time::Duration;

use crate::common;
use crate::common::{PATIENCE, World, backend};
use async_trait::async_trait;
use serde_json::json;
use weft_types::UnitId;
use weft_unit::conformance::{Abilities, Program, SERVE_PORT, Subject};
use weft_unit::{Unit, UnitRuntime};

struct Docker(World);

#[async_trait]
impl Subject for Docker {
    fn runtime(&self) -> Arc<dyn UnitRuntime> {
        Arc::clone(&self.0.runtime) as _
    }

    async fn restarted(&self) -> Arc<dyn UnitRuntime> {
        Arc::new(backend(&self.0.daemon, "n1", |_| {}))
    }

    async fn stranger(&self) -> Option<Arc<dyn UnitRuntime>> {
        Some(Arc::new(backend(&self.0.daemon, "n2", |_| {})))
    }

    fn unit(&self, id: UnitId, program: Program) -> Unit {
        let image = match program {
            Program::MissingImage => self.0.busybox.replace("busybox:1", "missing:1"),
            Program::WrongDigest => {
                let digest = format!("busybox@sha256:{}", "0".repeat(64));
                self.0.busybox.replace("busybox:1", &digest)
            }
            _ => self.0.busybox.clone(),
        };
        let mut service = json!({
            "image": image,
            "entrypoint": ["/bin/sh", "-c", program.script().replace('$', "$$")],
            "environment": {"CONFORMANCE_SECRET": "${CONFORMANCE_SECRET:-}"},
            "ports": [format!("127.0.0.1::{SERVE_PORT}")],
        });
        if program == Program::ForkBomb {
            service["pids_limit"] = json!(64);
        }
        let file = json!({"services": {"main": service}}).to_string();
        let mut unit = common::unit(id, 3, common::inline(file));
        unit.resources.memory = weft_types::Bytes(64 << 20);
        unit
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn instances(&self, id: UnitId) -> Option<usize> {
        let label = format!("label=weft.unit={id}");
        let ids = self
            .0
            .daemon
            .docker(&["ps", "-q", "--filter", &label])
            .unwrap();
        Some(ids.split_whitespace().count())
    }

    async fn leftovers(&self) -> Vec<String> {
        self.0.leftovers()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compose_passes_the_suite() {
    if let Some(lacks) = common::missing() {
        println!("skipped: needs {lacks}");
        return;
    }
    weft_unit::conformance::run_all(&Docker(World::new())).await;
}

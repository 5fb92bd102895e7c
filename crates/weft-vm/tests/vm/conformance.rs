//! The suite of the port, against real QEMU.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use weft_types::{UnitId, VmImage};
use weft_unit::conformance::{Abilities, Program, Subject, run_all};
use weft_unit::{Unit, UnitRuntime};
use weft_vm::Vms;

use crate::support;
use crate::support::{Lab, PATIENCE, blob, spec, unit};

struct Machines {
    vms: Arc<Vms>,
    images: support::http::Server,
    // Dropped last: it ends what the runtime has left.
    lab: Lab,
}

#[async_trait]
impl Subject for Machines {
    fn runtime(&self) -> Arc<dyn UnitRuntime> {
        Arc::clone(&self.vms) as Arc<dyn UnitRuntime>
    }

    async fn restarted(&self) -> Arc<dyn UnitRuntime> {
        Arc::new(self.lab.open().await)
    }

    async fn stranger(&self) -> Option<Arc<dyn UnitRuntime>> {
        let mut options = self.lab.options();
        options.node = "stranger".parse().expect("a node's name");
        let vms = Vms::open(options).await.expect("the runtime opens");
        Some(Arc::new(vms))
    }

    fn unit(&self, id: UnitId, program: Program) -> Unit {
        let mut spec = spec(&program.script(), "agent");
        let by_url = |url: String| {
            Some(VmImage {
                url: Some(url),
                sha256: Some("0".repeat(64)),
                ..blob(support::KERNEL).expect("an image")
            })
        };
        match program {
            Program::MissingImage => spec.kernel = by_url(self.images.url("missing")),
            Program::WrongDigest => spec.kernel = by_url(self.images.url("kernel")),
            _ => {}
        }
        for image in [&mut spec.kernel, &mut spec.initrd].into_iter().flatten() {
            if image.url.is_some() {
                image.blob = None;
            }
        }
        unit(id, spec)
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            // The guest's processes are its own: their codes, limits and variables too.
            tty: false,
            exit_codes: false,
            stderr: false,
            memory_limit: false,
            process_limit: false,
            secret_env: false,
            ..Abilities::default()
        }
    }

    fn not_applicable(&self, scenario: &str) -> Option<String> {
        (scenario == "dropped_session_ends_the_command")
            .then(|| "the guest's agent tells output only at the end".to_owned())
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn instances(&self, id: UnitId) -> Option<usize> {
        Some(self.lab.processes(&format!("guest={id} ")).len())
    }

    async fn leftovers(&self) -> Vec<String> {
        self.lab.leftovers()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_pass_the_suite() {
    let Some(lab) = Lab::new("suite") else {
        return;
    };
    let kernel = std::fs::read(&lab.guest.kernel).expect("the kernel");
    let images = support::http::Server::start(vec![("kernel", kernel)]).await;
    let vms = Arc::new(lab.open().await);
    run_all(&Machines { vms, images, lab }).await;
}

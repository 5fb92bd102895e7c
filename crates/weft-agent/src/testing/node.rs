//! A node without a spawner: what would be processes are tasks that end when a test says.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use weft_runtime::{Control, OpRuntime, Outcome, Probe, Runtime, Runtimes, TaskRun};
use weft_types::{Bytes, Failure, Millicores, NodeCapacity, Reason, RuntimeKind};
use weft_unit::UnitRuntime;

use super::{DEADLINE, Engine};
use crate::artifacts::Artifacts;
use crate::capacity::{Offer, Offers};
use crate::executor::Executor;
use crate::guard::Guards;
use crate::identity::Member;
use crate::lease::Lease;
use crate::node::keep_connected;
use crate::runtimes::{Candidate, Remembered, UnitRuntimes};
use crate::session::Sessions;
use crate::units::{Parts, Ports, Units};
use crate::{Config, Error};

/// CPU that the node offers.
pub(crate) const CPU_MILLICORES: u64 = 2_000;

/// Takes the place of the process runtime: tasks end as permits are added.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<Semaphore>);

#[tonic::async_trait]
impl Runtime for Gate {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn probe(&self) -> Probe {
        Probe::default()
    }

    async fn run(&self, task: TaskRun, control: Control) -> Outcome {
        assert_ne!(task.job.0, 666, "a job that breaks its runtime");
        tokio::select! {
            permit = self.0.acquire() => {
                permit.unwrap().forget();
                Outcome::default()
            }
            () = control.cancelled() => {
                Outcome::failed(Failure::new(Reason::Cancelled, "it was cancelled"))
            }
        }
    }
}

/// A node that keeps itself connected.
pub(crate) struct Node {
    pub(crate) executor: Executor,
    pub(crate) units: Units,
    lease: Lease,
    pub(crate) gate: Gate,
    pub(crate) first: oneshot::Receiver<Result<(), Error>>,
    removed: watch::Receiver<bool>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Node {
    /// Joins, or comes back, with what is in the directory.
    pub(crate) async fn start(dir: &Path, token: Option<String>) -> Self {
        Self::start_with(dir, token, None).await
    }

    /// The same, with a runtime for units.
    pub(crate) async fn start_with(
        dir: &Path,
        token: Option<String>,
        engine: Option<Arc<Engine>>,
    ) -> Self {
        let config = Config {
            token,
            node_id: Some("n1".parse().unwrap()),
            ..Config::new(dir.to_path_buf())
        };
        let member = Member::load_or_join(&config).await.unwrap();
        let gate = Gate(Arc::new(Semaphore::new(0)));
        let runtimes = Runtimes::new()
            .with(Arc::new(OpRuntime))
            .with(Arc::new(gate.clone()));
        let capacity = NodeCapacity {
            cpu: Millicores(CPU_MILLICORES),
            memory: Bytes(1 << 30),
            disk: Bytes(1 << 30),
            ..NodeCapacity::default()
        };
        let artifacts = Artifacts::open(&dir.join("blobs"), Default::default())
            .await
            .unwrap();
        let executor = Executor::start(
            "n1".to_owned(),
            capacity.clone(),
            runtimes,
            artifacts.clone(),
            2,
        );
        let executor = executor.unwrap();
        let candidates = engine.map(|engine| Candidate {
            name: "memory",
            is_configured: true,
            runtime: engine as Arc<dyn UnitRuntime>,
        });
        let remembered = Remembered::load(dir).unwrap();
        let unit_runtimes = UnitRuntimes::new(candidates.into_iter().collect(), remembered);
        let lease = Lease::open(dir).unwrap();
        let parts = Parts {
            node: "n1".parse().unwrap(),
            runtimes: unit_runtimes.clone(),
            executor: executor.clone(),
            lease: lease.clone(),
            guards: Guards::default(),
            ports: Ports::default(),
        };
        let units = Units::start(dir, parts).unwrap();
        let stop = CancellationToken::new();
        let sessions = Sessions {
            member,
            offers: Offers {
                base: Offer {
                    capacity,
                    missing: Vec::new(),
                },
                units: unit_runtimes,
            },
            executor: executor.clone(),
            units: units.clone(),
            lease: lease.clone(),
            artifacts,
            data_dir: dir.to_path_buf(),
            started: Instant::now(),
            last_epoch: 0,
            stop: stop.clone(),
        };
        let (first_tell, first) = oneshot::channel();
        let (removed_tell, removed) = watch::channel(false);
        let task = tokio::spawn(keep_connected(sessions, first_tell, removed_tell));
        Self {
            executor,
            units,
            lease,
            gate,
            first,
            removed,
            stop,
            task,
        }
    }

    /// Waits until the node knows that it was removed.
    pub(crate) async fn removed(&mut self) {
        let removed = self.removed.wait_for(|removed| *removed);
        let removed = tokio::time::timeout(DEADLINE, removed).await;
        removed.expect("it goes on").unwrap();
    }

    /// Drops everything at once, as `kill -9` does.
    pub(crate) async fn crash(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Ends it, so that its directory can be used again.
    pub(crate) async fn shutdown(mut self) {
        self.stop.cancel();
        self.executor.shutdown();
        let task = &mut self.task;
        tokio::time::timeout(DEADLINE, task).await.unwrap().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.units.leave();
        self.lease.close();
        self.stop.cancel();
        self.executor.shutdown();
    }
}

//! The agent as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_fetch::Allowed;
use weft_runtime::{OpRuntime, Runtimes, WasmOptions, WasmRuntime, WorkRoot};
use weft_types::NodeId;

use crate::artifacts::Artifacts;
use crate::backoff::Backoff;
use crate::capacity::{Offers, offer};
use crate::executor::Executor;
use crate::guard::{Guards, List};
use crate::identity::Member;
use crate::lease::Lease;
use crate::runtimes::{Remembered, UnitRuntimes, candidates};
use crate::session::{Ended, Sessions};
use crate::spawner::{Processes, Spawners};
use crate::units::{Parts, Ports, Units};
use crate::{Config, Error, OnShutdown};

/// The wait before the first new session, and the longest one; each try doubles it.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// After a session that lasted this long the next is tried at once. One that ends sooner, because
/// two agents with one identity replace each other, say, counts as a failure.
const STABLE_SESSION: Duration = Duration::from_secs(1);
/// How long running tasks may take to end when the agent stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long exclusive units may take to end when the agent stops; after that their guard counts.
const EXCLUSIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long units may take to be removed when they are to go, beyond the grace that they have.
const UNITS_TIMEOUT: Duration = Duration::from_secs(60);

/// A node of a cluster, as long as this lives.
pub struct Agent {
    id: NodeId,
    executor: Executor,
    units: Units,
    lease: Lease,
    on_shutdown: OnShutdown,
    spawners: Spawners,
    stop: CancellationToken,
    removed: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Joins if needed and opens a session. An agent that has joined before starts also when no
    /// server can be reached, and keeps trying.
    ///
    /// # Errors
    /// When it is not let in, or the machine lacks what it needs.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let member = Member::load_or_join(&config).await?;
        let id = member.id.clone();
        let is_new = member.is_new;
        let work = WorkRoot::open(config.data_dir.join("work"))?;
        let spawners = Spawners::start(&config, &id, work.clone()).await?;
        let runtimes = runtimes(&config, spawners.runtime(), work);
        let fetch_from = Allowed::also(config.fetch_from.iter().copied());
        let artifacts = Artifacts::open(&config.data_dir.join("blobs"), fetch_from).await?;
        let remembered =
            Remembered::load(&config.data_dir).map_err(Error::file(&config.data_dir))?;
        let candidates = candidates(&config, &id, &artifacts, &remembered).await;
        let unit_runtimes = UnitRuntimes::new(candidates, remembered);
        let offer = offer(&config, &runtimes).await;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let op_threads = threads.div_ceil(config.share.max(1) as usize);
        let executor = Executor::start(
            id.to_string(),
            offer.capacity.clone(),
            runtimes,
            artifacts.clone(),
            op_threads,
        )
        .map_err(|error| Error::Machine(format!("no thread for byte programs: {error}")))?;
        let lease = Lease::open(&config.data_dir)
            .map_err(|error| Error::Machine(format!("no thread for the lease: {error}")))?;
        let parts = Parts {
            node: id.clone(),
            runtimes: unit_runtimes.clone(),
            executor: executor.clone(),
            lease: lease.clone(),
            guards: Guards::open(
                config.data_dir.clone(),
                List::new(id.clone(), config.storage_pools.clone()),
            )
            .map_err(Error::file(&config.data_dir))?,
            ports: Ports::start(&id, &member.credentials, config.peer_listen).await?,
        };
        let units = Units::start(&config.data_dir, parts)?;
        let stop = CancellationToken::new();
        let sessions = Sessions {
            member,
            offers: Offers {
                base: offer,
                units: unit_runtimes,
            },
            executor: executor.clone(),
            units: units.clone(),
            lease: lease.clone(),
            artifacts,
            data_dir: config.data_dir.clone(),
            started: Instant::now(),
            last_epoch: 0,
            stop: stop.clone(),
        };
        let (first, opened) = oneshot::channel();
        let (tell_removed, removed) = watch::channel(false);
        let task = tokio::spawn(keep_connected(sessions, first, tell_removed));
        let agent = Self {
            id,
            executor,
            units,
            lease,
            on_shutdown: config.on_shutdown,
            spawners,
            stop,
            removed,
            task,
        };
        match opened.await {
            Ok(Ok(())) => Ok(agent),
            Ok(Err(error)) if is_new || matches!(error, Error::Removed) => {
                agent.shutdown().await;
                Err(error)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the agent keeps trying");
                Ok(agent)
            }
            Err(_) => Err(Error::Machine("the session ended early".to_owned())),
        }
    }

    /// Its id.
    pub fn id(&self) -> &NodeId {
        &self.id
    }

    /// Resolves when the agent must end: it was removed from the cluster.
    pub async fn ended(&self) -> Error {
        let mut removed = self.removed.clone();
        // An error means that the sessions ended, which they do for no other reason.
        let _ = removed.wait_for(|removed| *removed).await;
        Error::Removed
    }

    /// Stops what runs and closes the session. Units run on, unless the configuration says that
    /// they are to go; exclusive ones end in any case, as nobody renews the lease any more.
    pub async fn shutdown(self) {
        let is_removed = *self.removed.borrow();
        if self.on_shutdown == OnShutdown::Remove && !is_removed {
            self.units
                .remove_all("the cluster is shut down", UNITS_TIMEOUT)
                .await;
        } else {
            self.units.end_exclusive(EXCLUSIVE_TIMEOUT).await;
        }
        self.units.leave();
        self.lease.close();
        self.stop.cancel();
        self.executor.shutdown();
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.task).await;
        self.spawners.shutdown().await;
    }
}

/// Opens sessions for ever, with growing waits between failures.
pub(crate) async fn keep_connected(
    mut sessions: Sessions,
    first: oneshot::Sender<Result<(), Error>>,
    removed: watch::Sender<bool>,
) {
    let mut first = Some(first);
    let mut backoff = Backoff::new(FIRST_BACKOFF, MAX_BACKOFF);
    loop {
        let mut welcomed_at = None;
        let ended = sessions
            .run(|| {
                welcomed_at = Some(Instant::now());
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(()));
                }
            })
            .await;
        let error = match ended {
            Ended::Shutdown => return,
            Ended::Removed => {
                sessions.executor.shutdown();
                let why = "the node was removed from the cluster";
                sessions.units.remove_all(why, UNITS_TIMEOUT).await;
                removed.send_replace(true);
                if let Some(first) = first.take() {
                    let _ = first.send(Err(Error::Removed));
                }
                return;
            }
            Ended::Lost(error) => error,
        };
        tracing::debug!(%error, "no session");
        if let Some(first) = first.take() {
            let _ = first.send(Err(error));
        }
        if welcomed_at.is_some_and(|at| at.elapsed() >= STABLE_SESSION) {
            backoff.reset();
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = sessions.stop.cancelled() => return,
        }
    }
}

fn runtimes(config: &Config, processes: Processes, work: WorkRoot) -> Runtimes {
    let mut runtimes = Runtimes::new()
        .with(Arc::new(OpRuntime))
        .with(Arc::new(processes));
    match WasmRuntime::new(work, WasmOptions::new(config.data_dir.join("wasm"))) {
        Ok(wasm) => runtimes = runtimes.with(Arc::new(wasm)),
        Err(error) => tracing::warn!(%error, "this node does not run WebAssembly"),
    }
    runtimes
}

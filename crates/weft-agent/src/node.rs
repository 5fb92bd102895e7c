//! The agent as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_runtime::{OpRuntime, ProcessRuntime, Runtimes, WasmOptions, WasmRuntime, WorkRoot};
use weft_sandbox::{Client as Spawner, Options};
use weft_types::NodeId;

use crate::artifacts::Artifacts;
use crate::capacity::offer;
use crate::executor::Executor;
use crate::identity::Member;
use crate::session::{Ended, Sessions};
use crate::{Config, Error};

/// The wait before the first new session, and the longest one; each try doubles it.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// How long running tasks may take to end when the agent stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// A node of a cluster, as long as this lives.
pub struct Agent {
    id: NodeId,
    executor: Executor,
    spawner: Spawner,
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
        let spawner = spawner(&config, &id).await?;
        let runtimes = runtimes(&config, &spawner)?;
        let offer = offer(&config, &runtimes).await;
        let artifacts = Artifacts::open(&config.data_dir.join("blobs")).await?;
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
        let stop = CancellationToken::new();
        let sessions = Sessions {
            member,
            offer,
            executor: executor.clone(),
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
            spawner,
            stop,
            removed,
            task,
        };
        match opened.await {
            Ok(Ok(())) => Ok(agent),
            Ok(Err(error @ Error::Unreachable { .. })) => {
                tracing::warn!(%error, "the agent keeps trying");
                Ok(agent)
            }
            Ok(Err(error)) => {
                agent.shutdown().await;
                Err(error)
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

    /// Stops what runs and closes the session.
    pub async fn shutdown(self) {
        self.stop.cancel();
        self.executor.shutdown();
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, self.task).await;
        if let Err(error) = self.spawner.shutdown().await {
            tracing::warn!(%error, "the spawner did not end in time");
        }
    }
}

/// Opens sessions for ever, with growing waits between failures.
async fn keep_connected(
    mut sessions: Sessions,
    first: oneshot::Sender<Result<(), Error>>,
    removed: watch::Sender<bool>,
) {
    let mut first = Some(first);
    let mut backoff = FIRST_BACKOFF;
    loop {
        let mut was_welcomed = false;
        let ended = sessions
            .run(|| {
                was_welcomed = true;
                if let Some(first) = first.take() {
                    let _ = first.send(Ok(()));
                }
            })
            .await;
        let error = match ended {
            Ended::Shutdown => return,
            Ended::Removed => {
                sessions.executor.shutdown();
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
        backoff = if was_welcomed {
            FIRST_BACKOFF
        } else {
            (backoff * 2).min(MAX_BACKOFF)
        };
        tokio::select! {
            () = tokio::time::sleep(jittered(backoff)) => {}
            () = sessions.stop.cancelled() => return,
        }
    }
}

/// Full jitter: anything between nothing and the whole, so that nodes do not come back all at once.
fn jittered(backoff: Duration) -> Duration {
    let mut random = [0u8; 4];
    // Without randomness the whole wait is as good as any.
    match getrandom::fill(&mut random) {
        Ok(()) => backoff.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)),
        Err(_) => backoff,
    }
}

async fn spawner(config: &Config, id: &NodeId) -> Result<Spawner, Error> {
    let data_dir =
        std::fs::canonicalize(&config.data_dir).map_err(Error::file(&config.data_dir))?;
    // Two nodes of the same name on one machine must not sweep each other's work.
    let place = data_dir
        .display()
        .to_string()
        .bytes()
        .fold(0u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
    let name: String = id
        .as_str()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(40)
        .collect();
    let tag = format!("{name}-{place:08x}");
    if let Err(error) = weft_sandbox::sweep(&tag) {
        tracing::warn!(%error, "what an earlier life left behind could not be removed");
    }
    let options = Options {
        hidden: vec![data_dir],
        cleanup_dirs: config.cleanup_dir.clone().into_iter().collect(),
        ..Options::new(tag)
    };
    let exe = std::env::current_exe().map_err(Error::file("/proc/self/exe"))?;
    Ok(Spawner::start(exe, options).await?)
}

fn runtimes(config: &Config, spawner: &Spawner) -> Result<Runtimes, Error> {
    let work = WorkRoot::open(config.data_dir.join("work"))?;
    let mut runtimes = Runtimes::new()
        .with(Arc::new(OpRuntime))
        .with(Arc::new(ProcessRuntime::new(spawner.clone(), work.clone())));
    match WasmRuntime::new(work, WasmOptions::new(config.data_dir.join("wasm"))) {
        Ok(wasm) => runtimes = runtimes.with(Arc::new(wasm)),
        Err(error) => tracing::warn!(%error, "this node does not run WebAssembly"),
    }
    Ok(runtimes)
}

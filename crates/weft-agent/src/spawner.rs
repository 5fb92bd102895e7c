//! The spawner, and another one when it dies.
//!
//! What ran under a dead spawner is dead as well and is reported as failed by the process runtime;
//! tasks that come while there is none wait for the next, for a while.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_runtime::{Control, Outcome, Probe, ProcessRuntime, Runtime, TaskRun, WorkRoot};
use weft_sandbox::{Client, Options};
use weft_types::{Failure, NodeId, Reason, RuntimeKind};

use crate::backoff::Backoff;
use crate::{Config, Error};

/// The waits before another spawner is started.
const FIRST_RESTART: Duration = Duration::from_millis(100);
const MAX_RESTART: Duration = Duration::from_secs(10);
/// A spawner that lived this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(60);
/// How long a task waits for a spawner.
const MAX_WAIT: Duration = Duration::from_secs(15);

/// Keeps a spawner running.
pub(crate) struct Spawners {
    alive: watch::Receiver<Option<Alive>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Alive {
    client: Client,
    runtime: Arc<ProcessRuntime>,
}

struct Start {
    exe: PathBuf,
    options: Options,
    work: WorkRoot,
}

impl Spawners {
    /// Starts the first one.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) async fn start(config: &Config, id: &NodeId, work: WorkRoot) -> Result<Self, Error> {
        let start = Start {
            exe: std::env::current_exe().map_err(Error::file("/proc/self/exe"))?,
            options: options(config, id)?,
            work,
        };
        let first = start.start().await?;
        let (tell, alive) = watch::channel(Some(first));
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_alive(start, tell, stop.clone()));
        Ok(Self { alive, stop, task })
    }

    /// The process runtime over whichever spawner is alive.
    pub(crate) fn runtime(&self) -> Processes {
        Processes {
            alive: self.alive.clone(),
        }
    }

    /// Kills everything that was started, and ends.
    pub(crate) async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the watch over the spawner ended early");
        }
        let alive = self.alive.borrow().clone();
        if let Some(alive) = alive
            && let Err(error) = alive.client.shutdown().await
        {
            tracing::warn!(%error, "the spawner did not end in time");
        }
    }
}

impl Start {
    async fn start(&self) -> Result<Alive, Error> {
        let tag = self.options.node_tag.clone();
        let swept = tokio::task::spawn_blocking(move || weft_sandbox::sweep(&tag)).await;
        if let Ok(Err(error)) = swept {
            tracing::warn!(%error, "what an earlier life left behind could not be removed");
        }
        let client = Client::start(&self.exe, self.options.clone()).await?;
        let runtime = Arc::new(ProcessRuntime::new(client.clone(), self.work.clone()));
        Ok(Alive { client, runtime })
    }
}

async fn keep_alive(start: Start, tell: watch::Sender<Option<Alive>>, stop: CancellationToken) {
    let mut backoff = Backoff::new(FIRST_RESTART, MAX_RESTART);
    loop {
        let alive = tell.borrow().clone();
        if let Some(alive) = alive {
            let since = Instant::now();
            tokio::select! {
                () = alive.client.closed() => {}
                () = stop.cancelled() => return,
            }
            tracing::error!("the spawner has died, and its processes with it; another is started");
            tell.send_replace(None);
            if since.elapsed() > LONG_LIFE {
                backoff.reset();
            }
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = stop.cancelled() => return,
        }
        match start.start().await {
            Ok(alive) => {
                tell.send_replace(Some(alive));
            }
            Err(error) => tracing::error!(%error, "the spawner does not start"),
        }
    }
}

fn options(config: &Config, id: &NodeId) -> Result<Options, Error> {
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
    Ok(Options {
        hidden: vec![data_dir],
        cleanup_dirs: config.cleanup_dir.clone().into_iter().collect(),
        ..Options::new(format!("{name}-{place:08x}"))
    })
}

/// The process runtime over whichever spawner is alive.
pub(crate) struct Processes {
    alive: watch::Receiver<Option<Alive>>,
}

impl Processes {
    async fn runtime(&self) -> Option<Arc<ProcessRuntime>> {
        let mut alive = self.alive.clone();
        let alive = tokio::time::timeout(MAX_WAIT, alive.wait_for(Option::is_some)).await;
        let alive = alive.ok()?.ok()?;
        alive.as_ref().map(|alive| Arc::clone(&alive.runtime))
    }
}

#[tonic::async_trait]
impl Runtime for Processes {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn probe(&self) -> Probe {
        match self.runtime().await {
            Some(runtime) => runtime.probe().await,
            None => Probe::default(),
        }
    }

    async fn run(&self, task: TaskRun, control: Control) -> Outcome {
        let runtime = tokio::select! {
            runtime = self.runtime() => runtime,
            () = control.cancelled() => None,
        };
        match runtime {
            Some(runtime) => runtime.run(task, control).await,
            None => {
                let detail = "the node's spawner, which starts processes, does not run";
                Outcome::failed(
                    Failure::new(Reason::RuntimeUnavailable, detail)
                        .with_next("look for the cause in the log of `weft agent` on the node"),
                )
            }
        }
    }
}

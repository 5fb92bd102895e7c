//! The backend.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use weft_engine::Pulled;
use weft_types::{NodeId, Reason, RuntimeKind, UnitId};
use weft_unit::{
    CleanPolicy, Cleaned, Error, ExecSession, ExecWanted, LogStream, LogsWanted, Missing, Observed,
    Owned, Probe, Progress, Sizes, Step, Unit, UnitRuntime, Usage,
};

use crate::cgroup::Groups;
use crate::cli::{self, Cli};
use crate::engine::Engine;
use crate::events::Events;
use crate::scratch::Scratch;
use crate::state::State;

/// How the backend is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where projects, checkouts and records are kept; made when it is not there, readable by its
    /// owner alone.
    pub data_dir: PathBuf,
    /// The node whose units these are.
    pub node: NodeId,
    /// The engine's socket as in `DOCKER_HOST`: `unix:///run/podman/podman.sock`. Docker's usual
    /// socket when absent, else Podman's.
    pub docker_host: Option<String>,
    /// Lets repositories be read from this machine itself.
    pub allow_loopback_git: bool,
}

impl Options {
    /// The usual: no loopback, the engine that is found.
    pub fn new(data_dir: PathBuf, node: NodeId) -> Self {
        Self {
            data_dir,
            node,
            docker_host: None,
            allow_loopback_git: false,
        }
    }
}

/// Runs units of Compose applications.
pub struct Compose {
    pub(crate) options: Options,
    pub(crate) state: State,
    pub(crate) scratch: Scratch,
    pub(crate) engine: Arc<Engine>,
    pub(crate) groups: Option<Groups>,
    /// Whether the engine takes a control group for all containers of a unit.
    pub(crate) has_parent: OnceCell<bool>,
    cli: OnceCell<Cli>,
    events: Events,
    /// What was checked, by unit: its revision and a digest of its variables.
    pub(crate) vetted: Mutex<BTreeMap<UnitId, (u64, [u8; 32])>>,
    /// Units whose limits were put on their group since this process began.
    pub(crate) bounded: Mutex<BTreeSet<UnitId>>,
    pub(crate) sizes: Sizes,
    pub(crate) pulled: Pulled,
}

impl Compose {
    /// A backend over its directories. The engine is not asked yet.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn open(options: Options) -> io::Result<Self> {
        let data_dir = std::path::absolute(&options.data_dir)?;
        let state = State::open(data_dir.clone())?;
        let scratch = Scratch::open(&data_dir, options.node.as_str())?;
        scratch.clear()?;
        let engine = Engine::new(options.docker_host.clone(), options.node.to_string());
        let engine = Arc::new(engine);
        Ok(Self {
            events: Events::new(Arc::clone(&engine)),
            engine,
            state,
            scratch,
            groups: Groups::find(),
            has_parent: OnceCell::new(),
            cli: OnceCell::new(),
            vetted: Mutex::default(),
            bounded: Mutex::default(),
            sizes: Sizes::default(),
            pulled: Pulled::new(data_dir.join("images.json")),
            options,
        })
    }

    /// The reference implementation; looked for until it is found.
    pub(crate) async fn cli(&self, step: Step) -> Result<&Cli, Error> {
        self.cli
            .get_or_try_init(cli::find)
            .await
            .map_err(|missing| Error::new(step, Reason::RuntimeUnavailable, missing.to_string()))
    }
}

/// A failure of the machine's files.
pub(crate) fn storage(step: Step) -> impl Fn(io::Error) -> Error {
    move |error| Error::new(step, Reason::StorageError, error.to_string())
}

#[async_trait]
impl UnitRuntime for Compose {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Compose
    }

    fn name(&self) -> &'static str {
        "compose"
    }

    async fn probe(&self) -> Result<Probe, Missing> {
        let cli = self.cli.get_or_try_init(cli::find).await?;
        let missing = |why: String| Missing {
            what: format!("an engine for {}", cli.name()),
            why,
            fix: "start Docker, or `systemctl start podman.socket`".to_owned(),
        };
        let docker = self.engine.docker(Step::Probe).await;
        let docker = docker.map_err(|error| missing(error.detail))?;
        let version = docker
            .version()
            .await
            .map_err(|error| missing(error.to_string()))?;
        let mut probe = Probe {
            version: format!(
                "{} {} on engine {} at {}",
                cli.name(),
                cli.version,
                version.version.unwrap_or_default(),
                self.engine.host()
            ),
            ..Probe::default()
        };
        if !crate::prepare::has_git().await {
            probe.missing.push(Missing {
                what: "Git repositories as sources".to_owned(),
                why: "`git` could not be run".to_owned(),
                fix: "apt install git".to_owned(),
            });
        }
        Ok(probe)
    }

    async fn prepare(&self, unit: &Unit, progress: &Progress) -> Result<(), Error> {
        let _lock = self.lock(Step::Prepare, unit.id).await?;
        self.make_ready(unit, progress).await.map(|_| ())
    }

    async fn start(&self, unit: &Unit) -> Result<(), Error> {
        let _lock = self.lock(Step::Start, unit.id).await?;
        self.bring_up(unit).await
    }

    async fn observe(&self, id: UnitId) -> Result<Observed, Error> {
        self.look(id).await
    }

    async fn changed(&self) {
        self.events.next().await;
    }

    async fn logs(&self, id: UnitId, wanted: LogsWanted) -> Result<LogStream, Error> {
        crate::logs::open(&self.engine, id, wanted).await
    }

    async fn exec(&self, id: UnitId, wanted: ExecWanted) -> Result<ExecSession, Error> {
        crate::exec::open(&self.engine, id, wanted).await
    }

    async fn stats(&self, id: UnitId) -> Result<Usage, Error> {
        crate::stats::sum(&self.engine, &self.sizes, id).await
    }

    async fn set_paused(&self, id: UnitId, is_paused: bool) -> Result<(), Error> {
        let _lock = self.lock(Step::Run, id).await?;
        self.hold(id, is_paused).await
    }

    async fn stop(&self, id: UnitId, grace: Duration) -> Result<(), Error> {
        let lock = self.lock(Step::Stop, id).await?;
        let stopped = self.bring_down(id, grace).await;
        self.retire_unless_there(lock, id);
        stopped
    }

    async fn remove(&self, id: UnitId, keep_volumes: bool) -> Result<(), Error> {
        let lock = self.lock(Step::Remove, id).await?;
        let removed = self.clear_away(id, keep_volumes).await;
        self.retire_unless_there(lock, id);
        removed
    }

    async fn list(&self) -> Result<Vec<Owned>, Error> {
        self.owned().await
    }

    async fn clean(&self, policy: CleanPolicy) -> Result<Cleaned, Error> {
        self.clean_all(policy).await
    }
}

impl Compose {
    async fn lock(&self, step: Step, id: UnitId) -> Result<crate::state::Lock, Error> {
        self.state.lock(id).await.map_err(storage(step))
    }

    /// Leaves no lock behind for a unit that is not there.
    fn retire_unless_there(&self, lock: crate::state::Lock, id: UnitId) {
        if !self.state.unit_dir(id).exists() {
            lock.retire();
        }
    }
}

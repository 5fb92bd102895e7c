//! The port's methods.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use weft_types::{ContainerSpec, NodeId, PullPolicy, Reason, RuntimeKind, UnitId};
use weft_unit::{
    CleanPolicy, Cleaned, Error, ExecSession, ExecWanted, LogStream, LogsWanted, Missing, Observed,
    Owned, Probe, Progress, Sizes, Step, Unit, UnitRuntime, UnitWork, Usage, labels,
};
use weft_volumes::{HostPaths, Mounted, Volumes};

use crate::connection::{Connected, Connection, Flavour};
use crate::error::{volume, without_secrets};
use crate::events::Events;
use crate::pulled::Pulled;
use crate::{exec, image, logs, look, observe, request, stats};

/// Where engines keep what they run, and how they are told what to do: whoever has these has the
/// node.
const OF_ENGINES: [&str; 8] = [
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/run/docker.sock",
    "/run/docker",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
];

/// What an [`Engine`] is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engine's Unix socket.
    pub socket: PathBuf,
    /// Which engine it is; found by asking when absent.
    pub flavour: Option<Flavour>,
    /// This node: others that share the engine are left alone.
    pub node: NodeId,
    /// The agent's directory; `volumes` and `engine` in it are ours.
    pub data_dir: PathBuf,
    /// Further paths of the node that only privileged containers may mount. The system's, the
    /// engine's and `data_dir` are refused anyway.
    pub refused_host_paths: Vec<PathBuf>,
    /// Whether the engine publishes ports at 127.0.0.1 even where containers have addresses that
    /// can be reached.
    pub publish: bool,
}

impl Options {
    /// The usual.
    pub fn new(socket: PathBuf, node: NodeId, data_dir: PathBuf) -> Self {
        Self {
            socket,
            flavour: None,
            node,
            data_dir,
            refused_host_paths: Vec::new(),
            publish: false,
        }
    }

    fn host_paths(&self) -> HostPaths {
        let ours = [self.data_dir.clone(), self.socket.clone()];
        let engines = OF_ENGINES.iter().map(PathBuf::from);
        let more = self.refused_host_paths.iter().cloned();
        HostPaths::refusing(ours.into_iter().chain(engines).chain(more))
    }
}

/// Containers on Docker Engine or Podman.
#[derive(Debug)]
pub struct Engine {
    inner: Inner,
    connection: Arc<Connection>,
    events: OnceLock<Events>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub socket: PathBuf,
    pub node: NodeId,
    pub volumes: Volumes,
    pub pulled: Pulled,
    pub sizes: Sizes,
    pub publishes: bool,
}

impl Engine {
    /// An engine at a socket, which need not be there yet.
    ///
    /// # Errors
    /// When the directories for its data cannot be made.
    pub fn new(options: Options) -> Result<Self, crate::Error> {
        let dir = options.data_dir.join("engine");
        fs::create_dir_all(&dir).map_err(|error| crate::Error::Io {
            path: dir.clone(),
            error,
        })?;
        let volumes = Volumes::open(weft_volumes::Options {
            dir: options.data_dir.join("volumes"),
            host_paths: options.host_paths(),
        })?;
        Ok(Self {
            connection: Arc::new(Connection::new(options.socket.clone(), options.flavour)),
            events: OnceLock::new(),
            inner: Inner {
                socket: options.socket,
                node: options.node,
                volumes,
                pulled: Pulled::new(dir.join("images.json")),
                sizes: Sizes::default(),
                publishes: options.publish,
            },
        })
    }

    async fn reach(&self, step: Step) -> Result<Connected, Error> {
        let there = self.connection.get().await;
        there.map_err(|missing| Error::new(step, Reason::RuntimeUnavailable, missing.to_string()))
    }

    async fn prepare_unit(&self, unit: &Unit, progress: &Progress) -> Result<(), Error> {
        let spec = container(unit, Step::Prepare)?;
        let there = self.reach(Step::Prepare).await?;
        let wanted = image::Wanted {
            image: &spec.image,
            pull: self.inner.pull_policy(&there, unit.id, spec).await?,
            credentials: unit.secrets.registry.as_ref(),
        };
        image::ensure(&there.docker, &self.inner.pulled, &wanted, progress).await?;
        if !spec.volumes.is_empty() {
            progress.send_replace("making volumes".to_owned());
        }
        self.inner.mount(unit, spec, Step::Prepare).await.map(drop)
    }

    async fn start_unit(&self, unit: &Unit) -> Result<(), Error> {
        let spec = container(unit, Step::Start)?;
        let there = self.reach(Step::Start).await?;
        self.inner.start(&there, unit, spec).await
    }
}

impl Inner {
    async fn pull_policy(
        &self,
        there: &Connected,
        id: UnitId,
        spec: &ContainerSpec,
    ) -> Result<PullPolicy, Error> {
        let is_known = spec.pull == PullPolicy::Always
            && self.ours(&there.docker, id, Step::Prepare).await?.is_some();
        Ok(if is_known {
            spec.pull.once_prepared()
        } else {
            spec.pull
        })
    }

    /// Makes the volumes of a unit be there.
    pub async fn mount(
        &self,
        unit: &Unit,
        spec: &ContainerSpec,
        step: Step,
    ) -> Result<Vec<(String, Mounted)>, Error> {
        let mut mounts = Vec::new();
        for wanted in &spec.volumes {
            let mounted = self
                .volumes
                .mount(unit.id, wanted, spec.privileged)
                .await
                .map_err(|error| volume(step, &error))?;
            mounts.push((wanted.target.clone(), mounted));
        }
        Ok(mounts)
    }
}

fn mark<'a>(container: &'a look::Listed, key: &str) -> Option<&'a str> {
    container.labels.as_ref()?.get(key).map(String::as_str)
}

fn container(unit: &Unit, step: Step) -> Result<&ContainerSpec, Error> {
    match &unit.work {
        UnitWork::Container(spec) => Ok(spec),
        other => {
            let detail = format!("{} is not run by a container engine", other.kind());
            Err(Error::new(step, Reason::InvalidSpec, detail))
        }
    }
}

#[async_trait]
impl UnitRuntime for Engine {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Container
    }

    fn name(&self) -> &'static str {
        self.connection.flavour().as_str()
    }

    async fn probe(&self) -> Result<Probe, Missing> {
        let there = self.connection.ask().await?;
        let mut capabilities: Vec<String> = there.able.runtimes.keys().cloned().collect();
        if there.able.disk_quota {
            capabilities.push("disk-quota".to_owned());
        }
        Ok(Probe {
            version: format!("{} {}", self.name(), there.able.version),
            capabilities,
            missing: there.able.missing.clone(),
        })
    }

    async fn prepare(&self, unit: &Unit, progress: &Progress) -> Result<(), Error> {
        let prepared = self.prepare_unit(unit, progress).await;
        prepared.map_err(|error| without_secrets(error, &unit.secrets))
    }

    async fn start(&self, unit: &Unit) -> Result<(), Error> {
        let started = self.start_unit(unit).await;
        started.map_err(|error| without_secrets(error, &unit.secrets))
    }

    async fn observe(&self, id: UnitId) -> Result<Observed, Error> {
        let there = self.reach(Step::Run).await?;
        let found = self.inner.ours(&there.docker, id, Step::Run).await?;
        Ok(found.map_or_else(Observed::absent, |found| observe::observed(&found)))
    }

    async fn changed(&self) {
        let events = self
            .events
            .get_or_init(|| Events::follow(self.connection.clone(), self.inner.node.clone()));
        events.changed().await;
    }

    async fn logs(&self, id: UnitId, wanted: LogsWanted) -> Result<LogStream, Error> {
        let there = self.reach(Step::Run).await?;
        let found = self.inner.ours(&there.docker, id, Step::Run).await?;
        let found = found.ok_or_else(|| crate::life::missing(id))?;
        let container = found.id.unwrap_or_else(|| request::name(id));
        let in_seconds = there.able.flavour == Flavour::Podman;
        Ok(logs::lines(&there.docker, &container, &wanted, in_seconds))
    }

    async fn exec(&self, id: UnitId, wanted: ExecWanted) -> Result<ExecSession, Error> {
        let docker = self.reach(Step::Run).await?.docker;
        let container = self.inner.running(&docker, id).await?;
        let socket = self.connection.socket().to_owned();
        exec::run(&docker, socket, container, &wanted).await
    }

    async fn stats(&self, id: UnitId) -> Result<Usage, Error> {
        let docker = self.reach(Step::Run).await?.docker;
        let container = self.inner.running(&docker, id).await?;
        stats::usage(&docker, &self.inner.sizes, id, &container).await
    }

    async fn set_paused(&self, id: UnitId, is_paused: bool) -> Result<(), Error> {
        let docker = self.reach(Step::Run).await?.docker;
        self.inner.set_paused(&docker, id, is_paused).await
    }

    async fn stop(&self, id: UnitId, grace: Duration) -> Result<(), Error> {
        let docker = self.reach(Step::Stop).await?.docker;
        self.inner.stop(&docker, id, grace).await
    }

    async fn remove(&self, id: UnitId, keep_volumes: bool) -> Result<(), Error> {
        let docker = self.reach(Step::Remove).await?.docker;
        self.inner.remove(&docker, id, keep_volumes).await
    }

    async fn list(&self) -> Result<Vec<Owned>, Error> {
        let docker = self.reach(Step::Run).await?.docker;
        let mut containers = look::list(&docker, &self.inner.socket).await?;
        // Applications of Compose on the same engine are another backend's.
        containers.retain(|one| {
            mark(one, labels::NODE) == Some(self.inner.node.as_str())
                && mark(one, labels::KIND).is_none()
        });
        let volumes = self.inner.volumes.list().await;
        let volumes = volumes.map_err(|error| volume(Step::Run, &error))?;
        // What is made before and removed after the container, without a revision of its own.
        let mut all: BTreeMap<UnitId, u64> = volumes.into_iter().map(|unit| (unit, 0)).collect();
        for container in containers {
            let unit = mark(&container, labels::UNIT).and_then(|unit| unit.parse().ok());
            let revision = mark(&container, labels::REVISION);
            let revision = revision.and_then(|revision| revision.parse().ok());
            if let Some(unit) = unit {
                all.insert(unit, revision.unwrap_or(0));
            }
        }
        let owned = all.into_iter();
        Ok(owned
            .map(|(unit, revision)| Owned { unit, revision })
            .collect())
    }

    async fn clean(&self, policy: CleanPolicy) -> Result<Cleaned, Error> {
        let there = self.reach(Step::Remove).await?;
        self.inner
            .pulled
            .clean(&there.docker, &there.able.root_dir, policy)
            .await
    }
}

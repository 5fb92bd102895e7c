//! The backends that run units on this node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use weft_compose::Compose;
use weft_engine::{Engine as ContainerEngine, Flavour};
use weft_oci::{MonitorCommand, Oci};
use weft_types::{BlobHash, NodeCapacity, NodeId, RuntimeKind};
use weft_unit::{Error as UnitError, Probe, Step, UnitRuntime};
use weft_vm::{ArtifactSource, Vms};
use weft_volumes::{HostPaths, Volumes};

use crate::artifacts::Artifacts;
use crate::{Config, Engine};

/// The argument with which the agent's own program watches one container: it calls
/// [`weft_oci::monitor::main`] then.
pub const MONITOR_ARGUMENT: &str = "oci-monitor";

/// How long a backend may take to find out whether it works.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);
/// Where engines listen, unless they were set up otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// The backends that this node may use, in the order in which they are tried. One that cannot even
/// be set up is left out, and said in the log.
pub(crate) async fn backends(
    config: &Config,
    node: &NodeId,
    artifacts: &Artifacts,
) -> Vec<Arc<dyn UnitRuntime>> {
    let mut backends: Vec<Arc<dyn UnitRuntime>> = Vec::new();
    let sockets: &[(&str, Flavour)] = match config.engine {
        Engine::Auto => &[
            (DOCKER_SOCKET, Flavour::Docker),
            (PODMAN_SOCKET, Flavour::Podman),
        ],
        Engine::Docker => &[(DOCKER_SOCKET, Flavour::Docker)],
        Engine::Podman => &[(PODMAN_SOCKET, Flavour::Podman)],
        Engine::Oci => &[],
        Engine::None => return backends,
    };
    for &(socket, flavour) in sockets {
        add(&mut backends, engine(config, node, socket, flavour));
    }
    if matches!(config.engine, Engine::Auto | Engine::Oci) {
        add(&mut backends, oci(config, node));
    }
    add(&mut backends, compose(config, node));
    add(&mut backends, vms(config, node, artifacts).await);
    backends
}

fn add<R: UnitRuntime>(backends: &mut Vec<Arc<dyn UnitRuntime>>, made: Result<R, String>) {
    match made {
        Ok(backend) => backends.push(Arc::new(backend)),
        Err(error) => tracing::warn!(error, "a backend of units cannot be used"),
    }
}

fn engine(
    config: &Config,
    node: &NodeId,
    socket: &str,
    flavour: Flavour,
) -> Result<ContainerEngine, String> {
    let options = weft_engine::Options {
        flavour: Some(flavour),
        ..weft_engine::Options::new(socket.into(), node.clone(), config.data_dir.clone())
    };
    ContainerEngine::new(options).map_err(|error| error.to_string())
}

fn oci(config: &Config, node: &NodeId) -> Result<Oci, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let volumes = Volumes::open(weft_volumes::Options {
        dir: config.data_dir.join("volumes"),
        host_paths: HostPaths::refusing([config.data_dir.clone()]),
    });
    let monitor = MonitorCommand {
        program: std::env::current_exe().map_err(|error| said(&error))?,
        args: vec![MONITOR_ARGUMENT.into()],
    };
    let options = weft_oci::Options::new(
        config.data_dir.join("oci"),
        node.clone(),
        monitor,
        volumes.map_err(|error| said(&error))?,
    );
    Oci::open(options).map_err(|error| said(&error))
}

fn compose(config: &Config, node: &NodeId) -> Result<Compose, String> {
    let podman = config.engine == Engine::Podman
        || (config.engine == Engine::Auto && !Path::new(DOCKER_SOCKET).exists());
    let options = weft_compose::Options {
        docker_host: podman.then(|| format!("unix://{PODMAN_SOCKET}")),
        ..weft_compose::Options::new(config.data_dir.join("compose"), node.clone())
    };
    Compose::open(options).map_err(|error| error.to_string())
}

async fn vms(config: &Config, node: &NodeId, artifacts: &Artifacts) -> Result<Vms, String> {
    let options = weft_vm::Options {
        pools: config.storage_pools.clone(),
        artifacts: Some(Arc::new(Images(artifacts.clone()))),
        ..weft_vm::Options::new(config.data_dir.join("vm"), node.clone())
    };
    Vms::open(options).await.map_err(|error| error.to_string())
}

/// Artifacts that machines boot from.
struct Images(Artifacts);

#[async_trait]
impl ArtifactSource for Images {
    async fn path(&self, hash: BlobHash) -> Result<PathBuf, UnitError> {
        let fetched = self.0.fetch(&hash).await;
        fetched
            .map(|fetched| fetched.path)
            .map_err(|failure| UnitError::new(Step::Prepare, failure.reason, failure.detail))
    }
}

/// What a backend can do here, or what it lacks.
async fn tried(backend: &dyn UnitRuntime) -> Result<Probe, String> {
    let (kind, name) = (backend.kind(), backend.name());
    match tokio::time::timeout(PROBE_TIMEOUT, backend.probe()).await {
        Ok(probe) => probe.map_err(|missing| format!("{kind}: {missing}")),
        Err(_) => {
            let timeout = PROBE_TIMEOUT.as_secs();
            Err(format!("{kind}: {name} does not answer within {timeout} s"))
        }
    }
}

/// The backends that work on this node, one a kind.
#[derive(Clone, Default)]
pub(crate) struct UnitRuntimes {
    working: Vec<Arc<dyn UnitRuntime>>,
    capabilities: Vec<String>,
    missing: Vec<String>,
}

impl UnitRuntimes {
    /// Tries backends in their order: of each kind the first one that works is used. What others of
    /// the kind lack does not matter then.
    pub(crate) async fn probe(backends: Vec<Arc<dyn UnitRuntime>>) -> Self {
        let mut runtimes = Self::default();
        let mut lacking: Vec<(RuntimeKind, String)> = Vec::new();
        let probes = backends.iter().map(|backend| tried(backend.as_ref()));
        // All at once: the agent greets the server when the slowest has been tried.
        let probes = futures::future::join_all(probes).await;
        for (backend, probe) in backends.into_iter().zip(probes) {
            let kind = backend.kind();
            if runtimes.get(kind).is_some() {
                continue;
            }
            match probe {
                Ok(probe) => {
                    tracing::info!(runtime = backend.name(), version = probe.version, "{kind}");
                    runtimes.capabilities.extend(probe.capabilities);
                    let missing = probe.missing.iter().map(ToString::to_string);
                    runtimes.missing.extend(missing);
                    runtimes.working.push(backend);
                }
                Err(missing) => lacking.push((kind, missing)),
            }
        }
        for (kind, missing) in lacking {
            if runtimes.get(kind).is_none() {
                runtimes.missing.push(missing);
            }
        }
        runtimes
    }

    /// The backend of a kind.
    pub(crate) fn get(&self, kind: RuntimeKind) -> Option<Arc<dyn UnitRuntime>> {
        let found = self.working.iter().find(|runtime| runtime.kind() == kind);
        found.map(Arc::clone)
    }

    /// All that work.
    pub(crate) fn all(&self) -> &[Arc<dyn UnitRuntime>] {
        &self.working
    }

    /// Adds to what the node offers, and to what it lacks.
    pub(crate) fn describe(&self, capacity: &mut NodeCapacity, missing: &mut Vec<String>) {
        let kinds = self.working.iter().map(|runtime| runtime.kind());
        capacity.runtimes.extend(kinds);
        capacity.capabilities.extend(self.capabilities.clone());
        capacity.capabilities.sort();
        capacity.capabilities.dedup();
        missing.extend(self.missing.clone());
    }
}

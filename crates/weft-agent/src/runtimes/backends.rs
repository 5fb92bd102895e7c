//! The backends that may run units on this node, and how each is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use weft_compose::Compose;
use weft_engine::{Engine as ContainerEngine, Flavour};
use weft_oci::{MonitorCommand, Oci};
use weft_types::{BlobHash, NodeId};
use weft_unit::{Error as UnitError, Step, UnitRuntime};
use weft_vm::{ArtifactSource, Vms};
use weft_volumes::{HostPaths, Volumes};

use super::remembered::Remembered;
use crate::artifacts::Artifacts;
use crate::{Config, Engine};

/// The argument with which the agent's own program watches one container: it calls
/// [`weft_oci::monitor::main`] then.
pub const MONITOR_ARGUMENT: &str = "oci-monitor";

/// Where engines listen, unless they were set up otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";
const PODMAN_SOCKET: &str = "/run/podman/podman.sock";

/// A backend that the node may use, under the name by which the node remembers it.
#[derive(Clone)]
pub(crate) struct Candidate {
    pub(crate) name: &'static str,
    /// Whether the configuration names it; another one serves the units that it has and gets none.
    pub(crate) is_configured: bool,
    pub(crate) runtime: Arc<dyn UnitRuntime>,
}

/// What backends are set up with.
pub(crate) struct Setup {
    pub(crate) data_dir: PathBuf,
    pub(crate) node: NodeId,
    pub(crate) storage_pools: BTreeMap<String, PathBuf>,
    /// Where machines boot from; without, those that are there can be ended all the same.
    pub(crate) artifacts: Option<Artifacts>,
}

/// Every name, in the order in which backends of one kind are preferred.
const NAMES: [&str; 6] = [
    "docker",
    "podman",
    "oci",
    "compose",
    "compose-podman",
    "qemu",
];

/// The backends that this node may use, in the order in which they are preferred, and those that
/// have units from before. One that cannot even be set up is left out, and said in the log.
pub(crate) async fn candidates(
    config: &Config,
    node: &NodeId,
    artifacts: &Artifacts,
    remembered: &Remembered,
) -> Vec<Candidate> {
    let setup = Setup {
        data_dir: config.data_dir.clone(),
        node: node.clone(),
        storage_pools: config.storage_pools.clone(),
        artifacts: Some(artifacts.clone()),
    };
    let names: &[&str] = match config.engine {
        Engine::Auto => &NAMES,
        Engine::Docker => &["docker", "compose", "qemu"],
        Engine::Podman => &["podman", "compose-podman", "qemu"],
        Engine::Oci => &["oci", "compose", "qemu"],
        Engine::None => &[],
    };
    let used = remembered.names().filter(|name| !names.contains(name));
    let mut candidates = Vec::new();
    for name in names.iter().copied().chain(used) {
        match candidate(name, &setup).await {
            Ok(candidate) => candidates.push(Candidate {
                is_configured: names.contains(&name),
                ..candidate
            }),
            Err(error) => tracing::warn!(error, "a backend of units cannot be used"),
        }
    }
    candidates
}

/// Sets up the backend of a name.
///
/// # Errors
/// When its files cannot be made, or nobody knows the name.
pub(crate) async fn candidate(name: &str, setup: &Setup) -> Result<Candidate, String> {
    let runtime: Arc<dyn UnitRuntime> = match name {
        "docker" => Arc::new(engine(setup, DOCKER_SOCKET, Flavour::Docker)?),
        "podman" => Arc::new(engine(setup, PODMAN_SOCKET, Flavour::Podman)?),
        "oci" => Arc::new(oci(setup)?),
        "compose" => Arc::new(compose(setup, None)?),
        "compose-podman" => Arc::new(compose(setup, Some(format!("unix://{PODMAN_SOCKET}")))?),
        "qemu" => Arc::new(vms(setup).await?),
        other => return Err(format!("{other}: there is no such backend")),
    };
    let known = NAMES.iter().find(|known| **known == name);
    Ok(Candidate {
        name: known.copied().unwrap_or("?"),
        is_configured: true,
        runtime,
    })
}

fn engine(setup: &Setup, socket: &str, flavour: Flavour) -> Result<ContainerEngine, String> {
    let options = weft_engine::Options {
        flavour: Some(flavour),
        ..weft_engine::Options::new(socket.into(), setup.node.clone(), setup.data_dir.clone())
    };
    ContainerEngine::new(options).map_err(|error| error.to_string())
}

fn oci(setup: &Setup) -> Result<Oci, String> {
    let said = |error: &dyn std::fmt::Display| error.to_string();
    let volumes = Volumes::open(weft_volumes::Options {
        dir: setup.data_dir.join("volumes"),
        host_paths: HostPaths::refusing([setup.data_dir.clone()]),
    });
    let monitor = MonitorCommand {
        program: std::env::current_exe().map_err(|error| said(&error))?,
        args: vec![MONITOR_ARGUMENT.into()],
    };
    let options = weft_oci::Options::new(
        setup.data_dir.join("oci"),
        setup.node.clone(),
        monitor,
        volumes.map_err(|error| said(&error))?,
    );
    Oci::open(options).map_err(|error| said(&error))
}

fn compose(setup: &Setup, docker_host: Option<String>) -> Result<Compose, String> {
    let options = weft_compose::Options {
        docker_host,
        ..weft_compose::Options::new(setup.data_dir.join("compose"), setup.node.clone())
    };
    Compose::open(options).map_err(|error| error.to_string())
}

async fn vms(setup: &Setup) -> Result<Vms, String> {
    let artifacts = setup.artifacts.clone();
    let options = weft_vm::Options {
        pools: setup.storage_pools.clone(),
        artifacts: artifacts
            .map(|artifacts| Arc::new(Images(artifacts)) as Arc<dyn ArtifactSource>),
        ..weft_vm::Options::new(setup.data_dir.join("vm"), setup.node.clone())
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

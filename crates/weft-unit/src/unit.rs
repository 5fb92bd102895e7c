//! What is run, and how it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weft_types::{
    ComposeSpec, ContainerSpec, Namespace, PortSpec, Reason, Resources, RuntimeKind, UnitId,
    VmSpec, WorkloadName,
};

/// Labels that every object of a unit carries, in every engine.
pub mod labels {
    /// The node that made it: agents that share an engine leave each other's alone.
    pub const NODE: &str = "weft.node";
    /// The unit, as in `wl-…-7`.
    pub const UNIT: &str = "weft.unit";
    /// The revision of the workload that it runs.
    pub const REVISION: &str = "weft.revision";
    /// `NAMESPACE/NAME` of the workload, for people.
    pub const WORKLOAD: &str = "weft.workload";
    /// The kind of the unit, `compose`; of a container when absent. Backends that share an engine
    /// leave each other's alone.
    pub const KIND: &str = "weft.kind";
}

/// What runs in a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnitWork {
    /// A container.
    Container(Box<ContainerSpec>),
    /// A Compose application.
    Compose(Box<ComposeSpec>),
    /// A virtual machine.
    Vm(Box<VmSpec>),
}

impl UnitWork {
    /// Which kind of runtime it needs.
    pub fn kind(&self) -> RuntimeKind {
        match self {
            Self::Container(_) => RuntimeKind::Container,
            Self::Compose(_) => RuntimeKind::Compose,
            Self::Vm(_) => RuntimeKind::Vm,
        }
    }

    /// The ports that are to be reachable on the node.
    pub fn ports(&self) -> Vec<PortSpec> {
        match self {
            Self::Container(container) => container.ports.clone(),
            Self::Compose(_) => Vec::new(),
            Self::Vm(vm) => vm
                .networks
                .iter()
                .flat_map(|net| net.ports.clone())
                .collect(),
        }
    }
}

/// A name and its password.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Credentials {
    /// Who.
    pub username: String,
    /// With what; never printed.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// The secrets of one unit, resolved by whoever may read them. Never written to a disk in clear,
/// never in an error or a log.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secrets {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// For the images' registry.
    pub registry: Option<Credentials>,
    /// For the Git repository over HTTP.
    pub git: Option<Credentials>,
    /// Private key for the Git repository over SSH.
    pub git_ssh_key: Option<String>,
    /// Password of the user that may log in to a machine.
    pub login_password: Option<String>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} variables, …)", self.env.len())
    }
}

/// One instance of a workload, as it should be on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unit {
    /// Which.
    pub id: UnitId,
    /// Namespace of its workload.
    pub namespace: Namespace,
    /// Name of its workload.
    pub name: WorkloadName,
    /// Revision of its workload.
    pub revision: u64,
    /// What runs.
    pub work: UnitWork,
    /// What it may use, at most.
    pub resources: Resources,
    /// Its secrets.
    pub secrets: Secrets,
    /// Whether its namespace may have what reaches the node. Of a specification that the server has
    /// seen whole, nothing is left to ask; files that only a node sees are held against it.
    pub may_be_privileged: bool,
}

/// The state of an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// There is none.
    Absent,
    /// It was made and does not run yet.
    Created,
    /// It runs.
    Running {
        /// Since when, in milliseconds since the Unix epoch.
        since_ms: u64,
    },
    /// It stands still and can go on.
    Paused,
    /// It ended.
    Exited {
        /// Its exit code, when it ended by itself.
        exit_code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// Why, when that is more than the code says: `oom-killed`, `vm-boot-failed`, …
        reason: Option<Reason>,
        /// What the engine says of it.
        detail: String,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
}

/// A part of a unit that has several: a service of a Compose application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartStatus {
    /// Its name.
    pub name: String,
    /// Its state.
    pub phase: Phase,
    /// What its own health check says, if it has one.
    pub healthy: Option<bool>,
}

/// How an instance is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    /// Its state; of several parts that of the worst.
    pub phase: Phase,
    /// What the engine's own health check says, if there is one.
    pub healthy: Option<bool>,
    /// The address at which its ports answer from this node.
    pub address: Option<IpAddr>,
    /// Where the engine itself has published ports: port inside → address on this node. Ports that
    /// are not in here answer at `address`.
    pub published: BTreeMap<u16, SocketAddr>,
    /// Its parts.
    pub parts: Vec<PartStatus>,
    /// What was really run: the digest of the image, the commit of the repository.
    pub source: Option<String>,
}

impl Observed {
    /// Nothing there.
    pub fn absent() -> Self {
        Self {
            phase: Phase::Absent,
            healthy: None,
            address: None,
            published: BTreeMap::new(),
            parts: Vec::new(),
            source: None,
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }
}

/// Where a port inside a unit answers from this node.
pub fn publish_address(observed: &Observed, target: u16) -> Option<SocketAddr> {
    match observed.published.get(&target) {
        Some(address) => Some(*address),
        None => observed.address.map(|ip| SocketAddr::new(ip, target)),
    }
}

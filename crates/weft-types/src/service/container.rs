//! Containers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Bytes;

/// A container to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Reference of the image, by tag or digest: `registry:5000/name:tag`, `name@sha256:…`.
    pub image: String,
    /// When its registry is asked for it.
    #[serde(default, skip_serializing_if = "PullPolicy::is_default")]
    pub pull: PullPolicy,
    /// Takes the place of the image's entry point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Takes the place of the image's arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Environment variables from secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFrom>,
    /// Working directory; the image's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `user`, `uid` or `uid:gid`; the image's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Ports that are reachable on the nodes: `"8080:80"`, `"8080:80/http"`, or in full.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<Object>))]
    pub ports: Vec<PortSpec>,
    /// Directories that outlive it or come from elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeSpec>,
    /// When it is started again on its node: `always`, `on-failure:5`, or in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Object>))]
    pub restart: Option<RestartPolicy>,
    /// All rights of the host; only where the namespace's policy allows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// How it is found out whether it works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthCheck>,
    /// `runc`, `crun`, `runsc` or `kata`; the engine's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class: Option<String>,
    /// Secret with `username` and `password` for the image's registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry_secret: Option<String>,
    /// How it is connected.
    #[serde(default)]
    pub network: NetworkMode,
    /// Swap beyond the reserved memory; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "128Mi"))]
    pub swap: Option<Bytes>,
    /// The most processes and threads; 4096 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pids: Option<u32>,
    /// Signal that asks it to end; the image's or `SIGTERM` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// Environment variables from a secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EnvFrom {
    /// Name of the secret; each of its keys becomes a variable.
    pub secret: String,
    /// Put before each key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

/// What is spoken on a port.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Bytes: a connection goes to one replica.
    #[default]
    Tcp,
    /// HTTP/1.1: each request goes to a ready replica, and is counted.
    Http,
}

/// A port of a service: reachable under `port` on every node, and answered by any ready replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct PortSpec {
    /// On the nodes.
    pub port: u16,
    /// Inside the container.
    pub target: u16,
    /// What is spoken.
    pub protocol: Protocol,
}

/// When a registry is asked for an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum PullPolicy {
    /// When the node does not have it.
    #[default]
    Missing,
    /// For every new unit: a tag may stand for another image by now. What starts again takes what
    /// its node has.
    Always,
    /// Never: somebody else brings it to the node.
    Never,
}

impl PullPolicy {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// The same for a unit that has been prepared before.
    #[must_use]
    pub fn once_prepared(self) -> Self {
        match self {
            Self::Always => Self::Missing,
            other => other,
        }
    }
}

/// How a container is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// An address of its own behind the node's bridge.
    #[default]
    Bridge,
    /// Loopback only.
    None,
    /// The node's own network; needs the same right as `privileged`.
    Host,
}

/// A directory of a container.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct VolumeSpec {
    /// Absolute path inside the container.
    pub target: String,
    /// Absolute path on the node. Instead of `class`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A managed volume of this class. Instead of `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<VolumeClass>,
    /// Name of a managed volume within the workload; made from `target` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Relative path beneath the volume that is mounted instead of its root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// Whether the container may only read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// The most it may hold. `local` volumes of a size are images with a file system of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "1Gi"))]
    pub size: Option<Bytes>,
    /// File system of a volume with a size: `ext4` (default) or `xfs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fs_type: Option<String>,
    /// Who may mount it.
    #[serde(default)]
    pub access_mode: AccessMode,
    /// Whether its data goes with the workload.
    #[serde(default)]
    pub retain: Retain,
    /// `server:/export` of an `nfs` volume, `pool/image` of a `ceph-rbd` volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// Where the data of a managed volume lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum VolumeClass {
    /// On the node.
    Local,
    /// On an NFS server.
    Nfs,
    /// On a Ceph block device.
    CephRbd,
}

/// Who may mount a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AccessMode {
    /// One replica at a time, for reading and writing: each has a volume of its own.
    #[default]
    ReadWriteOnce,
    /// All replicas of a node share it.
    ReadWriteMany,
    /// All replicas of a node share it, for reading.
    ReadOnlyMany,
}

/// What becomes of a volume's data when its workload is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Retain {
    /// It goes too.
    #[default]
    Delete,
    /// It stays on its node.
    Retain,
}

/// When something that ended is started again on its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum RestartWhen {
    /// Never; a failed replica is replaced, on any node.
    No,
    /// Always.
    #[default]
    Always,
    /// When it ended with an error.
    OnFailure,
    /// Always, unless somebody stopped it.
    UnlessStopped,
}

/// When, and how often in a row, something is started again on its node before it counts as
/// failed there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct RestartPolicy {
    /// When.
    pub policy: RestartWhen,
    /// How often in a row; five when absent. One that ran for ten minutes begins anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u32>,
}

/// How it is found out whether a replica works. It is ready after the first success, and unhealthy
/// after `retries` failures in a row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// `GET` that must answer with 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpProbe>,
    /// Port that must accept a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<u16>,
    /// Command inside that must end with 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Wait between two checks.
    #[serde(
        default = "HealthCheck::default_interval",
        with = "crate::serde_duration"
    )]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "10s"))]
    pub interval: Duration,
    /// How long one check may take.
    #[serde(
        default = "HealthCheck::default_timeout",
        with = "crate::serde_duration"
    )]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "5s"))]
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    #[serde(default = "HealthCheck::default_retries")]
    pub retries: u32,
    /// After the start, failures do not count for this long.
    #[serde(default, with = "crate::serde_duration")]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "30s"))]
    pub start_period: Duration,
}

impl HealthCheck {
    fn default_interval() -> Duration {
        Duration::from_secs(10)
    }

    fn default_timeout() -> Duration {
        Duration::from_secs(5)
    }

    fn default_retries() -> u32 {
        3
    }

    /// What is checked; `None` when the specification names nothing or several things.
    pub fn probe(&self) -> Option<HealthProbe<'_>> {
        match (&self.http, self.tcp, self.command.as_slice()) {
            (Some(http), None, []) => Some(HealthProbe::Http(http)),
            (None, Some(port), []) => Some(HealthProbe::Tcp(port)),
            (None, None, [_, ..]) => Some(HealthProbe::Command(&self.command)),
            _ => None,
        }
    }
}

/// What a health check does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HealthProbe<'a> {
    /// A request.
    Http(&'a HttpProbe),
    /// A connection to this port.
    Tcp(u16),
    /// A command inside.
    Command(&'a [String]),
}

/// A request that tells whether something works.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// Port inside.
    pub port: u16,
    /// Path with its query; `/` when absent.
    #[serde(default = "HttpProbe::root")]
    pub path: String,
}

impl HttpProbe {
    fn root() -> String {
        "/".to_owned()
    }
}

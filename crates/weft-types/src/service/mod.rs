//! What is kept running: services, their replicas, and how they are updated and scaled.

mod check;
mod compose;
mod container;
mod demand;
mod short;
#[cfg(test)]
mod tests;
mod vm;

pub use compose::{ComposeSource, ComposeSpec, GitSource};
pub use container::{
    AccessMode, ContainerSpec, EnvFrom, HealthCheck, HealthProbe, HttpProbe, NetworkMode, PortSpec,
    Protocol, PullPolicy, RestartPolicy, RestartWhen, Retain, VolumeClass, VolumeSpec,
};
pub use vm::{
    CloudInit, DiskSpec, ImageFormat, Login, NetworkSpec, VmImage, VmNetworkMode, VmSpec,
};

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The most replicas that a service may have.
pub const MAX_REPLICAS: u32 = 10_000;

/// How many replicas a service has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Replicas {
    /// Never fewer than this many, however little there is to do; a drain waits for it as well.
    pub min: u32,
    /// Never more than this many.
    pub max: u32,
    /// How many there are without scaling, and at first with it.
    pub target: u32,
}

impl Default for Replicas {
    /// One.
    fn default() -> Self {
        Self {
            min: 0,
            max: MAX_REPLICAS,
            target: 1,
        }
    }
}

/// A share of what was asked for, in percent; written `70%` or `70`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Percent(pub u32);

/// When the number of replicas follows the load. With several figures the one that asks for the
/// most replicas decides.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Scaling {
    /// Use of CPU to aim for, of what a replica reserves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "70%"))]
    pub cpu: Option<Percent>,
    /// Use of memory to aim for, of what a replica reserves.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "80%"))]
    pub memory: Option<Percent>,
    /// Requests a second that one replica is to answer; counted at ports of protocol `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    /// Wait after a change before more replicas are added.
    #[serde(with = "crate::serde_duration")]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "30s"))]
    pub up_cooldown: Duration,
    /// Wait after a change before replicas are taken away.
    #[serde(with = "crate::serde_duration")]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "5m"))]
    pub down_cooldown: Duration,
}

impl Default for Scaling {
    /// By no figure; half a minute up, five minutes down.
    fn default() -> Self {
        Self {
            cpu: None,
            memory: None,
            requests_per_second: None,
            up_cooldown: Duration::from_secs(30),
            down_cooldown: Duration::from_secs(300),
        }
    }
}

/// How a new revision takes the place of the old one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct UpdateSpec {
    /// How many replicas may be there beyond the wanted number meanwhile.
    pub max_surge: u32,
    /// How many replicas may be missing meanwhile.
    pub max_unavailable: u32,
    /// How long a new replica must have been ready before it counts.
    #[serde(with = "crate::serde_duration")]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "5s"))]
    pub min_ready: Duration,
    /// How long the update may go without progress before it has failed.
    #[serde(with = "crate::serde_duration")]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "5m"))]
    pub deadline: Duration,
    /// Whether the last revision that worked comes back when the update has failed.
    pub rollback: bool,
}

impl Default for UpdateSpec {
    /// One more at a time, none fewer, five minutes, back on failure.
    fn default() -> Self {
        Self {
            max_surge: 1,
            max_unavailable: 0,
            min_ready: Duration::ZERO,
            deadline: Duration::from_secs(300),
            rollback: true,
        }
    }
}

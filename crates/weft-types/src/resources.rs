//! What a unit of work needs and what a node has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::workload::RuntimeKind;
use crate::{Bytes, Millicores, Money};

/// What one task or replica needs; every amount is reserved while it runs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// CPU, in millicores.
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "500m"))]
    pub cpu: Millicores,
    /// Memory.
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "256Mi"))]
    pub memory: Bytes,
    /// Disk for the working directory and what the task writes.
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "1Gi"))]
    pub disk: Bytes,
    /// GPUs, none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuRequest>,
}

impl Default for Resources {
    /// Half a core, 128 MiB of memory and 256 MiB of disk.
    fn default() -> Self {
        Self {
            cpu: Millicores(500),
            memory: Bytes(128 << 20),
            disk: Bytes(256 << 20),
            gpu: None,
        }
    }
}

impl Resources {
    /// What a byte operation needs: it runs inside the agent.
    pub fn for_op() -> Self {
        Self {
            cpu: Millicores(100),
            memory: Bytes(16 << 20),
            disk: Bytes(0),
            gpu: None,
        }
    }
}

/// GPUs that a unit needs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct GpuRequest {
    /// How many.
    pub count: u32,
    /// Which models, separated by `|`; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
}

impl GpuRequest {
    /// Whether a GPU of this model would do; compares without case.
    pub fn accepts(&self, model: &str) -> bool {
        self.model.as_deref().is_none_or(|wanted| {
            wanted
                .split('|')
                .any(|w| w.trim().eq_ignore_ascii_case(model))
        })
    }
}

/// What a node offers to work, after its utilisation threshold was applied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeCapacity {
    /// CPU.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub cpu: Millicores,
    /// Memory.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub memory: Bytes,
    /// Disk.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub disk: Bytes,
    /// Models of the GPUs, one entry a GPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<String>,
    /// Processor architecture as in `uname -m` (`x86_64`, `aarch64`).
    pub arch: String,
    /// Operating system (`linux`).
    pub os: String,
    /// Runtimes that were probed and work.
    pub runtimes: Vec<RuntimeKind>,
    /// Labels to match in `placement`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Capabilities to match in `placement` (`kvm`, `sandbox`).
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What an hour of all of it costs, in US dollars (`$0.12`); absent where that is nothing.
    #[serde(default, skip_serializing_if = "Money::is_zero")]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub price_per_hour: Money,
}

//! Nodes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{NodeCapacity, NodeState, NodeValidity};

/// A node as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// Its id.
    pub id: String,
    /// What the control plane believes of it.
    pub state: NodeState,
    /// Why it is in that state, when it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Its host name.
    pub hostname: String,
    /// The version of its agent.
    pub version: String,
    /// What it offers to work.
    pub capacity: NodeCapacity,
    /// What is in use.
    pub usage: UsageView,
    /// Whether it gets work.
    #[serde(default)]
    pub breaker: BreakerState,
    /// Its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateView>,
    /// The number of its registration.
    pub epoch: u64,
    /// When it joined.
    pub joined_at: String,
    /// When it was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<String>,
    /// What was probed there and does not work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// A code to compare before approving its return, when it waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval_code: Option<String>,
}

/// What of a node is in use.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct UsageView {
    /// Tasks that run.
    pub running: u32,
    /// Tasks handed to it, running or not.
    pub held: u32,
    /// CPU, measured, in millicores.
    pub cpu_millicores: u64,
    /// Memory, measured, in bytes.
    pub memory_bytes: u64,
    /// Disk that is free, in bytes.
    pub free_disk_bytes: u64,
    /// Attempts it has ended since the server started.
    #[serde(default)]
    pub ended: u64,
}

/// The state of a node's circuit breaker: a node that fails everything gets no more work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// It gets work as usual.
    #[default]
    Closed,
    /// It gets none for a while.
    Open,
    /// It gets one task, to see.
    HalfOpen,
}

impl BreakerState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Closed, Self::Open, Self::HalfOpen];

    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// A certificate's life.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CertificateView {
    /// When it ends.
    pub expires_at: String,
    /// How much of its life is left.
    pub validity: NodeValidity,
}

/// A change to a node.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodePatch {
    /// `true`: nothing new is placed there. `false`: it is open again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// `true`: what runs there is moved away as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// `true`: the node that asks to come back with this code may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<String>,
}

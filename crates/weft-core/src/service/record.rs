//! What the store keeps of services. Values are JSON with a `v` field; every record has exactly
//! one kind of writer, so that writers never overwrite each other's news.
//!
//! | key | record | written by |
//! | --- | --- | --- |
//! | `workloads/<ns>/<name>` | [`WorkloadRecord`] | the API, on behalf of people |
//! | `rollouts/<workload-id>` | [`Rollout`] | the scheduler |
//! | `assignments/<workload-id>/<unit>` | [`Assignment`] | the scheduler |
//! | `statuses/<workload-id>/<unit>` | [`UnitStatus`] | the server that holds the node's session |
//! | `retries/<workload-id>` | [`Retry`] | the scheduler |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_types::{NodeId, Reason, UnitId, Workload, WorkloadId, WorkloadState};

use crate::Epoch;

/// The version of the records' layout.
pub const RECORD_VERSION: u32 = 1;

/// What somebody wants: `workloads/<ns>/<name>`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WorkloadRecord {
    /// Version of the layout.
    pub v: u32,
    /// Its id, for its whole life.
    pub id: WorkloadId,
    /// Grows by one whenever what runs inside changes; the number of replicas, placement of later
    /// units and scaling may change without it.
    pub revision: u64,
    /// What is wanted.
    pub spec: Workload,
    /// Replicas as somebody set them by `weft scale`; beats the specification's target until the
    /// next apply that changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// Whether somebody stopped it: everything stays known, nothing runs.
    #[serde(default)]
    pub stopped: bool,
    /// Whether it is being deleted: the key goes when nothing of it is left.
    #[serde(default)]
    pub deleting: bool,
    /// Grows with every `weft restart`: units made before are replaced one after the other.
    #[serde(default)]
    pub restarts: u64,
    /// When it was first applied, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was changed last.
    pub changed_ms: u64,
}

/// How far the scheduler has come: `rollouts/<workload-id>`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Rollout {
    /// Version of the layout.
    pub v: u32,
    /// The revision that is being, or has been, rolled out.
    pub revision: u64,
    /// The `restarts` that is being, or has been, carried out.
    pub restarts: u64,
    /// How far that is.
    pub state: RolloutState,
    /// The last revision whose update completed, with its specification: what a rollback returns
    /// to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good: Option<GoodRevision>,
    /// Replicas by the autoscaler; none until it has decided once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaled: Option<u32>,
    /// When the autoscaler last changed that.
    #[serde(default)]
    pub scaled_ms: u64,
    /// While fewer replicas would do: since when, and how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub easing: Option<Easing>,
    /// The number of the next unit.
    pub next_unit: u32,
}

/// A load that fewer replicas could carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Easing {
    /// Since when without a break, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The most replicas that were asked for meanwhile.
    pub most: u32,
}

/// A revision that worked.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GoodRevision {
    /// Its number.
    pub revision: u64,
    /// What it was.
    pub spec: Workload,
}

/// How far an update is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is")]
pub enum RolloutState {
    /// Units of the revision take the place of older ones.
    Progressing {
        /// Since when.
        since_ms: u64,
        /// When the last unit became ready, or the update began.
        progress_ms: u64,
    },
    /// Every unit is of the revision and ready.
    Complete {
        /// Since when.
        at_ms: u64,
    },
    /// It made no progress within its deadline, or a unit failed for good.
    Failed {
        /// Since when.
        at_ms: u64,
        /// Why, as one of the reasons.
        reason: Reason,
        /// What happened, in a sentence.
        detail: String,
        /// Whether the last good revision takes its place.
        rolled_back: bool,
    },
}

/// Whether a unit is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// It is to run.
    Run,
    /// It is to end; its key goes when its node says that nothing of it is left.
    Stop,
}

/// A placement written down: `assignments/<workload-id>/<unit>`. Never changes but for its intent:
/// a unit that is to run elsewhere, or otherwise, is another unit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// Version of the layout.
    pub v: u32,
    /// Which unit.
    pub unit: UnitId,
    /// On which node.
    pub node: NodeId,
    /// Of which revision.
    pub revision: u64,
    /// Of which `restarts`.
    #[serde(default)]
    pub restarts: u64,
    /// Grows with each assignment of the workload; a greater one fences an exclusive unit of a
    /// smaller one.
    pub epoch: Epoch,
    /// What runs; without the parts that only the control plane needs.
    pub spec: Workload,
    /// Whether it is to run.
    pub intent: Intent,
    /// Why it is to end.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// When it was made.
    pub created_ms: u64,
    /// When its intent became [`Intent::Stop`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_ms: Option<u64>,
    /// Whether its volumes are to stay on the node when it goes: another unit takes them over.
    #[serde(default)]
    pub keep_volumes: bool,
    /// The decision: every candidate with what was thought of it, for `weft explain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<serde_json::Value>,
}

/// How a unit is, as its node reports it: `statuses/<workload-id>/<unit>`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Version of the layout.
    pub v: u32,
    /// Which unit.
    pub unit: UnitId,
    /// On which node.
    pub node: NodeId,
    /// Where it is in its life.
    pub state: WorkloadState,
    /// Whether it passes its health check, or runs and has none.
    pub ready: bool,
    /// Since when that has been so, in milliseconds since the Unix epoch by the node's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_since_ms: Option<u64>,
    /// Whether nothing of it is left on the node.
    #[serde(default)]
    pub gone: bool,
    /// Whether the node keeps its volumes although it is gone: they wait for the unit that takes them
    /// over, or for word that they are to go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// Which step failed or is under way: `prepare`, `start`, `run`, `health`, `stop`, `remove`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// Why it failed or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What the runtime says, or what is being done ("pulling 3 of 7 layers").
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The last lines of its output or console, after a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// The exit code of its last end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How often it was started again on this node.
    #[serde(default)]
    pub restarts: u32,
    /// Whether the node will not try again by itself: the unit has to be replaced.
    #[serde(default)]
    pub given_up: bool,
    /// When the node tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// Its address, when it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Digest of the image, commit of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Services of a Compose application, and their states.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, String>,
    /// When the state began, in milliseconds since the Unix epoch by the node's clock.
    pub since_ms: u64,
}

/// What failed and when it is tried again: `retries/<workload-id>`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Retry {
    /// Version of the layout.
    pub v: u32,
    /// Units that failed in a row.
    pub failures: u32,
    /// Why the last one failed.
    pub reason: Reason,
    /// What happened, in a sentence.
    pub detail: String,
    /// The node it failed on, if it got that far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// When the next unit is made, in milliseconds since the Unix epoch.
    pub next_ms: u64,
    /// When the last failure was.
    pub failed_ms: u64,
}

/// What a unit uses, as its node measured it over the last seconds. Not in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UnitLoad {
    /// CPU, in millicores.
    pub cpu_millicores: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Disk, in bytes.
    pub disk_bytes: u64,
    /// Bytes that came in since its start.
    pub rx_bytes: u64,
    /// Bytes that went out since its start.
    pub tx_bytes: u64,
    /// Requests in a thousand seconds: thousandths of requests per second.
    pub requests_per_1000s: u64,
}

impl WorkloadRecord {
    /// The key of a workload.
    pub fn key(namespace: &weft_types::Namespace, name: &str) -> String {
        format!("workloads/{namespace}/{name}")
    }
}

impl Rollout {
    /// Nothing rolled out yet.
    pub fn new(revision: u64, restarts: u64, now_ms: u64) -> Self {
        Self {
            v: RECORD_VERSION,
            revision,
            restarts,
            state: RolloutState::Progressing {
                since_ms: now_ms,
                progress_ms: now_ms,
            },
            good: None,
            scaled: None,
            scaled_ms: 0,
            easing: None,
            next_unit: 1,
        }
    }

    /// The key of a workload's rollout.
    pub fn key(workload: WorkloadId) -> String {
        format!("rollouts/{workload}")
    }
}

impl Assignment {
    /// The key of a unit's assignment. Numbers have leading zeros, so that keys sort by them.
    pub fn key(unit: UnitId) -> String {
        format!("assignments/{}/{:010}", unit.workload, unit.number)
    }
}

impl Assignment {
    /// The same unit, which is to stop. One that is to stop already keeps its first reason.
    #[must_use]
    pub fn stopping(&self, why: &str, now_ms: u64, keep_volumes: bool) -> Self {
        let mut stopping = self.clone();
        stopping.keep_volumes = keep_volumes;
        if self.intent == Intent::Run {
            stopping.intent = Intent::Stop;
            stopping.why = why.to_owned();
            stopping.stopping_ms = Some(now_ms);
        }
        stopping
    }
}

impl UnitStatus {
    /// The key of a unit's status.
    pub fn key(unit: UnitId) -> String {
        format!("statuses/{}/{:010}", unit.workload, unit.number)
    }

    /// Nothing is known yet.
    pub fn new(unit: UnitId, node: NodeId, state: WorkloadState, now_ms: u64) -> Self {
        Self {
            v: RECORD_VERSION,
            unit,
            node,
            state,
            ready: false,
            ready_since_ms: None,
            gone: false,
            kept: false,
            step: String::new(),
            reason: None,
            detail: String::new(),
            evidence: Vec::new(),
            exit_code: None,
            restarts: 0,
            given_up: false,
            next_try_ms: None,
            address: None,
            source: None,
            parts: BTreeMap::new(),
            since_ms: now_ms,
        }
    }
}

impl Retry {
    /// The key of a workload's retry.
    pub fn key(workload: WorkloadId) -> String {
        format!("retries/{workload}")
    }
}

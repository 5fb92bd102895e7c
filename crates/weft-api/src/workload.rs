//! Services, their units, and what is done with them from day to day.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{Reason, Workload, WorkloadState};

use crate::explain::ConsideredView;
use crate::job::WhyView;

/// A service as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkloadView {
    /// Its id, for its whole life.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How its units are run.
    pub runtime: String,
    /// Where it is in its life.
    pub state: WorkloadState,
    /// Why it waits or failed.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
    /// Which step of a unit failed: `prepare`, `start`, `run`, `health`, `stop`, `remove`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// When the next try is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<String>,
    /// Units that failed in a row.
    #[serde(default)]
    pub failures: u32,
    /// Grows with each change of what runs inside.
    pub revision: u64,
    /// How many replicas there are.
    pub replicas: ReplicasView,
    /// How far the last change is.
    pub rollout: RolloutView,
    /// Ports on the nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// When it was first applied.
    pub created_at: String,
    /// When it was changed last.
    pub changed_at: String,
    /// What is wanted; only when one service is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<Workload>,
    /// Addresses of its units that have one of their own; of many the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Its units.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<UnitView>,
}

/// How many replicas a service has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicasView {
    /// As many as there should be now.
    pub wanted: u32,
    /// As many as there are, in any state.
    pub existing: u32,
    /// Those that run.
    pub running: u32,
    /// Those that run and pass their health check.
    pub ready: u32,
    /// Those of the newest revision.
    pub updated: u32,
}

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RolloutView {
    /// How far.
    pub state: RolloutPhase,
    /// What happened, when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The last revision that worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub good_revision: Option<u64>,
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RolloutPhase {
    /// New units take the place of old ones.
    Progressing,
    /// Every unit is new and ready.
    Complete,
    /// It failed, and what was there stays.
    Failed,
    /// It failed, and the last revision that worked took its place.
    RolledBack,
}

impl RolloutPhase {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "progressing",
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
        }
    }
}

/// One instance of a service.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UnitView {
    /// Its id: that of the service, and its number.
    pub id: String,
    /// Its number.
    pub number: u32,
    /// The node it is on.
    pub node: String,
    /// The revision it runs.
    pub revision: u64,
    /// Where it is in its life.
    pub state: WorkloadState,
    /// Whether it passes its health check.
    pub ready: bool,
    /// Whether it is on its way out, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping: Option<String>,
    /// Why it waits or failed.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
    /// What is being done, or which step failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What is being done, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doing: Option<String>,
    /// The last lines of its output or console, after a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<String>,
    /// The exit code of its last end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How often it was started again on its node.
    pub restarts: u32,
    /// When the next try is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<String>,
    /// Its address, when it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Digest of the image, commit of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Services of a Compose application, and their states.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, String>,
    /// What it uses, as its node measured it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<UnitLoadView>,
    /// Since when it is in its state.
    pub since: String,
}

/// What a unit uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnitLoadView {
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
    /// Requests in a thousand seconds, over the last seconds.
    pub requests_per_1000s: u64,
}

/// What an apply did: the answer to `POST /v1/workloads`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    /// What became of it.
    pub outcome: ApplyOutcome,
    /// What differs from before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ChangeView>,
    /// The service as it is now.
    pub workload: WorkloadView,
}

/// What became of an apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ApplyOutcome {
    /// It is new.
    Created,
    /// It was there, and is otherwise now.
    Changed,
    /// It was there as it should be.
    Unchanged,
}

/// A field that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    /// Which, as in `container.image`.
    pub path: String,
    /// What it was; absent when it was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// What it becomes; absent when it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What an apply would do: the answer to `POST /v1/workloads?dry_run=true`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanView {
    /// What would become of it.
    pub outcome: ApplyOutcome,
    /// What differs from what is there.
    pub changes: Vec<ChangeView>,
    /// Whether units would be replaced one after the other.
    pub replaces_units: bool,
    /// Where its new units would go, as far as can be told now.
    pub placements: Vec<PlannedUnit>,
    /// What all of it costs, as in `$0.12/h`.
    pub price_per_hour: String,
    /// Why not all of it could run now.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
    /// The nearest change that would make all of it run now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest_change: Option<String>,
}

/// Where a unit would go.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlannedUnit {
    /// The node; absent when none would take it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Every candidate that was considered.
    pub considered: Vec<ConsideredView>,
}

/// A change from day to day: `PATCH /v1/workloads/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadPatch {
    /// This many replicas from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// `true`: a number that somebody set does not count any more: the load decides again, or the
    /// specification.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unscale: bool,
    /// `true`: nothing of it runs until somebody starts it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<bool>,
    /// `true`: every unit is replaced, one after the other.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restart: bool,
}

/// A line that a unit printed: a line of `GET /v1/logs/workloads/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnitLogView {
    /// The unit's number.
    pub unit: u32,
    /// The service of a Compose application.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub part: String,
    /// When.
    pub at: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// The line; bytes that are not UTF-8 are replaced.
    pub line: String,
}

/// How a command inside a unit ended: the JSON on channel 3 of
/// `GET /v1/workloads/{id}/exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecEnd {
    /// Its exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it could not be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What happened.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// The size of a terminal: the JSON on channel 4 of `GET /v1/workloads/{id}/exec`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// The first byte of each binary WebSocket message of an exec, after Kubernetes'
/// `v4.channel.k8s.io`.
pub mod exec_channel {
    /// To the command. An empty message ends it.
    pub const STDIN: u8 = 0;
    /// From the command, or from its terminal.
    pub const STDOUT: u8 = 1;
    /// From the command.
    pub const STDERR: u8 = 2;
    /// How it ended, as [`super::ExecEnd`]; the last message.
    pub const END: u8 = 3;
    /// The terminal's size, as [`super::TerminalSize`].
    pub const RESIZE: u8 = 4;
}

/// A secret as it is set: `PUT /v1/secrets/{name}`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRequest {
    /// Its values by key.
    pub values: BTreeMap<String, String>,
}

/// A secret as the API shows it: never its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretView {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The keys of its values.
    pub keys: Vec<String>,
    /// Grows with each change.
    pub version: u64,
    /// When it was changed last.
    pub changed_at: String,
}

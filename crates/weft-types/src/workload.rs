//! A workload as a user writes it: one schema for the workload file, the REST body and the CLI.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    BlobHash, ComposeSpec, ContainerSpec, Deadline, Money, Namespace, Program, Reason, Replicas,
    Resources, Scaling, TaskSpec, UpdateSpec, VmSpec, WorkloadName,
};

/// The most tasks one job may have.
pub const MAX_TASKS_PER_JOB: u64 = 10_000_000;
/// The most tasks a request body may list in `tasks`; more are streamed as NDJSON.
pub const MAX_INLINE_TASKS: usize = 100_000;
/// The most attempts a task may be given.
pub const MAX_ATTEMPTS: u32 = 1_000;

/// The most jobs that one may wait for.
pub const MAX_AFTER_JOBS: usize = 1_000;

/// To completion, or kept running.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Run {
    /// Runs to completion.
    #[default]
    Job,
    /// Kept running.
    Service,
}

/// How a unit of work is run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// A byte operation inside the agent.
    Op,
    /// A WebAssembly module with WASI.
    Wasm,
    /// A process in a sandbox.
    Process,
    /// A container.
    Container,
    /// A Compose application.
    Compose,
    /// A virtual machine.
    Vm,
}

impl RuntimeKind {
    /// The word of the contract.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Op => "op",
            Self::Wasm => "wasm",
            Self::Process => "process",
            Self::Container => "container",
            Self::Compose => "compose",
            Self::Vm => "vm",
        }
    }
}

impl std::fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How strongly a process is contained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// Own namespaces, limits, Landlock and seccomp.
    #[default]
    Full,
    /// None: the process may do what the agent's user may do.
    None,
}

/// A process to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Program and arguments; `{}` stands for the task's file, `{index}` for its number.
    pub command: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How strongly it is contained.
    #[serde(default)]
    pub sandbox: SandboxMode,
}

/// A WebAssembly program to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WasmSpec {
    /// Path of the module, which the CLI uploads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    /// The module as an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub blob: Option<BlobHash>,
    /// Arguments after the program's name; `{}` stands for the task's file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// Which tasks a job has, when they are not listed.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// Globs of files, one task a file; the CLI expands and uploads them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// This many tasks that differ by their index only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<u64>,
    /// The tasks one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskSpec>,
}

/// What the scheduler optimises for: presets of the weights of its score.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The least money.
    Cheapest,
    /// Money and time together.
    #[default]
    Balanced,
    /// The least time.
    Fastest,
    /// Fill one node before the next.
    Binpack,
    /// As evenly as possible.
    Spread,
}

/// Whether capacity that may be taken away is acceptable.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Interruptible {
    /// It may be used.
    #[default]
    Allow,
    /// It must not be used.
    Forbid,
    /// Nothing else must be used.
    Require,
}

/// What units are spread over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Nodes.
    Node,
    /// Values of the label `zone`.
    Zone,
}

/// Where work may and should run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PlacementSpec {
    /// What to optimise for.
    pub strategy: Strategy,
    /// Labels a node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Labels a node should have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prefer: BTreeMap<String, String>,
    /// Capabilities a node must have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Regions that are acceptable; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// Providers that are acceptable; all when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub providers: Vec<String>,
    /// Whether capacity that may be taken away is acceptable.
    pub interruptible: Interruptible,
    /// What to spread units over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// Services of the same namespace that must have a unit on the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub with: Vec<WorkloadName>,
    /// Services of the same namespace that must have no unit on the node, whichever comes first.
    /// With a service's own name in it, no node gets two of its units.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub apart: Vec<WorkloadName>,
}

/// When and how often a task that failed is tried again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// How many times a task is tried in all, 1 to [`MAX_ATTEMPTS`]. A node that is lost does
    /// not use up an attempt when `node-lost` is not in `on`: the task is always moved.
    pub attempts: u32,
    /// Wait before the second attempt; doubles for each further one.
    #[serde(with = "crate::serde_duration")]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "1s"))]
    pub backoff: Duration,
    /// The longest wait between attempts.
    #[serde(with = "crate::serde_duration")]
    #[cfg_attr(feature = "schema", schema(value_type = String, example = "1m"))]
    pub max_backoff: Duration,
    /// The reasons to try again for; every retryable reason when empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub on: Vec<Reason>,
}

impl Default for RetryPolicy {
    /// Three attempts, one second of first backoff, a minute at most.
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            on: Vec::new(),
        }
    }
}

impl RetryPolicy {
    /// Whether a failure for this reason is worth another attempt.
    pub fn retries(&self, reason: Reason) -> bool {
        if self.on.is_empty() {
            reason.is_retryable()
        } else {
            self.on.contains(&reason)
        }
    }
}

/// What happens when a budget is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnExceed {
    /// Only an alert.
    #[default]
    Alert,
    /// Nothing new starts.
    Block,
    /// What runs is stopped as well.
    Stop,
}

/// What work may cost.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BudgetSpec {
    /// Dollars an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "$0.50"))]
    pub per_hour: Option<Money>,
    /// Dollars in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "$10"))]
    pub total: Option<Money>,
    /// What happens when it is used up.
    pub on_exceed: OnExceed,
}

/// Anything a user asks Weft to run.
///
/// The workload file, the body of `POST /v1/jobs` and `weft run` all make one of these.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// `weft/v1`; may be left out in REST bodies.
    #[serde(
        rename = "apiVersion",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub api_version: Option<String>,
    /// Its name; made up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub name: Option<WorkloadName>,
    /// Its namespace.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub namespace: Namespace,
    /// To completion, or kept running.
    #[serde(default)]
    pub run: Run,
    /// How it is run.
    pub runtime: RuntimeKind,
    /// The program of an `op` workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Object>))]
    pub op: Option<Program>,
    /// The module of a `wasm` workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wasm: Option<WasmSpec>,
    /// The command of a `process` workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessSpec>,
    /// The container of a `container` workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Box<ContainerSpec>>,
    /// The application of a `compose` workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<Box<ComposeSpec>>,
    /// The machine of a `vm` workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<Box<VmSpec>>,
    /// How many replicas a service has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Replicas>,
    /// When the number of replicas follows the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Scaling>,
    /// How a new revision of a service takes the place of the old one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateSpec>,
    /// Which tasks it has: files or an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Inputs>,
    /// The tasks one by one; the short form of `inputs.tasks`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<TaskSpec>,
    /// What each task needs; a default by runtime when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Where it may and should run.
    #[serde(default)]
    pub placement: PlacementSpec,
    /// When and how often a failed task is tried again.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// The time limit of each attempt of a task; none when absent.
    #[serde(
        default,
        with = "crate::serde_duration_opt",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "5m"))]
    pub timeout: Option<Duration>,
    /// Jobs that must succeed before it begins, by id, unique prefix of one, or name in the
    /// namespace (the newest of that name). When one of them does not, this one is cancelled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// When the whole job must have ended: a span from the submission, or a time in RFC 3339.
    /// What is left of it then is cancelled with the reason `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "30m"))]
    pub deadline: Option<Deadline>,
    /// Whether a task that runs far longer than its siblings is started a second time on another
    /// node; the first result counts. Only for tasks that may run twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub speculate: bool,
    /// Larger runs first, -100 to 100.
    #[serde(default)]
    pub priority: i32,
    /// Whether it must never run in two places.
    #[serde(default)]
    pub exclusive: bool,
    /// How long a unit of a service may take to end after it was asked to, until it is killed; 10
    /// seconds when absent, 30 for a machine.
    #[serde(
        default,
        with = "crate::serde_duration_opt",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "30s"))]
    pub stop_grace: Option<Duration>,
    /// What it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetSpec>,
}

impl Workload {
    /// A job of this kind with nothing in it yet.
    pub fn new(runtime: RuntimeKind) -> Self {
        Self {
            api_version: None,
            name: None,
            namespace: Namespace::default(),
            run: Run::Job,
            runtime,
            op: None,
            wasm: None,
            process: None,
            container: None,
            compose: None,
            vm: None,
            replicas: None,
            scaling: None,
            update: None,
            inputs: None,
            tasks: Vec::new(),
            resources: None,
            placement: PlacementSpec::default(),
            retry: RetryPolicy::default(),
            timeout: None,
            after: Vec::new(),
            deadline: None,
            speculate: false,
            priority: 0,
            exclusive: false,
            stop_grace: None,
            budget: None,
        }
    }

    /// How long a unit may take to end after it was asked to: as written, or the default of the
    /// runtime.
    pub fn stop_grace(&self) -> Duration {
        self.stop_grace.unwrap_or(match self.runtime {
            // It has a system to shut down.
            RuntimeKind::Vm => Duration::from_secs(30),
            _ => Duration::from_secs(10),
        })
    }

    /// What each task needs: as written, or the default of the runtime.
    pub fn resources(&self) -> Resources {
        match (&self.resources, self.runtime) {
            (Some(resources), _) => resources.clone(),
            (None, RuntimeKind::Op) => Resources::for_op(),
            (None, _) => Resources::default(),
        }
    }
}

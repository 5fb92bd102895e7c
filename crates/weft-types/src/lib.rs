//! The words of Weft as types: identifiers, units, reasons, states and workload specifications.
//!
//! Past the edge of the system a value is right by its type: a [`Workload`] has been parsed and
//! checked, a [`NodeId`] is well-formed, money and sizes are integers in named units.
//!
//! Architecture invariant: this crate does no I/O, reads no clock and draws no random numbers; it
//! knows neither the REST shapes (`weft-api`) nor the wire messages (`weft-proto`).

mod deadline;
mod graph;
mod hash;
mod id;
mod parse;
mod reason;
mod resources;
mod service;
mod state;
mod task;
mod time;
mod units;
mod workload;

pub use deadline::Deadline;
pub use graph::{MAX_TASK_DEPENDENCIES, TaskGraph, TaskGraphBuilder};
pub use hash::BlobHash;
pub use id::{JobId, MAX_NAME_BYTES, Namespace, NodeId, UnitId, WorkloadId, WorkloadName};
pub use parse::{
    FieldError, MAX_WORKLOAD_FILE_BYTES, SourceFormat, parse_json, parse_toml, parse_workload,
};
pub use reason::{Class, Failure, Reason};
pub use resources::{GpuRequest, NodeCapacity, Resources};
pub use service::{
    AccessMode, CloudInit, ComposeSource, ComposeSpec, ContainerSpec, DiskSpec, EnvFrom, GitSource,
    HealthCheck, HealthProbe, HttpProbe, ImageFormat, Login, MAX_REPLICAS, NetworkMode,
    NetworkSpec, Percent, PortSpec, Protocol, PullPolicy, Replicas, RestartPolicy, RestartWhen,
    Retain, Scaling, UpdateSpec, VmImage, VmNetworkMode, VmSpec, VolumeClass, VolumeSpec,
};
pub use state::{JobState, NodeState, NodeValidity, TaskState, WorkloadState};
pub use task::{MAX_INLINE_DATA_BYTES, TaskCounts, TaskInput, TaskSpec};
pub use time::{
    Timestamp, format_duration, parse_duration, parse_rfc3339, rfc3339, serde_duration,
    serde_duration_opt,
};
pub use units::{Bytes, Millicores, Money, ParseUnitError};
pub use weft_ops::Program;
pub use workload::{
    BudgetSpec, Inputs, Interruptible, MAX_AFTER_JOBS, MAX_ATTEMPTS, MAX_INLINE_TASKS,
    MAX_TASKS_PER_JOB, OnExceed, PlacementSpec, ProcessSpec, RetryPolicy, Run, RuntimeKind,
    SandboxMode, Spread, Strategy, WasmSpec, Workload,
};

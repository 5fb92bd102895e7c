//! Shapes of REST requests and responses and of WebSocket messages, shared by the server, the client and the CLI.
//!
//! Shapes only: nothing here decides or does anything. Times are RFC 3339 in UTC, money is a
//! decimal string with its currency, sizes are Kubernetes quantities. A field that is absent
//! is left out rather than null.

mod admin;
mod dead;
mod event;
mod explain;
mod job;
mod node;
mod problem;
mod token;
mod workload;
mod ws;

pub use admin::{AdminFile, Health, VersionView};
pub use dead::{AttemptView, Changed, DeadLetterView, RequeueRequest, TaskHistoryView};
pub use event::EventView;
pub use explain::{ConsideredView, ExplainView, ScoreTermView};
pub use job::{
    JobView, LogLine, MAX_BODY_BYTES, OutputFileView, ResultView, TaskView, Text, UploadedView,
    WhyView,
};
pub use node::{BreakerState, CertificateView, NodePatch, NodeView, UsageView};
pub use problem::{PROBLEM_CONTENT_TYPE, Problem, ProblemField};
pub use token::{TokenCreated, TokenRequest, TokenView};
pub use weft_types::{parse_rfc3339, rfc3339};
pub use workload::{
    Applied, ApplyOutcome, ChangeView, ExecEnd, PlanView, PlannedUnit, ReplicasView, RolloutPhase,
    RolloutView, SecretRequest, SecretView, TerminalSize, UnitLoadView, UnitLogView, UnitView,
    WorkloadPatch, WorkloadView, exec_channel,
};
pub use ws::{
    MAX_WS_ID_BYTES, MAX_WS_SEEN_RANGES, WsAnswer, WsCall, WsKind, WsMessage, WsRefused, WsRequest,
    WsRequestFields, WsResults,
};

/// The content type of a stream of JSON values, one a line.
pub const NDJSON_CONTENT_TYPE: &str = "application/x-ndjson";

/// One page of a list.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The entries of this page.
    pub items: Vec<T>,
    /// Pass it as `cursor` to get the next page; null on the last one.
    pub next: Option<String>,
}

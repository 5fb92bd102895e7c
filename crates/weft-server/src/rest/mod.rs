//! The northbound interface: REST and JSON under `/v1`.
//!
//! Handlers parse, ask one part of the server and answer; they decide nothing. Every refusal is
//! a problem document ([`problem::ApiError`]).

pub(crate) mod access;
mod after;
mod blobs;
mod dead;
pub(crate) mod events;
pub(crate) mod explain;
mod health;
mod hooks;
pub(crate) mod jobs;
mod logs;
pub(crate) mod nodes;
mod openapi;
pub(crate) mod page;
pub(crate) mod pausing;
pub(crate) mod problem;
pub(crate) mod results;
mod scheduler;
mod secrets;
mod sent;
pub(crate) mod stream;
pub(crate) mod submit;
mod tokens;
pub(crate) mod unit_streams;
pub(crate) mod workloads;

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use tower_http::catch_panic::CatchPanicLayer;
use weft_api::{MAX_BODY_BYTES, Problem};
use weft_types::Reason;

use crate::state::Server;
use crate::ws;

pub use openapi::openapi_json;
use problem::ApiError;
pub(crate) use results::views;
pub(crate) use submit::{submission, whole_job};

/// What every handler gets.
type App = axum::extract::State<Arc<Server>>;

/// All routes of the interface.
pub fn router(server: Arc<Server>) -> Router {
    let open = Router::new()
        .route("/health", get(health::health))
        .route("/healthz", get(health::health))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::openapi))
        .route("/v1/hooks/{namespace}/{name}", post(hooks::receive));
    let guarded = Router::new()
        .route("/v1/jobs", get(jobs::list).post(submit::submit))
        .route("/v1/jobs/{id}", get(jobs::show).delete(jobs::remove))
        .route("/v1/jobs/{id}/tasks", get(jobs::tasks))
        .route("/v1/jobs/{id}/tasks/{task}", get(jobs::task))
        .route("/v1/jobs/{id}/results", get(results::stream))
        .route("/v1/jobs/{id}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{id}/retry", post(jobs::retry))
        .route("/v1/jobs/{id}/explain", get(explain::explain))
        .route("/v1/results/{id}", get(results::page))
        .route("/v1/logs/jobs/{id}", get(logs::logs))
        .route("/v1/workloads", get(workloads::list).post(workloads::post))
        .route(
            "/v1/workloads/{id}",
            get(workloads::show)
                .patch(workloads::change)
                .delete(workloads::remove),
        )
        .route("/v1/workloads/{id}/explain", get(workloads::explained))
        .route("/v1/workloads/{id}/pause", post(pausing::pause))
        .route("/v1/workloads/{id}/resume", post(pausing::resume))
        .route("/v1/workloads/{id}/exec", get(unit_streams::exec))
        .route(
            "/v1/workloads/{id}/port-forward",
            get(unit_streams::port_forward),
        )
        .route("/v1/logs/workloads/{id}", get(unit_streams::output))
        .route("/v1/secrets", get(secrets::list))
        .route(
            "/v1/secrets/{name}",
            get(secrets::show).put(secrets::put).delete(secrets::remove),
        )
        .route("/v1/dlq", get(dead::list))
        .route("/v1/dlq/requeue", post(dead::requeue))
        .route("/v1/dlq/{job}", delete(dead::drop_job))
        .route(
            "/v1/dlq/{job}/{task}",
            get(dead::show).delete(dead::drop_task),
        )
        .route("/v1/nodes", get(nodes::list))
        .route(
            "/v1/nodes/{id}",
            get(nodes::show).patch(nodes::change).delete(nodes::remove),
        )
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::remove))
        .route("/v1/scheduler/schedule", post(scheduler::schedule))
        .route("/v1/scheduler/status", get(scheduler::status))
        .route("/v1/events", get(events::events))
        .route("/v1/version", get(health::version))
        .route("/v1/ws", get(ws::open))
        .route("/v1/blobs/{hash}", get(blobs::get).put(blobs::put))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            access::require_admin,
        ));
    open.merge(guarded)
        .fallback(|| async {
            ApiError::from(
                Problem::new(
                    404,
                    "no-such-path",
                    Reason::InvalidSpec,
                    "there is nothing at this path",
                )
                .with_next("GET /openapi.json lists the paths"),
            )
        })
        .method_not_allowed_fallback(|| async {
            ApiError::from(
                Problem::new(
                    405,
                    "method-not-allowed",
                    Reason::InvalidSpec,
                    "this path does not take this method",
                )
                .with_next("GET /openapi.json lists what it takes"),
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(server)
}

/// A defect must not take the connection, let alone the server, with it.
fn panicked(_: Box<dyn std::any::Any + Send>) -> axum::response::Response {
    use axum::response::IntoResponse;
    ApiError::from(Problem::new(
        500,
        "internal",
        Reason::Internal,
        "the server made a mistake; its log has more",
    ))
    .into_response()
}

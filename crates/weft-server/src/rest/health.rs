//! Liveness, readiness, metrics, versions.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use weft_api::{Health, Problem, VersionView};
use weft_types::Reason;

use super::App;
use super::problem::ApiError;
use crate::state::Server;

fn view(server: &Server) -> Health {
    Health {
        status: "ok".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: server.authority.cluster().to_string(),
    }
}

/// `GET /health`, `GET /healthz`: whether the server lives.
pub async fn health(State(server): App) -> Json<Health> {
    Json(view(&server))
}

/// `GET /readyz`: whether the dispatcher answers.
pub async fn ready(State(server): App) -> Result<Json<Health>, ApiError> {
    match server.dispatcher.ask(|shell| shell.connected()).await {
        Ok(_) => Ok(Json(view(&server))),
        Err(error) => {
            Err(Problem::new(503, "not-ready", Reason::Internal, error.to_string()).into())
        }
    }
}

/// `GET /metrics`: OpenMetrics.
pub async fn metrics(State(server): App) -> Result<impl IntoResponse, ApiError> {
    let gauges = server.dispatcher.ask(|shell| shell.gauges()).await?;
    let mut nodes = server.nodes.views(&server.liveness);
    server.metrics.activity.fill(&mut nodes);
    let metrics = &server.metrics.services;
    server
        .services
        .workloads
        .read(|tables| metrics.count(tables));
    let text = server.metrics.encode(&gauges, &nodes)?;
    Ok((
        [(
            header::CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    ))
}

/// `GET /v1/version`: versions of the server and its nodes.
pub async fn version(State(server): App) -> Json<VersionView> {
    let mut nodes = BTreeMap::new();
    for node in server.nodes.all() {
        *nodes.entry(node.version).or_insert(0) += 1;
    }
    Json(VersionView {
        client: String::new(),
        server: Some(env!("CARGO_PKG_VERSION").to_owned()),
        nodes,
    })
}

//! The scheduler: a dry run with reasons, and its status.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use serde_json::{Value, json};
use weft_api::ExplainView;
use weft_types::{Workload, parse_json};

use super::problem::ApiError;
use super::submit::submission;
use super::{App, explain};

/// `POST /v1/scheduler/schedule`: where a task of this workload would go now; nothing is started.
pub async fn schedule(State(server): App, body: Bytes) -> Result<Json<ExplainView>, ApiError> {
    let workload: Workload = parse_json(&body)?;
    workload.check()?;
    let request = submission(&workload, 1, server.clock.wall()).request;
    let explanation = server
        .dispatcher
        .ask(move |shell| shell.machine().index().explain_request(&request))
        .await?;
    Ok(Json(ExplainView {
        id: String::new(),
        state: if explanation.chosen.is_some() {
            "possible"
        } else {
            "waiting"
        }
        .to_owned(),
        summary: explanation.to_string(),
        why: None,
        considered: explain::considered(&explanation),
        nearest_change: explanation.nearest.as_ref().map(ToString::to_string),
    }))
}

/// `GET /v1/scheduler/status`.
pub async fn status(State(server): App) -> Result<Json<Value>, ApiError> {
    let gauges = server.dispatcher.ask(|shell| shell.gauges()).await?;
    let queued: serde_json::Map<String, Value> = gauges
        .counts
        .into_iter()
        .filter(|(_, counts)| counts.queued > 0)
        .map(|(namespace, counts)| (namespace, counts.queued.into()))
        .collect();
    Ok(Json(json!({
        "jobs": gauges.jobs, "tasks": gauges.tasks, "sessions": gauges.sessions, "queued": queued,
        "dead": gauges.dead,
    })))
}

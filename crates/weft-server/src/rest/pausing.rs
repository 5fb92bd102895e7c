//! Units that are to stand still, or to go on.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use futures::StreamExt;
use serde::Deserialize;
use weft_api::{Problem, WorkloadView};
use weft_core::service::record::{Assignment, Intent};
use weft_proto::v1::open_tunnel::What;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::{Namespace, Reason};

use super::App;
use super::page::Params;
use super::problem::ApiError;
use crate::services::find;
use crate::services::tunnels::failure;
use crate::services::view::{Detail, view};
use crate::state::Server;

/// How many units are told at once.
const MAX_AT_ONCE: usize = 16;
/// How long a node may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Which units.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseParams {
    namespace: Option<String>,
    unit: Option<String>,
}

/// `POST /v1/workloads/{id}/pause`: units stand still until they are resumed.
pub async fn pause(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<PauseParams>,
) -> Result<Json<WorkloadView>, ApiError> {
    let namespace = find::namespace(params.namespace.as_deref())?;
    let paused = set_paused(&server, &id, &namespace, params.unit.as_deref(), true);
    paused.await.map(Json)
}

/// `POST /v1/workloads/{id}/resume`: units that stand still go on.
pub async fn resume(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<PauseParams>,
) -> Result<Json<WorkloadView>, ApiError> {
    let namespace = find::namespace(params.namespace.as_deref())?;
    let resumed = set_paused(&server, &id, &namespace, params.unit.as_deref(), false);
    resumed.await.map(Json)
}

/// Has one unit of a service, or each that is to run, stand still or go on.
///
/// # Errors
/// When there is no such unit, or one of them does not run; the others are as asked.
pub(crate) async fn set_paused(
    server: &Server,
    id: &str,
    namespace: &Namespace,
    unit: Option<&str>,
    is_paused: bool,
) -> Result<WorkloadView, ApiError> {
    let service = find::service(server, id, namespace)?;
    // Without a unit: that there is one at all.
    let one = find::unit(&service, unit)?.value;
    let is_meant = |assignment: &Assignment| match unit {
        Some(_) => assignment.unit == one.unit,
        None => assignment.intent == Intent::Run,
    };
    let mut calls = Vec::new();
    for (kept, _) in service
        .units
        .iter()
        .filter(|(kept, _)| is_meant(&kept.value))
    {
        calls.push(tell(server, &kept.value, is_paused));
    }
    // All of them are told, whatever becomes of one.
    let told = futures::stream::iter(calls).buffer_unordered(MAX_AT_ONCE);
    let told: Vec<Result<(), ApiError>> = told.collect().await;
    told.into_iter().collect::<Result<(), _>>()?;
    Ok(view(server, &service, Detail::Full))
}

async fn tell(server: &Server, assignment: &Assignment, is_paused: bool) -> Result<(), ApiError> {
    let tunnels = &server.services.tunnels;
    let asked = tunnels.open(server, assignment, What::Paused(is_paused));
    let mut tunnel = asked.await?;
    let failed = |reason, detail| {
        // What is not looked at yet may be told in a moment, as if its node were away.
        let status = if reason == Reason::RuntimeUnavailable {
            503
        } else {
            409
        };
        ApiError::from(Problem::new(status, "not-paused", reason, detail))
    };
    match tokio::time::timeout(TIMEOUT, tunnel.reader.next()).await {
        Ok(Some(Frame::Exit(_))) => Ok(()),
        Ok(Some(Frame::Error(error))) => {
            let (reason, detail) = failure(&error);
            Err(failed(reason, detail))
        }
        Ok(_) | Err(_) => {
            let (unit, node) = (assignment.unit, &assignment.node);
            let detail = format!("node {node} did not say what became of {unit}; ask again");
            Err(failed(Reason::NetworkError, detail))
        }
    }
}

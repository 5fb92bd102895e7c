//! Nodes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use weft_api::{NodePatch, NodeView, Page};
use weft_types::{FieldError, NodeId, parse_json};

use super::App;
use super::page::{PageParams, Params};
use super::problem::ApiError;
use crate::Error;
use crate::state::Server;

/// `GET /v1/nodes`.
pub async fn list(State(server): App, Params(params): Params<PageParams>) -> Json<Page<NodeView>> {
    Json(page(&server, &params))
}

/// A page of nodes, by id.
pub(crate) fn page(server: &Server, params: &PageParams) -> Page<NodeView> {
    let after = params.cursor.clone().unwrap_or_default();
    let mut items: Vec<NodeView> = server
        .nodes
        .views(&server.liveness)
        .into_iter()
        .filter(|node| node.id > after)
        .collect();
    let more = items.len() > params.limit();
    items.truncate(params.limit());
    server.metrics.activity.fill(&mut items);
    let next = items.last().filter(|_| more).map(|node| node.id.clone());
    Page { items, next }
}

/// `GET /v1/nodes/{id}`.
pub async fn show(State(server): App, Path(id): Path<String>) -> Result<Json<NodeView>, ApiError> {
    let node = server.nodes.resolve(&id)?;
    view(&server, &node)
}

/// `PATCH /v1/nodes/{id}`: cordons, drains, reopens or approves.
pub async fn change(
    State(server): App,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<NodeView>, ApiError> {
    let patch: NodePatch = parse_json(&body)?;
    let node = server.nodes.resolve(&id)?;
    if let Some(code) = &patch.approve {
        server.nodes.approve(&node, code)?;
    }
    if patch.cordoned.is_some() || patch.draining.is_some() {
        let record = server
            .nodes
            .all()
            .into_iter()
            .find(|record| record.id == node);
        let (was_cordoned, was_draining) =
            record.map_or((false, false), |record| (record.cordoned, record.draining));
        let cordoned = patch.cordoned.unwrap_or(was_cordoned);
        let draining = patch.draining.unwrap_or(was_draining);
        server
            .nodes
            .set_mode(&server.liveness, &node, cordoned, draining)
            .await?;
    } else if patch.approve.is_none() {
        return Err(FieldError::new(
            "",
            "nothing to change; give `cordoned`, `draining` or `approve`",
        )
        .into());
    }
    view(&server, &node)
}

/// `DELETE /v1/nodes/{id}`: removes a node for good.
pub async fn remove(State(server): App, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let node = server.nodes.resolve(&id)?;
    server.nodes.remove(&server.liveness, &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn view(server: &Server, node: &NodeId) -> Result<Json<NodeView>, ApiError> {
    let mut view = server.nodes.view(&server.liveness, node);
    server.metrics.activity.fill(&mut view);
    view.map(Json).ok_or_else(|| {
        Error::NotFound {
            what: "node",
            id: node.to_string(),
        }
        .into()
    })
}

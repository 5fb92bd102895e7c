//! Services: apply, show, change, delete, explain.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use weft_api::{
    Applied, ApplyOutcome, ExplainView, Page, RolloutPhase, WorkloadPatch, WorkloadView,
};
use weft_placement::Explanation;
use weft_types::{FieldError, Namespace, Workload, WorkloadState, parse_json};

use super::page::{Params, page_limit, wait};
use super::problem::ApiError;
use super::{App, explain};
use crate::services::cache::Service;
use crate::services::view::{Detail, view};
use crate::services::{apply, change, find, plan};
use crate::state::Server;

/// Parameters of an apply.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplyParams {
    dry_run: Option<bool>,
}

/// Which services.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// How many.
    pub limit: Option<usize>,
    /// The `next` of the page before.
    pub cursor: Option<String>,
    /// Only those of a namespace.
    pub namespace: Option<String>,
    /// Only those in a state.
    pub state: Option<WorkloadState>,
}

/// Which service, and how long to wait for what.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShowParams {
    /// Where a name is looked up.
    pub namespace: Option<String>,
    /// How long.
    pub wait: Option<String>,
    /// For what.
    pub r#for: Option<Condition>,
}

/// What a request may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// As many replicas as wanted run.
    Running,
    /// The last change is rolled out and as many replicas as wanted are ready, or it has failed.
    Healthy,
    /// Nothing of it is left.
    Gone,
}

/// `POST /v1/workloads`: applies a service, or tells what that would do.
pub async fn post(
    State(server): App,
    Params(params): Params<ApplyParams>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let if_match = revision(&headers)?;
    let spec: Workload = parse_json(&body)?;
    if params.dry_run.unwrap_or(false) {
        return Ok(Json(plan::dry_run(&server, spec, if_match).await?).into_response());
    }
    let applied = applied(&server, spec, if_match).await?;
    let status = match applied.outcome {
        ApplyOutcome::Created => StatusCode::CREATED,
        ApplyOutcome::Changed | ApplyOutcome::Unchanged => StatusCode::OK,
    };
    let location = format!("/v1/workloads/{}", applied.workload.id);
    let headers = [
        (header::LOCATION, location),
        (header::ETAG, etag(applied.workload.revision)),
    ];
    Ok((status, headers, Json(applied)).into_response())
}

/// Applies a service.
pub(crate) async fn applied(
    server: &Server,
    spec: Workload,
    if_match: Option<u64>,
) -> Result<Applied, ApiError> {
    let spec = apply::checked(server, spec)?;
    let draft = apply::apply(server, spec, if_match).await?;
    let id = draft.record.id.to_string();
    let service = find::service(server, &id, &draft.record.spec.namespace)?;
    Ok(Applied {
        outcome: draft.outcome,
        changes: draft.changes,
        workload: view(server, &service, Detail::Full),
    })
}

/// `GET /v1/workloads`: by namespace and name.
pub async fn list(
    State(server): App,
    Params(params): Params<ListParams>,
) -> Result<Json<Page<WorkloadView>>, ApiError> {
    page(&server, &params).map(Json)
}

/// A page of services, by namespace and name.
pub(crate) fn page(server: &Server, params: &ListParams) -> Result<Page<WorkloadView>, ApiError> {
    let namespace = params.namespace.as_deref().filter(|text| !text.is_empty());
    let namespace = namespace
        .map(|text| find::namespace(Some(text)))
        .transpose()?;
    let limit = page_limit(params.limit);
    let mut after = params.cursor.clone().unwrap_or_default();
    let mut items = Vec::new();
    let mut next = None;
    // A service at a time, so that the lock is never held for long.
    loop {
        let found = server.services.workloads.read(|tables| {
            let mut rest = tables.workloads_after(&after);
            let (key, kept) = rest.find(|(_, kept)| {
                let theirs = &kept.value.spec.namespace;
                namespace.as_ref().is_none_or(|wanted| wanted == theirs)
            })?;
            Some((key.clone(), tables.service(kept.value.id)?))
        });
        let Some((key, service)) = found else {
            break;
        };
        if items.len() == limit {
            next = Some(after);
            break;
        }
        let row = view(server, &service, Detail::Row);
        if params.state.is_none_or(|wanted| wanted == row.state) {
            items.push(row);
        }
        after = key;
    }
    Ok(Page { items, next })
}

/// `GET /v1/workloads/{id}`: with `wait`, once it is as wanted or the wait is over.
pub async fn show(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<ShowParams>,
) -> Result<Response, ApiError> {
    let shown = shown(&server, &id, &params).await?;
    let revision = shown.revision;
    Ok(([(header::ETAG, etag(revision))], Json(shown)).into_response())
}

/// A service, once it is as wanted or the wait is over.
pub(crate) async fn shown(
    server: &Server,
    id: &str,
    params: &ShowParams,
) -> Result<WorkloadView, ApiError> {
    let namespace = find::namespace(params.namespace.as_deref())?;
    let found = find::service(server, id, &namespace)?;
    let wait = wait(params.wait.as_deref())?;
    let condition = params.r#for.unwrap_or(Condition::Healthy);
    let last = waited(server, &found, condition, wait).await;
    Ok(last.unwrap_or_else(|gone| gone))
}

/// A service as it is once a condition holds or the wait is over; as an error, how it was last
/// when it is gone.
async fn waited(
    server: &Server,
    service: &Service,
    condition: Condition,
    wait: Duration,
) -> Result<WorkloadView, WorkloadView> {
    let id = service.record.value.id;
    let mut news = server.services.workloads.subscribe();
    let deadline = tokio::time::Instant::now() + wait;
    let mut last = view(server, service, Detail::Full);
    loop {
        news.mark_unchanged();
        match server.services.workloads.read(|tables| tables.service(id)) {
            Some(service) => last = view(server, &service, Detail::Full),
            None => return Err(last),
        }
        if wait.is_zero() || holds(&last, condition) {
            return Ok(last);
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return Ok(last) },
            () = tokio::time::sleep_until(deadline) => return Ok(last),
            () = server.stopping.cancelled() => return Ok(last),
        }
    }
}

fn holds(view: &WorkloadView, condition: Condition) -> bool {
    let replicas = &view.replicas;
    match condition {
        Condition::Running => replicas.running >= replicas.wanted,
        Condition::Healthy => match view.rollout.state {
            RolloutPhase::Complete => {
                replicas.ready >= replicas.wanted && replicas.existing == replicas.wanted
            }
            RolloutPhase::Failed | RolloutPhase::RolledBack => true,
            RolloutPhase::Progressing => false,
        },
        Condition::Gone => false,
    }
}

/// `PATCH /v1/workloads/{id}`: scales, stops, starts again or restarts.
pub async fn change(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<ShowParams>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<WorkloadView>, ApiError> {
    let patch: WorkloadPatch = parse_json(&body)?;
    let namespace = find::namespace(params.namespace.as_deref())?;
    let if_match = revision(&headers)?;
    patched(&server, &id, &namespace, &patch, if_match)
        .await
        .map(Json)
}

/// Changes a service.
pub(crate) async fn patched(
    server: &Server,
    id: &str,
    namespace: &Namespace,
    patch: &WorkloadPatch,
    if_match: Option<u64>,
) -> Result<WorkloadView, ApiError> {
    let found = find::service(server, id, namespace)?;
    let record = change::patch(server, &find::key(&found), patch, if_match).await?;
    let changed = find::service(server, &record.id.to_string(), namespace)?;
    Ok(view(server, &changed, Detail::Full))
}

/// `DELETE /v1/workloads/{id}`: has everything of it removed; 200 when nothing is left within
/// `wait`, else 202.
pub async fn remove(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<ShowParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let namespace = find::namespace(params.namespace.as_deref())?;
    let wait = wait(params.wait.as_deref())?;
    let if_match = revision(&headers)?;
    let (view, gone) = deleted(&server, &id, &namespace, if_match, wait).await?;
    let status = if gone {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    Ok((status, Json(view)).into_response())
}

/// Deletes a service; tells how it was last, and whether nothing of it is left.
pub(crate) async fn deleted(
    server: &Server,
    id: &str,
    namespace: &Namespace,
    if_match: Option<u64>,
    wait: Duration,
) -> Result<(WorkloadView, bool), ApiError> {
    let found = find::service(server, id, namespace)?;
    change::delete(server, &find::key(&found), if_match).await?;
    Ok(match waited(server, &found, Condition::Gone, wait).await {
        Ok(view) => (view, false),
        Err(view) => (view, true),
    })
}

/// `GET /v1/workloads/{id}/explain`: the decision about every unit, or why nothing can run.
pub async fn explained(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<ShowParams>,
) -> Result<Json<ExplainView>, ApiError> {
    let namespace = find::namespace(params.namespace.as_deref())?;
    explanation(&server, &id, &namespace).map(Json)
}

/// The decision about every unit of a service, or why nothing can run.
pub(crate) fn explanation(
    server: &Server,
    id: &str,
    namespace: &Namespace,
) -> Result<ExplainView, ApiError> {
    let service = find::service(server, id, namespace)?;
    let view = view(server, &service, Detail::Full);
    let summary = server.services.summaries.of(service.record.value.id);
    let waiting = summary.and_then(|summary| summary.waiting);
    let mut considered = Vec::new();
    if let Some(waiting) = &waiting {
        considered.extend(explain::considered(&waiting.explanation));
    }
    let mut sentences: Vec<String> = Vec::new();
    for (assignment, _) in &service.units {
        let assignment = &assignment.value;
        let unit = format!("unit {} on {}", assignment.unit.number, assignment.node);
        sentences.push(if assignment.why.is_empty() {
            unit
        } else {
            format!("{unit} ({})", assignment.why)
        });
        let recorded = assignment.explanation.clone();
        let recorded = recorded.and_then(|json| serde_json::from_value::<Explanation>(json).ok());
        considered.extend(recorded.iter().flat_map(explain::considered));
    }
    if let Some(why) = &view.why {
        sentences.push(why.detail.clone());
    }
    let replicas = view.replicas;
    let counts = format!(
        "{} of {} replicas ready, {} running",
        replicas.ready, replicas.wanted, replicas.running
    );
    sentences.insert(0, counts);
    Ok(ExplainView {
        id: view.id,
        state: view.state.to_string(),
        summary: sentences.join("; "),
        why: view.why,
        considered,
        nearest_change: waiting
            .and_then(|waiting| waiting.nearest)
            .map(|nearest| nearest.to_string()),
    })
}

fn etag(revision: u64) -> String {
    format!("\"{revision}\"")
}

/// The revision of `If-Match`.
fn revision(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
    let revision = text.parse().map_err(|_| {
        FieldError::new(
            "if-match",
            "not a revision: write the `revision` that was read, as in \"3\"",
        )
    })?;
    Ok(Some(revision))
}

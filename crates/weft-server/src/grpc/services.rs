//! Services over gRPC: messages in, the functions of REST, messages out.

use std::sync::Arc;

use futures::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use weft_api::{ChangeView, ConsideredView, UnitLogView, UnitView, WorkloadPatch, WorkloadView};
use weft_proto::api;
use weft_types::{FieldError, Workload, parse_json};

use super::convert::{why, word};
use super::unit_streams::Answers;
use crate::rest::pausing::set_paused;
use crate::rest::problem::ApiError;
use crate::rest::unit_streams::since_ms;
use crate::rest::workloads::{
    Condition, ListParams, ShowParams, applied, deleted, explanation, page, patched, shown,
};
use crate::services::{find, logs, plan};
use crate::state::Server;

/// What was given; nothing when it is empty.
pub(super) fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Applies a service.
pub async fn apply(
    server: &Server,
    request: api::ApplyRequest,
) -> Result<api::ApplyResponse, ApiError> {
    let applied = applied(server, specification(&request)?, request.revision)
        .await
        .map_err(|error| error.within("workload"))?;
    Ok(api::ApplyResponse {
        outcome: word(&applied.outcome),
        changes: changes(applied.changes),
        workload: Some(service(applied.workload)),
    })
}

fn specification(request: &api::ApplyRequest) -> Result<Workload, FieldError> {
    parse_json(request.workload.as_bytes()).map_err(|error: FieldError| error.within("workload"))
}

fn changes(changes: Vec<ChangeView>) -> Vec<api::Change> {
    let changes = changes.into_iter().map(|change| api::Change {
        path: change.path,
        from: change.from,
        to: change.to,
    });
    changes.collect()
}

/// What applying a service would do.
pub async fn planned(
    server: &Server,
    request: api::ApplyRequest,
) -> Result<api::PlanWorkloadResponse, ApiError> {
    let plan = plan::dry_run(server, specification(&request)?, request.revision)
        .await
        .map_err(|error| error.within("workload"))?;
    let placements = plan.placements.into_iter().map(|unit| api::PlannedUnit {
        node: unit.node,
        considered: considered(unit.considered),
    });
    Ok(api::PlanWorkloadResponse {
        outcome: word(&plan.outcome),
        changes: changes(plan.changes),
        replaces_units: plan.replaces_units,
        placements: placements.collect(),
        price_per_hour: plan.price_per_hour,
        why: plan.why.map(why),
        nearest_change: plan.nearest_change,
    })
}

/// Why units are where they are, or nowhere.
pub fn explained(
    server: &Server,
    request: &api::ExplainWorkloadRequest,
) -> Result<api::ExplainWorkloadResponse, ApiError> {
    let namespace = find::namespace(Some(&request.namespace))?;
    let view = explanation(server, &request.workload, &namespace)?;
    Ok(api::ExplainWorkloadResponse {
        id: view.id,
        state: view.state,
        summary: view.summary,
        why: view.why.map(why),
        considered: considered(view.considered),
        nearest_change: view.nearest_change,
    })
}

fn considered(views: Vec<ConsideredView>) -> Vec<api::Considered> {
    let views = views.into_iter().map(|view| {
        let terms = view.terms.into_iter().map(|term| api::ScoreTerm {
            name: term.name,
            micro_dollars: term.micro_dollars,
        });
        api::Considered {
            node: view.node,
            chosen: view.chosen,
            refused: view.refused,
            terms: terms.collect(),
            score: view.score,
        }
    });
    views.collect()
}

/// One service.
pub async fn get(
    server: &Server,
    request: api::GetWorkloadRequest,
) -> Result<api::ServiceView, ApiError> {
    let condition = match request.condition.as_str() {
        "" | "healthy" => Condition::Healthy,
        "running" => Condition::Running,
        "gone" => Condition::Gone,
        other => {
            let message = format!("{other:?} is none of running, healthy and gone");
            return Err(FieldError::new("condition", message).into());
        }
    };
    let params = ShowParams {
        namespace: given(request.namespace),
        wait: Some(format!("{}ms", request.wait_ms)),
        r#for: Some(condition),
    };
    shown(server, &request.workload, &params).await.map(service)
}

/// A page of services.
pub fn list(
    server: &Server,
    request: api::ListWorkloadsRequest,
) -> Result<api::ListWorkloadsResponse, ApiError> {
    let state = given(request.state).map(|text| {
        serde_json::from_value(text.clone().into())
            .map_err(|_| FieldError::new("state", format!("{text:?} is not a state of a service")))
    });
    let params = ListParams {
        limit: usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0),
        cursor: given(request.cursor),
        namespace: given(request.namespace),
        state: state.transpose()?,
    };
    let page = page(server, &params)?;
    Ok(api::ListWorkloadsResponse {
        workloads: page.items.into_iter().map(service).collect(),
        next: page.next.unwrap_or_default(),
    })
}

/// Changes a service.
pub async fn patch(
    server: &Server,
    request: api::PatchWorkloadRequest,
) -> Result<api::ServiceView, ApiError> {
    let patch = WorkloadPatch {
        scale: request.scale,
        unscale: request.unscale,
        stopped: request.stopped,
        restart: request.restart,
    };
    let namespace = find::namespace(Some(&request.namespace))?;
    let view = patched(
        server,
        &request.workload,
        &namespace,
        &patch,
        request.revision,
    );
    view.await.map(service)
}

/// Lets units of a service stand still, or go on.
pub async fn pause(
    server: &Server,
    request: &api::PauseWorkloadRequest,
) -> Result<api::ServiceView, ApiError> {
    let namespace = find::namespace(Some(&request.namespace))?;
    let unit = Some(request.unit.as_str()).filter(|unit| !unit.is_empty());
    let set = set_paused(server, &request.workload, &namespace, unit, request.paused);
    set.await.map(service)
}

/// Deletes a service.
pub async fn delete(
    server: &Server,
    request: api::DeleteWorkloadRequest,
) -> Result<api::DeleteWorkloadResponse, ApiError> {
    let namespace = find::namespace(Some(&request.namespace))?;
    let wait = super::service::bounded(request.wait_ms);
    let (view, gone) = deleted(
        server,
        &request.workload,
        &namespace,
        request.revision,
        wait,
    )
    .await?;
    Ok(api::DeleteWorkloadResponse {
        workload: Some(service(view)),
        gone,
    })
}

/// What units print.
pub async fn output(
    server: &Arc<Server>,
    request: api::WorkloadLogsRequest,
) -> Result<Answers<api::UnitLogLine>, ApiError> {
    let namespace = find::namespace(Some(&request.namespace))?;
    let found = find::service(server, &request.workload, &namespace)?;
    let wanted = logs::Wanted {
        unit: given(request.unit),
        follow: request.follow,
        tail: request.tail,
        since_ms: since_ms(Some(&request.since), server.clock.wall())?,
        previous: request.previous,
    };
    let lines = logs::open(Arc::clone(server), &found, wanted).await?;
    Ok(Box::pin(
        ReceiverStream::new(lines).map(|line| Ok(log_line(line))),
    ))
}

fn log_line(line: UnitLogView) -> api::UnitLogLine {
    api::UnitLogLine {
        unit: line.unit,
        part: line.part,
        at: line.at,
        stream: line.stream,
        line: line.line,
    }
}

/// A service.
fn service(view: WorkloadView) -> api::ServiceView {
    let replicas = view.replicas;
    api::ServiceView {
        id: view.id,
        name: view.name,
        namespace: view.namespace,
        runtime: view.runtime,
        state: view.state.to_string(),
        why: view.why.map(why),
        revision: view.revision,
        replicas: Some(api::ReplicaCounts {
            wanted: replicas.wanted,
            existing: replicas.existing,
            running: replicas.running,
            ready: replicas.ready,
            updated: replicas.updated,
        }),
        rollout: Some(api::Rollout {
            state: view.rollout.state.as_str().to_owned(),
            detail: view.rollout.detail,
            good_revision: view.rollout.good_revision,
        }),
        ports: view.ports,
        created_at: view.created_at,
        changed_at: view.changed_at,
        spec: view.spec.and_then(|spec| serde_json::to_string(&spec).ok()),
        units: view.units.into_iter().map(unit).collect(),
        failures: view.failures,
        next_try_at: view.next_try_at,
    }
}

fn unit(view: UnitView) -> api::ServiceUnit {
    api::ServiceUnit {
        id: view.id,
        number: view.number,
        node: view.node,
        revision: view.revision,
        state: view.state.to_string(),
        ready: view.ready,
        stopping: view.stopping,
        why: view.why.map(why),
        step: view.step,
        evidence: view.evidence,
        exit_code: view.exit_code,
        restarts: view.restarts,
        address: view.address,
        source: view.source,
        since: view.since,
    }
}

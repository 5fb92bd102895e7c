//! Why a job is where it is, or nowhere.

use axum::Json;
use axum::extract::{Path, State};
use weft_api::{ConsideredView, ExplainView, ScoreTermView, WhyView};
use weft_core::dispatch::Waiting;
use weft_placement::{Explanation, Verdict};
use weft_types::{JobId, JobState};

use super::page::job_id;
use super::problem::ApiError;
use super::{App, jobs};
use crate::outcome::why;
use crate::state::Server;

/// `GET /v1/jobs/{id}/explain`.
pub async fn explain(
    State(server): App,
    Path(id): Path<String>,
) -> Result<Json<ExplainView>, ApiError> {
    let id = job_id(&id)?;
    let view = jobs::waited(&server, id, std::time::Duration::ZERO).await?;
    let waiting = server
        .dispatcher
        .ask(move |shell| shell.machine().waiting(id))
        .await?;
    let counts = &view.tasks;
    let summary = match (&waiting, view.state) {
        (Some(waiting), JobState::Queued | JobState::Running) => waiting.to_string(),
        _ => format!(
            "{} of {} tasks completed, {} failed, {} cancelled, {} running",
            counts.completed,
            counts.total,
            counts.failed + counts.dead,
            counts.cancelled,
            counts.running + counts.assigned
        ),
    };
    let explanation = waiting
        .as_ref()
        .and_then(|waiting| waiting.explanation.as_ref());
    Ok(Json(ExplainView {
        id: id.to_string(),
        state: view.state.to_string(),
        summary,
        why: view.why,
        considered: explanation.map(considered).unwrap_or_default(),
        nearest_change: explanation
            .and_then(|explanation| explanation.nearest.as_ref())
            .map(ToString::to_string),
    }))
}

/// Why a job's queued tasks wait; `None` when none does.
pub(super) async fn waiting(server: &Server, id: JobId) -> Option<WhyView> {
    let waiting: Waiting = server
        .dispatcher
        .ask(move |shell| shell.machine().waiting(id))
        .await
        .ok()??;
    let reason = waiting.reason()?;
    let nearest = waiting
        .explanation
        .as_ref()
        .and_then(|explanation| explanation.nearest.as_ref());
    let mut view = why(reason, &waiting.to_string());
    view.next = Some(nearest.map_or_else(|| format!("weft explain {id}"), ToString::to_string));
    Some(view)
}

/// Every candidate with its refusal or the terms of its score.
pub(crate) fn considered(explanation: &Explanation) -> Vec<ConsideredView> {
    explanation
        .considered
        .iter()
        .map(|candidate| {
            let (refused, terms, score) = match &candidate.verdict {
                Verdict::Refused(refusal) => (Some(refusal.to_string()), Vec::new(), None),
                Verdict::Scored(score) => {
                    let terms = score.terms.iter().map(|term| ScoreTermView {
                        name: term.name.to_string(),
                        micro_dollars: term.micro_dollars,
                    });
                    (None, terms.collect(), Some(score.total))
                }
            };
            ConsideredView {
                node: candidate.key.to_string(),
                chosen: explanation.chosen == Some(candidate.id),
                refused,
                terms,
                score,
            }
        })
        .collect()
}

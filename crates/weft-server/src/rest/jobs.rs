//! Jobs and their tasks.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use weft_api::{AttemptView, JobView, Page, Problem, TaskHistoryView, TaskView, WhyView};
use weft_types::{JobId, JobState, Reason, TaskState};

use super::page::{PageParams, Params, job_id, wait};
use super::problem::ApiError;
use super::{App, dead};
use crate::dispatch::unpack_state;
use crate::outcome::why;
use crate::state::Server;
use crate::{Error, outcome};

/// Parameters of a job that may be waited for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitParams {
    wait: Option<String>,
}

/// `GET /v1/jobs`: newest first.
pub async fn list(
    State(server): App,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<JobView>>, ApiError> {
    newest(&server, &params).await.map(Json)
}

/// A page of jobs, newest first.
pub(crate) async fn newest(
    server: &Server,
    params: &PageParams,
) -> Result<Page<JobView>, ApiError> {
    let before = JobId(params.cursor_number()?.unwrap_or(u64::MAX));
    let limit = params.limit();
    let stats = server
        .dispatcher
        .ask(move |shell| {
            let ids = shell.newest_jobs(before, limit);
            ids.into_iter()
                .filter_map(|id| shell.stats(id))
                .collect::<Vec<_>>()
        })
        .await?;
    let next = stats
        .last()
        .filter(|_| stats.len() == limit)
        .map(|last| last.id.0.to_string());
    let mut items = Vec::with_capacity(stats.len());
    for stats in stats {
        let mut view = stats.view();
        view.why = job_why(server, &view).await;
        items.push(view);
    }
    Ok(Page { items, next })
}

/// `GET /v1/jobs/{id}`: with `wait`, once it is final or the wait is over.
pub async fn show(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<WaitParams>,
) -> Result<Json<JobView>, ApiError> {
    let id = job_id(&id)?;
    Ok(Json(
        waited(&server, id, wait(params.wait.as_deref())?).await?,
    ))
}

/// A job, once it is final or the wait is over.
pub(crate) async fn waited(
    server: &Server,
    id: JobId,
    wait: Duration,
) -> Result<JobView, ApiError> {
    let ended = if wait.is_zero() {
        None
    } else {
        let ended = server.dispatcher.ended(id);
        tokio::time::timeout(wait, ended).await.ok()
    };
    let mut view = match ended {
        Some(ended) => ended?.ok_or_else(|| unknown(id))?.view(),
        None => view(server, id).await?,
    };
    view.why = job_why(server, &view).await;
    Ok(view)
}

pub(crate) async fn view(server: &Server, id: JobId) -> Result<JobView, ApiError> {
    let stats = server.dispatcher.ask(move |shell| shell.stats(id)).await?;
    stats
        .map(|stats| stats.view())
        .ok_or_else(|| unknown(id).into())
}

pub(super) fn unknown(id: JobId) -> Error {
    Error::NotFound {
        what: "job",
        id: id.to_string(),
    }
}

/// Why a job waits or failed: of a failed one, its first bad task.
pub(crate) async fn job_why(server: &Server, view: &JobView) -> Option<WhyView> {
    match view.state {
        JobState::Queued | JobState::Running if view.tasks.queued > 0 => {
            super::explain::waiting(server, view.id).await
        }
        JobState::Failed => first_failure(server, view.id).await,
        JobState::Cancelled => view
            .why
            .clone()
            .or_else(|| Some(why(Reason::Cancelled, ""))),
        _ => None,
    }
}

/// How many tasks are looked through for the first bad one.
const SEARCHED_TASKS: u32 = 100_000;

async fn first_failure(server: &Server, id: JobId) -> Option<WhyView> {
    let bad = |state| matches!(state, TaskState::Failed | TaskState::Dead);
    let task = server
        .dispatcher
        .ask(move |shell| {
            shell
                .machine()
                .tasks(id, 0, SEARCHED_TASKS)
                .find(|(_, state, _)| bad(*state))
        })
        .await
        .ok()??
        .0;
    task_why(server, id, task).await
}

/// Why a task did not complete: as a node reported it, or as the dispatcher decided.
async fn task_why(server: &Server, id: JobId, task: u32) -> Option<WhyView> {
    let Some(stored) = server.log.result(id, task).await else {
        return cancelled_why(server, id, task).await;
    };
    let (_, reason) = unpack_state(stored.state)?;
    let view = outcome::result_view(
        task,
        TaskState::Failed,
        reason,
        stored.attempt,
        None,
        &stored.outcome,
    );
    view.why
}

/// Why a task was cancelled without a report; `None` when it was not.
pub(super) async fn cancelled_why(server: &Server, id: JobId, task: u32) -> Option<WhyView> {
    let cancelled = server
        .dispatcher
        .ask(move |shell| {
            let (state, ..) = shell.machine().task(id, task)?;
            (state == TaskState::Cancelled).then(|| shell.cancelled_for(id, task))
        })
        .await
        .ok()??;
    Some(why(cancelled.reason, &cancelled.detail))
}

/// `GET /v1/jobs/{id}/tasks`.
pub async fn tasks(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<TaskView>>, ApiError> {
    let id = job_id(&id)?;
    let first = u32::try_from(params.cursor_number()?.unwrap_or(0)).unwrap_or(u32::MAX);
    let (limit, wanted) = (params.limit(), params.state);
    let found = server
        .dispatcher
        .ask(move |shell| {
            let machine = shell.machine();
            machine.job_state(id)?;
            let rows = machine.tasks(id, first, SEARCHED_TASKS);
            let wanted = rows.filter(|(_, state, _)| wanted.is_none_or(|wanted| wanted == *state));
            let total = machine.counts(id)?.total;
            let rows: Vec<_> = wanted
                .take(limit)
                .map(|(task, state, attempts)| {
                    let node = machine
                        .task(id, task)
                        .and_then(|(_, _, node)| node.map(ToString::to_string));
                    TaskView {
                        task,
                        state,
                        attempts,
                        node,
                        why: None,
                    }
                })
                .collect();
            Some((rows, total))
        })
        .await?;
    let (mut items, total) = found.ok_or_else(|| unknown(id))?;
    for item in items.iter_mut().filter(|item| {
        matches!(
            item.state,
            TaskState::Failed | TaskState::Dead | TaskState::Cancelled
        )
    }) {
        item.why = task_why(&server, id, item.task).await;
    }
    // A page that is not full ended where the look did.
    let next = match items.last() {
        Some(last) if items.len() == limit => last.task.saturating_add(1),
        _ => first.saturating_add(SEARCHED_TASKS),
    };
    let next = (u64::from(next) < total).then(|| next.to_string());
    Ok(Json(Page { items, next }))
}

/// `DELETE /v1/jobs/{id}`: cancels what runs, forgets what has ended.
pub async fn remove(State(server): App, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let id = job_id(&id)?;
    if view(&server, id).await?.state.is_final() {
        server.dispatcher.forget(id).await?;
    } else {
        server.dispatcher.cancel(id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /v1/jobs/{id}/cancel`: unlike `DELETE` it may be sent twice, since it forgets nothing.
pub async fn cancel(State(server): App, Path(id): Path<String>) -> Result<Json<JobView>, ApiError> {
    let id = job_id(&id)?;
    server.dispatcher.cancel(id).await?;
    Ok(Json(waited(&server, id, Duration::ZERO).await?))
}

/// `GET /v1/jobs/{id}/tasks/{task}`: one task with the history of its attempts.
pub async fn task(
    State(server): App,
    Path((id, task)): Path<(String, String)>,
) -> Result<Json<TaskHistoryView>, ApiError> {
    let id = job_id(&id)?;
    let task = task_number(id, &task)?;
    let found = server
        .dispatcher
        .ask(move |shell| {
            let (state, _, node) = shell.machine().task(id, task)?;
            let reason = shell.machine().task_reason(id, task);
            Some((state, node.map(ToString::to_string), reason))
        })
        .await?;
    let (state, node, reason) = found.ok_or_else(|| unknown_task(id, task))?;
    let attempts = history(&server, id, task, true).await?;
    let detail = attempts.last().map_or("", |last| last.detail.as_str());
    let why = reason.map(|reason| match state {
        TaskState::Dead => outcome::dead_why(reason, detail, id, task),
        _ => why(reason, detail),
    });
    Ok(Json(TaskHistoryView {
        job: id,
        task,
        state,
        node,
        why,
        attempts,
    }))
}

/// The number of a task in a path.
pub(super) fn task_number(job: JobId, text: &str) -> Result<u32, ApiError> {
    let number = text.parse();
    number.map_err(|_| Problem::not_found("task", &format!("{job}/{text}")).into())
}

fn unknown_task(job: JobId, task: u32) -> Error {
    Error::NotFound {
        what: "task",
        id: format!("{job}/{task}"),
    }
}

/// The attempts of a task, read beside the threads that serve requests.
pub(super) async fn history(
    server: &Server,
    job: JobId,
    task: u32,
    with_output: bool,
) -> Result<Vec<AttemptView>, ApiError> {
    let log = server.log.clone();
    let read = move || {
        let attempts = log.attempts(job, task).into_iter();
        attempts
            .map(|attempt| outcome::attempt_view(attempt, with_output))
            .collect()
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| Error::Stopping.into())
}

/// `POST /v1/jobs/{id}/retry`: queues failed and dead tasks again.
pub async fn retry(State(server): App, Path(id): Path<String>) -> Result<Json<JobView>, ApiError> {
    let id = job_id(&id)?;
    requeued(&server, id).await.map(Json)
}

/// A job whose failed and dead tasks were queued again.
pub(crate) async fn requeued(server: &Arc<Server>, id: JobId) -> Result<JobView, ApiError> {
    view(server, id).await?;
    dead::retry(Arc::clone(server), id).await?;
    view(server, id).await
}

/// A job that was cancelled; one that has ended stays as it is.
pub(crate) async fn cancelled(server: &Server, id: JobId) -> Result<JobView, ApiError> {
    server.dispatcher.cancel(id).await?;
    waited(server, id, Duration::ZERO).await
}

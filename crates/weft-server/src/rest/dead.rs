//! Dead letters: seen, queued again, dropped.
//!
//! Changes to many tasks go in chunks, each on disk before the next begins; what is read of the
//! journal for them is bounded, whatever the tasks left behind.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use weft_api::{AttemptView, Changed, DeadLetterView, Page, Problem, RequeueRequest};
use weft_core::dispatch::TaskRef;
use weft_types::{FieldError, JobId, Reason, TaskState, parse_json};

use super::App;
use super::jobs::{history, task_number, unknown};
use super::page::{Params, job_id, page_limit};
use super::problem::ApiError;
use crate::Error;
use crate::dispatch::{AttemptNote, BadTask, DeadCursor, DeadFilter};
use crate::outcome::dead_why;
use crate::state::Server;

/// The most attempts that one page shows, whatever its limit.
const MAX_PAGE_ATTEMPTS: usize = 5_000;
/// The most tasks that are changed at once, and about how many bytes of outcomes with them.
const CHUNK_TASKS: usize = 1_000;
const CHUNK_BYTES: usize = 4 << 20;
/// How many tasks of a job are looked through in one step for failed ones.
const STEP_TASKS: u32 = 100_000;

/// Which dead letters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadParams {
    limit: Option<usize>,
    cursor: Option<String>,
    job: Option<String>,
    reason: Option<String>,
    namespace: Option<String>,
}

/// Which dead letters of a job to drop.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropParams {
    reason: Option<String>,
}

/// `GET /v1/dlq`.
pub async fn list(
    State(server): App,
    Params(params): Params<DeadParams>,
) -> Result<Json<Page<DeadLetterView>>, ApiError> {
    let from = params.cursor.as_deref().map(cursor).transpose()?;
    let filter = DeadFilter {
        job: params.job.as_deref().map(job_id).transpose()?,
        reason: reason(params.reason.as_deref())?,
        namespace: params.namespace,
    };
    let limit = page_limit(params.limit);
    let page = server
        .dispatcher
        .ask(move |shell| shell.dead_letters(from, &filter, limit))
        .await?;
    let mut next = page.next;
    let mut items = Vec::with_capacity(page.tasks.len());
    let mut attempts = 0;
    for letter in page.tasks {
        if attempts >= MAX_PAGE_ATTEMPTS {
            next = Some(DeadCursor {
                job: letter.job,
                task: letter.task,
            });
            break;
        }
        let of_task = history(&server, letter.job, letter.task, false).await?;
        attempts += of_task.len();
        items.push(view(&server, letter, of_task).await);
    }
    let next = next.map(|next| format!("{}.{}", next.job, next.task));
    Ok(Json(Page { items, next }))
}

/// `GET /v1/dlq/{job}/{task}`.
pub async fn show(
    State(server): App,
    Path((job, task)): Path<(String, String)>,
) -> Result<Json<DeadLetterView>, ApiError> {
    let job = job_id(&job)?;
    let letter = dead_letter(&server, job, task_number(job, &task)?).await?;
    let attempts = history(&server, letter.job, letter.task, true).await?;
    Ok(Json(view(&server, letter, attempts).await))
}

/// `POST /v1/dlq/requeue`.
pub async fn requeue(State(server): App, body: Bytes) -> Result<Json<Changed>, ApiError> {
    let wanted: RequeueRequest = parse_json(&body)?;
    let filter = DeadFilter {
        job: wanted.job,
        reason: wanted.reason,
        namespace: wanted.namespace.clone(),
    };
    let refuse = |path: &str, why: &str| Err(FieldError::new(path, why).into());
    match (wanted.job, wanted.tasks) {
        (Some(_), _) if wanted.all => refuse("all", "give either `job` or `all`"),
        (Some(job), Some(tasks)) => {
            exists(&server, job).await?;
            named(server, job, tasks, wanted.reason).await
        }
        (Some(job), None) => {
            exists(&server, job).await?;
            all(server, filter, Change::Requeue).await
        }
        (None, Some(_)) => refuse("job", "`tasks` are those of a job"),
        (None, None) if wanted.all => all(server, filter, Change::Requeue).await,
        (None, None) => refuse("job", "give a job, or `all: true` for those of every job"),
    }
}

/// `DELETE /v1/dlq/{job}`.
pub async fn drop_job(
    State(server): App,
    Path(job): Path<String>,
    Params(params): Params<DropParams>,
) -> Result<Json<Changed>, ApiError> {
    let job = job_id(&job)?;
    exists(&server, job).await?;
    let filter = DeadFilter {
        job: Some(job),
        reason: reason(params.reason.as_deref())?,
        namespace: None,
    };
    all(server, filter, Change::Drop).await
}

/// `DELETE /v1/dlq/{job}/{task}`.
pub async fn drop_task(
    State(server): App,
    Path((job, task)): Path<(String, String)>,
) -> Result<Json<Changed>, ApiError> {
    let job = job_id(&job)?;
    let letter = dead_letter(&server, job, task_number(job, &task)?).await?;
    let changed = change(&server, Change::Drop, vec![letter]).await?;
    Ok(Json(Changed {
        changed,
        skipped: 1 - changed.min(1),
    }))
}

/// Queues the failed and dead tasks of a job again.
pub(super) async fn retry(server: Arc<Server>, job: JobId) -> Result<(), ApiError> {
    detached(async move {
        let mut first = 0;
        loop {
            let look = move |shell: &crate::dispatch::Shell| {
                let machine = shell.machine();
                let total = machine.counts(job).map_or(0, |counts| counts.total);
                let tasks = machine.tasks(job, first, STEP_TASKS);
                let bad = tasks
                    .filter(|(_, state, _)| matches!(state, TaskState::Failed | TaskState::Dead));
                let bad = bad.filter_map(|(task, ..)| shell.bad_task(job, task));
                (bad.take(CHUNK_TASKS).collect::<Vec<_>>(), total)
            };
            let (bad, total) = server.dispatcher.ask(look).await?;
            let last = bad.last().filter(|_| bad.len() == CHUNK_TASKS);
            first = last.map_or(first.saturating_add(STEP_TASKS), |last| last.task + 1);
            if !bad.is_empty() {
                change(&server, Change::Requeue, bad).await?;
            }
            if u64::from(first) >= total {
                return Ok(());
            }
        }
    })
    .await
}

/// What to do with dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Requeue,
    Drop,
}

/// Changes every dead letter that a filter lets pass and that is there now.
async fn all(
    server: Arc<Server>,
    filter: DeadFilter,
    what: Change,
) -> Result<Json<Changed>, ApiError> {
    detached(async move {
        let spans_jobs = filter.job.is_none();
        let mut changed = 0;
        let mut from = None;
        loop {
            let filter = filter.clone();
            let page = server
                .dispatcher
                .ask(move |shell| shell.dead_letters(from, &filter, CHUNK_TASKS))
                .await?;
            for of_job in page.tasks.chunk_by(|a, b| a.job == b.job) {
                match change(&server, what, of_job.to_vec()).await {
                    Ok(count) => changed += count,
                    // One job that is gone or was cancelled must not keep the others waiting.
                    Err(Error::JobCancelled(_) | Error::NotFound { .. }) if spans_jobs => {}
                    Err(error) => return Err(error.into()),
                }
            }
            from = page.next;
            if from.is_none() {
                let skipped = 0;
                return Ok(Json(Changed { changed, skipped }));
            }
        }
    })
    .await
}

/// Queues dead letters of a job again that were named one by one.
async fn named(
    server: Arc<Server>,
    job: JobId,
    mut tasks: Vec<u32>,
    reason: Option<Reason>,
) -> Result<Json<Changed>, ApiError> {
    tasks.sort_unstable();
    tasks.dedup();
    detached(async move {
        let mut done = Changed::default();
        for chunk in tasks.chunks(CHUNK_TASKS) {
            let wanted = chunk.to_vec();
            let letters = server
                .dispatcher
                .ask(move |shell| {
                    let letters = wanted.iter().filter_map(|t| shell.dead_letter(job, *t));
                    let fits = |letter: &BadTask| reason.is_none_or(|r| r == letter.reason);
                    letters.filter(fits).collect::<Vec<_>>()
                })
                .await?;
            let changed = change(&server, Change::Requeue, letters).await?;
            done.changed += changed;
            done.skipped += chunk.len() as u64 - changed;
        }
        Ok(Json(done))
    })
    .await
}

/// A change that was begun goes on when the client leaves.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::spawn(work).await;
    done.map_err(|_| ApiError::from(Error::Stopping))?
}

/// Changes tasks of one job, as many at a time as fit into a chunk.
async fn change(server: &Server, what: Change, tasks: Vec<BadTask>) -> Result<u64, Error> {
    let mut changed = 0;
    let mut tasks = tasks.into_iter().peekable();
    while let Some(first) = tasks.peek() {
        let job = first.job;
        let mut notes = Vec::new();
        let mut bytes = 0;
        while bytes < CHUNK_BYTES
            && let Some(task) = tasks.next()
        {
            let note = note(server, &task).await;
            bytes += note.outcome.len();
            notes.push(note);
        }
        changed += match what {
            Change::Requeue => server.dispatcher.requeue(job, notes).await?,
            Change::Drop => server.dispatcher.drop_dead(job, notes).await?,
        };
    }
    Ok(changed)
}

/// The final attempt of a task, as it goes into its history.
async fn note(server: &Server, task: &BadTask) -> AttemptNote {
    let stored = server.log.result(task.job, task.task).await;
    AttemptNote {
        at: TaskRef {
            job: task.job,
            task: task.task,
            attempt: task.attempt,
        },
        reason: Some(task.reason),
        counted: true,
        outcome: stored.map(|stored| stored.outcome).unwrap_or_default(),
    }
}

async fn exists(server: &Server, job: JobId) -> Result<(), ApiError> {
    let state = server
        .dispatcher
        .ask(move |shell| shell.machine().job_state(job))
        .await?;
    state.map(drop).ok_or_else(|| unknown(job).into())
}

async fn dead_letter(server: &Server, job: JobId, task: u32) -> Result<BadTask, ApiError> {
    let found = server
        .dispatcher
        .ask(move |shell| shell.dead_letter(job, task))
        .await?;
    found.ok_or_else(|| {
        let id = format!("{job}/{task}");
        let problem = Problem::not_found("dead letter", &id);
        problem
            .with_next(format!(
                "`weft dlq ls` lists dead letters; `weft job show {id}` shows the task"
            ))
            .into()
    })
}

async fn view(server: &Server, letter: BadTask, attempts: Vec<AttemptView>) -> DeadLetterView {
    let BadTask {
        job, task, reason, ..
    } = letter;
    let last = attempts.last();
    DeadLetterView {
        job,
        task,
        name: letter.name.to_string(),
        namespace: letter.namespace.to_string(),
        file: super::results::input_name(server, job, task).await,
        why: dead_why(reason, last.map_or("", |last| &last.detail), job, task),
        died_at: last.and_then(|last| last.ended_at.clone()),
        attempts,
    }
}

fn reason(text: Option<&str>) -> Result<Option<Reason>, ApiError> {
    let parsed = text.map(str::parse).transpose();
    parsed.map_err(|detail: String| FieldError::new("reason", detail).into())
}

fn cursor(text: &str) -> Result<DeadCursor, ApiError> {
    let parsed = text
        .rsplit_once('.')
        .and_then(|(job, task)| Some((job.parse().ok()?, task.parse().ok()?)));
    let (job, task) =
        parsed.ok_or_else(|| FieldError::new("cursor", "not a cursor of this list"))?;
    Ok(DeadCursor { job, task })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_round_trips_and_nonsense_is_refused() {
        let job = JobId(77 << 20);
        let found = cursor(&format!("{job}.12")).map_err(|_| "refused");
        assert_eq!(found.unwrap(), DeadCursor { job, task: 12 });
        for bad in ["", ".", "12", &format!("{job}."), &format!("{job}.-1")] {
            assert!(cursor(bad).is_err(), "{bad}");
        }
    }
}

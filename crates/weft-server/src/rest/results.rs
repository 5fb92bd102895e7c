//! Results: a stream of NDJSON as tasks end, or a page.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use serde::Deserialize;
use tokio::time::Instant;
use weft_api::{NDJSON_CONTENT_TYPE, Page, ResultView};
use weft_proto::v1;
use weft_types::{FieldError, JobId, Reason, TaskState};

use super::page::{PageParams, Params, job_id, wait};
use super::problem::ApiError;
use super::{App, jobs};
use crate::dispatch::{JobStats, unpack_state};
use crate::outcome::{result_view, why};
use crate::state::Server;

/// How many tasks are looked at in one step, and about how many bytes are sent at once.
const STEP_TASKS: u32 = 1_024;
const CHUNK_BYTES: usize = 256 << 10;

/// Parameters of the results stream.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultParams {
    /// How long to wait for tasks that have not ended.
    wait: Option<String>,
    /// `finish` (as they end) or `task` (by number).
    order: Option<String>,
}

/// `GET /v1/jobs/{id}/results`: one line a task.
pub async fn stream(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<ResultParams>,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    let in_order = match params.order.as_deref() {
        None | Some("finish") => false,
        Some("task") => true,
        Some(other) => {
            return Err(
                FieldError::new("order", format!("{other:?} is neither finish nor task")).into(),
            );
        }
    };
    let deadline = Instant::now() + wait(params.wait.as_deref())?;
    let cursor = Cursor::open(server, id, in_order, deadline).await?;
    let chunks = futures::stream::unfold(cursor, |mut cursor| async move {
        cursor
            .chunk()
            .await
            .map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), cursor))
    });
    Ok((
        [(header::CONTENT_TYPE, NDJSON_CONTENT_TYPE)],
        Body::from_stream(chunks),
    )
        .into_response())
}

/// `GET /v1/results/{id}`: one page of results that are there.
pub async fn page(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<ResultView>>, ApiError> {
    let id = job_id(&id)?;
    let stats = stats(&server, id).await?;
    let mut first = u32::try_from(params.cursor_number()?.unwrap_or(0)).unwrap_or(u32::MAX);
    let total = u32::try_from(stats.counts.total).unwrap_or(u32::MAX);
    let files = Files::of(&server, &stats);
    let mut items = Vec::new();
    while items.len() < params.limit() && first < total {
        let step = STEP_TASKS.min(total - first);
        for task in finals(&server, id, first, step).await? {
            if items.len() < params.limit() {
                items.extend(files.view(task).await);
                first = task.task + 1;
            }
        }
        if items.len() < params.limit() {
            first = first.max(first.saturating_add(step)).min(total);
        }
    }
    let next = (first < total).then(|| first.to_string());
    Ok(Json(Page { items, next }))
}

async fn stats(server: &Server, id: JobId) -> Result<JobStats, ApiError> {
    let stats = server.dispatcher.ask(move |shell| shell.stats(id)).await?;
    stats.ok_or_else(|| jobs::unknown(id).into())
}

/// A final task of a job.
#[derive(Clone, Copy)]
struct Final {
    task: u32,
    state: TaskState,
    attempts: u32,
}

async fn finals(
    server: &Server,
    id: JobId,
    first: u32,
    limit: u32,
) -> Result<Vec<Final>, ApiError> {
    let found = server
        .dispatcher
        .ask(move |shell| {
            let rows = shell.machine().tasks(id, first, limit);
            let finals = rows.filter(|(_, state, _)| state.is_final());
            finals
                .map(|(task, state, attempts)| Final {
                    task,
                    state,
                    attempts,
                })
                .collect::<Vec<_>>()
        })
        .await?;
    Ok(found)
}

/// The name of a task's input file, when it has one.
pub(super) async fn file_name(server: &Server, job: JobId, task: u32) -> Option<String> {
    let payloads = server.log.payloads(job, task, 1).await?;
    let payload = v1::TaskPayload::decode(payloads.into_iter().next()?).ok()?;
    Some(payload.file).filter(|file| !file.is_empty())
}

/// Makes the lines of results, with the names of input files where tasks have them.
struct Files {
    server: Arc<Server>,
    job: JobId,
}

impl Files {
    fn of(server: &Arc<Server>, stats: &JobStats) -> Self {
        Self {
            server: Arc::clone(server),
            job: stats.id,
        }
    }

    async fn view(&self, task: Final) -> Option<ResultView> {
        let stored = self.server.log.result(self.job, task.task).await;
        let file = file_name(&self.server, self.job, task.task).await;
        let Some(stored) = stored else {
            return Some(self.unreadable(task, file));
        };
        let reason = unpack_state(stored.state).and_then(|(_, reason)| reason);
        Some(result_view(
            task.task,
            task.state,
            reason,
            task.attempts,
            file,
            &stored.outcome,
        ))
    }

    /// A result that was recorded and cannot be read any more must not look like a good one.
    fn unreadable(&self, task: Final, file: Option<String>) -> ResultView {
        let view = result_view(task.task, TaskState::Failed, None, task.attempts, file, &[]);
        ResultView {
            why: Some(why(
                Reason::StorageError,
                "its result cannot be read from the journal",
            )),
            ..view
        }
    }
}

/// Where a stream of results is.
struct Cursor {
    server: Arc<Server>,
    files: Files,
    job: JobId,
    total: u32,
    in_order: bool,
    deadline: Instant,
    news: crate::dispatch::JobNews,
    /// The first task that was not sent.
    next: u32,
    /// Tasks after `next` that were sent, when they come as they end.
    sent: SentTasks,
    ready: VecDeque<Final>,
}

impl Cursor {
    async fn open(
        server: Arc<Server>,
        job: JobId,
        in_order: bool,
        deadline: Instant,
    ) -> Result<Self, ApiError> {
        let news = server.dispatcher.watch(job);
        let stats = stats(&server, job).await?;
        let total = u32::try_from(stats.counts.total).unwrap_or(u32::MAX);
        let files = Files::of(&server, &stats);
        let sent = SentTasks::new(if in_order { 0 } else { total });
        Ok(Self {
            server,
            files,
            job,
            total,
            in_order,
            deadline,
            news,
            next: 0,
            sent,
            ready: VecDeque::new(),
        })
    }

    /// The next lines; `None` when all were sent or the wait is over.
    async fn chunk(&mut self) -> Option<Bytes> {
        let mut chunk = BytesMut::new();
        loop {
            while let Some(task) = self.ready.pop_front() {
                let view = self.files.view(task).await?;
                serde_json::to_writer((&mut chunk).writer(), &view).ok()?;
                chunk.put_u8(b'\n');
                if chunk.len() >= CHUNK_BYTES {
                    return Some(chunk.freeze());
                }
            }
            if self.next >= self.total {
                return Some(chunk.freeze()).filter(|chunk| !chunk.is_empty());
            }
            self.look().await?;
            if self.ready.is_empty() {
                // What is there goes out before waiting for more.
                if !chunk.is_empty() {
                    return Some(chunk.freeze());
                }
                self.wait().await?;
            }
        }
    }

    /// Looks for final tasks that were not sent.
    async fn look(&mut self) -> Option<()> {
        if self.in_order {
            let found = finals(&self.server, self.job, self.next, STEP_TASKS)
                .await
                .ok()?;
            for task in found {
                if task.task != self.next {
                    break;
                }
                self.next += 1;
                self.ready.push_back(task);
            }
            return Some(());
        }
        let mut from = self.next;
        while from < self.total && self.ready.is_empty() {
            for task in finals(&self.server, self.job, from, STEP_TASKS)
                .await
                .ok()?
            {
                if self.sent.insert(task.task) {
                    self.ready.push_back(task);
                }
            }
            from = from.saturating_add(STEP_TASKS);
        }
        while self.next < self.total && self.sent.contains(self.next) {
            self.next += 1;
        }
        Some(())
    }

    /// Waits for news; `None` when the wait is over.
    async fn wait(&mut self) -> Option<()> {
        tokio::select! {
            () = self.news.changed() => {}
            () = tokio::time::sleep_until(self.deadline) => return None,
            () = self.server.stopping.cancelled() => return None,
        }
        // A job that was forgotten meanwhile has no more results.
        let job = self.job;
        self.server
            .dispatcher
            .ask(move |shell| shell.machine().job_state(job))
            .await
            .ok()?
            .map(drop)
    }
}

/// Which tasks were sent: a bit each.
struct SentTasks(Vec<u64>);

impl SentTasks {
    fn new(tasks: u32) -> Self {
        Self(vec![0; (tasks as usize).div_ceil(64)])
    }

    fn contains(&self, task: u32) -> bool {
        self.0
            .get(task as usize / 64)
            .is_some_and(|word| word & (1 << (task % 64)) != 0)
    }

    /// Whether it was not there before.
    fn insert(&mut self, task: u32) -> bool {
        let Some(word) = self.0.get_mut(task as usize / 64) else {
            return false;
        };
        let bit = 1 << (task % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }
}

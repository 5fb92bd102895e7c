//! Results: a stream of NDJSON as tasks end, or a page.

use std::collections::VecDeque;
use std::ops::Range;
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
use super::sent::SentTasks;
use super::{App, jobs};
use crate::Error;
use crate::dispatch::{JobStats, unpack_state};
use crate::metrics::{Counted, Door};
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
    /// The first task that is wanted: where a client whose connection broke goes on.
    from: Option<u32>,
}

/// `GET /v1/jobs/{id}/results`: one line a task.
pub async fn stream(
    State(server): App,
    Path(id): Path<String>,
    Params(params): Params<ResultParams>,
) -> Result<Response, ApiError> {
    let id = job_id(&id)?;
    let in_order = is_in_order(params.order.as_deref())?;
    let wanted = Wanted {
        in_order,
        deadline: Some(Instant::now() + wait(params.wait.as_deref())?),
        seen: seen_before(params.from),
    };
    let cursor = Cursor::open(server, id, wanted, Door::Rest).await?;
    let chunks = futures::stream::unfold(cursor, |mut cursor| async move {
        chunk(&mut cursor)
            .await
            .map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), cursor))
    });
    Ok((
        [(header::CONTENT_TYPE, NDJSON_CONTENT_TYPE)],
        Body::from_stream(chunks),
    )
        .into_response())
}

/// A client that goes on from a task has all before it.
fn seen_before(from: Option<u32>) -> Vec<[u32; 2]> {
    let last = from.and_then(|from| from.checked_sub(1));
    last.map(|last| [0, last]).into_iter().collect()
}

/// Whether results are wanted by number rather than as they end.
///
/// # Errors
/// When it is neither of the two words.
pub(crate) fn is_in_order(order: Option<&str>) -> Result<bool, FieldError> {
    match order {
        None | Some("finish") => Ok(false),
        Some("task") => Ok(true),
        Some(other) => Err(FieldError::new(
            "order",
            format!("{other:?} is neither finish nor task"),
        )),
    }
}

/// The next lines; `None` when there will be no more.
async fn chunk(cursor: &mut Cursor) -> Option<Bytes> {
    let mut chunk = BytesMut::new();
    loop {
        match cursor.next().await {
            Next::Result(view) => {
                serde_json::to_writer((&mut chunk).writer(), &*view).ok()?;
                chunk.put_u8(b'\n');
                if chunk.len() >= CHUNK_BYTES {
                    return Some(chunk.freeze());
                }
            }
            // What is there goes out before waiting for more.
            Next::Idle | Next::End(_) if !chunk.is_empty() => return Some(chunk.freeze()),
            Next::Idle => cursor.wait().await,
            Next::End(_) => return None,
        }
    }
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
    let mut files = Files::of(&server, stats.id);
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

async fn finals(server: &Server, id: JobId, first: u32, limit: u32) -> Result<Vec<Final>, Error> {
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

/// Results of a job whose tasks are all final, by number, of `limit` tasks from `first` on.
pub(crate) async fn views(
    server: &Arc<Server>,
    job: JobId,
    first: u32,
    limit: u32,
) -> Result<Vec<ResultView>, Error> {
    let mut files = Files::of(server, job);
    let mut views = Vec::new();
    for task in finals(server, job, first, limit).await? {
        views.extend(files.view(task).await);
    }
    Ok(views)
}

/// The name of a task's input file, when it has one.
pub(super) async fn input_name(server: &Server, job: JobId, task: u32) -> Option<String> {
    let payloads = server.log.payloads(job, task, 1).await?;
    let payload = v1::TaskPayload::decode(payloads.into_iter().next()?).ok()?;
    Some(payload.file).filter(|file| !file.is_empty())
}

/// Makes the lines of results, with the names of input files where tasks have them.
struct Files {
    server: Arc<Server>,
    job: JobId,
    /// Tasks whose names are known: payloads are read a record at a time, not once for each task.
    tasks: Range<u32>,
    /// Their names; none when no task of them has one.
    names: Vec<Option<Box<str>>>,
}

impl Files {
    fn of(server: &Arc<Server>, job: JobId) -> Self {
        Self {
            server: Arc::clone(server),
            job,
            tasks: 0..0,
            names: Vec::new(),
        }
    }

    /// The name of a task's input file, if it has one; `None` when the job is not there any more.
    async fn name(&mut self, task: u32) -> Option<Option<String>> {
        if !self.tasks.contains(&task) {
            let (tasks, payloads) = self.server.log.payloads_beside(self.job, task).await?;
            self.tasks = tasks;
            self.names = payloads.into_iter().map(file_name).collect();
        }
        let name = self.names.get((task - self.tasks.start) as usize);
        Some(name.cloned().flatten().map(Into::into))
    }

    async fn view(&mut self, task: Final) -> Option<ResultView> {
        let stored = self.server.log.result(self.job, task.task).await;
        let file = self.name(task.task).await?;
        let Some(stored) = stored else {
            return Some(self.without_report(task, file).await);
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

    /// A cancelled task may have none; one of any other must be there.
    async fn without_report(&self, task: Final, file: Option<String>) -> ResultView {
        match jobs::cancelled_why(&self.server, self.job, task.task).await {
            Some(cancelled) => ResultView {
                why: Some(cancelled),
                ..result_view(task.task, task.state, None, task.attempts, file, &[])
            },
            None => self.unreadable(task, file),
        }
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

/// The name of the input file in a task's payload.
fn file_name(payload: Bytes) -> Option<Box<str>> {
    let payload = v1::TaskPayload::decode(payload).ok()?;
    Some(payload.file)
        .filter(|file| !file.is_empty())
        .map(Into::into)
}

/// Which results a client wants, and for how long it waits for them.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// By number, not as tasks end.
    pub in_order: bool,
    /// When to stop waiting for tasks that have not ended; `None` waits for all.
    pub deadline: Option<Instant>,
    /// First and last numbers of tasks whose results the client has.
    pub seen: Vec<[u32; 2]>,
}

/// What a stream of results has next.
pub(crate) enum Next {
    /// A result.
    Result(Box<ResultView>),
    /// Nothing now: [`Cursor::wait`] for more.
    Idle,
    /// Nothing more.
    End(End),
}

/// Why a stream of results ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Every result was sent.
    Complete,
    /// The client did not want to wait longer.
    WaitOver,
    /// The job was forgotten.
    Gone,
    /// The server stops.
    Stopping,
}

/// Where a stream of results is.
pub(crate) struct Cursor {
    server: Arc<Server>,
    files: Files,
    job: JobId,
    total: u32,
    in_order: bool,
    deadline: Option<Instant>,
    news: crate::dispatch::JobNews,
    /// The first task that was not sent.
    next: u32,
    /// Tasks after `next` that were sent, when they come as they end or the client has some.
    sent: SentTasks,
    ready: VecDeque<Final>,
    ended: Option<End>,
    _counted: Counted,
}

impl Cursor {
    /// Begins to read a job's results.
    ///
    /// # Errors
    /// When the job is not known or `seen` does not fit it.
    pub async fn open(
        server: Arc<Server>,
        job: JobId,
        wanted: Wanted,
        door: Door,
    ) -> Result<Self, ApiError> {
        let news = server.dispatcher.watch(job);
        let stats = stats(&server, job).await?;
        let total = u32::try_from(stats.counts.total).unwrap_or(u32::MAX);
        let files = Files::of(&server, stats.id);
        let needs_bits = !wanted.in_order || !wanted.seen.is_empty();
        let mut sent = SentTasks::new(if needs_bits { total } else { 0 });
        sent.insert_ranges(&wanted.seen, total)?;
        let counted = server.metrics.subscription(door);
        Ok(Self {
            server,
            files,
            job,
            total,
            in_order: wanted.in_order,
            deadline: wanted.deadline,
            news,
            next: 0,
            sent,
            ready: VecDeque::new(),
            ended: None,
            _counted: counted,
        })
    }

    /// The next result, if one is there.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(task) = self.ready.pop_front() {
                match self.files.view(task).await {
                    Some(view) => return Next::Result(Box::new(view)),
                    None => self.ended = Some(End::Gone),
                }
            }
            if let Some(end) = self.ended {
                return Next::End(end);
            }
            if self.next >= self.total {
                return Next::End(End::Complete);
            }
            let before = self.next;
            if self.look().await.is_none() {
                return Next::End(End::Stopping);
            }
            if self.ready.is_empty() && self.next == before {
                return Next::Idle;
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
                if !self.sent.contains(task.task) {
                    self.ready.push_back(task);
                }
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

    /// The error of a job that was forgotten.
    pub fn gone(&self) -> ApiError {
        jobs::unknown(self.job).into()
    }

    /// Waits for news, or for the end of the client's patience.
    pub async fn wait(&mut self) {
        let deadline = self.deadline;
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.news.changed() => {}
            () = patience => return self.ended = Some(End::WaitOver),
            () = self.server.stopping.cancelled() => return self.ended = Some(End::Stopping),
        }
        let job = self.job;
        let known = self
            .server
            .dispatcher
            .ask(move |shell| shell.machine().job_state(job).is_some())
            .await;
        match known {
            Ok(true) => {}
            Ok(false) => self.ended = Some(End::Gone),
            Err(_) => self.ended = Some(End::Stopping),
        }
    }
}

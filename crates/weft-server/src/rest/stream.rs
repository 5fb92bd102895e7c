//! A job whose tasks come one by one. As NDJSON: the first line is the job, each further one a
//! task.
//!
//! The stream is never held as a whole: tasks go into the journal in chunks as they are read. The
//! job exists, and its tasks run, once the last one is on disk.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use weft_api::{MAX_BODY_BYTES, Problem};
use weft_types::{
    FieldError, JobId, MAX_TASKS_PER_JOB, Reason, TaskGraph, TaskGraphBuilder, TaskSpec, Workload,
    parse_json,
};

use super::after;
use super::problem::ApiError;
use super::submit::{at_task, encode_task, new_job};
use crate::dispatch::NewJob;
use crate::services::apply::only_job;
use crate::state::Server;

/// How many tasks, and about how many bytes of them, are written at once.
const CHUNK_TASKS: usize = 4_096;
const CHUNK_BYTES: usize = 1 << 20;
/// The longest pause of a client between two tasks.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// Where a streamed job comes from.
pub(crate) trait Source: Send {
    /// The job, without its tasks; asked for once, first.
    fn job(&mut self) -> impl Future<Output = Result<Workload, ApiError>> + Send;

    /// The next task; `index` is its number, for errors.
    fn task(
        &mut self,
        index: usize,
    ) -> impl Future<Output = Result<Option<TaskSpec>, ApiError>> + Send;
}

/// A client that pauses for too long holds up nothing.
async fn in_time<T>(read: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(MAX_PAUSE, read).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(
            408,
            "stream-stalled",
            Reason::Timeout,
            format!("nothing came for {} s", MAX_PAUSE.as_secs()),
        )
        .with_next("send the job again, without pauses")
        .into()),
    }
}

/// Reads a stream into a job.
///
/// # Errors
/// The first field that is refused, or when the stream breaks off or the queue or the disk is full.
pub(crate) async fn accept(
    server: &Arc<Server>,
    mut source: impl Source,
    key: Option<String>,
) -> Result<JobId, ApiError> {
    let mut workload = in_time(source.job()).await?;
    if !workload.tasks.is_empty() || workload.inputs.is_some() {
        return Err(FieldError::new("tasks", "the tasks of a stream come after its job").into());
    }
    workload.check()?;
    only_job(&workload)?;
    after::settle(server, &mut workload).await?;
    let mut job = new_job(&workload, 0, server.clock.wall())?;
    job.idempotency_key = key;
    job.submission.id = server.dispatcher.open(0).await?;
    let mut open = Open {
        server: Arc::clone(server),
        id: job.submission.id,
        is_complete: false,
    };
    let (tasks, graph) = read_tasks(server, &mut source, &workload, &job).await?;
    job.submission.tasks = tasks;
    job.submission.graph = graph.map(Arc::new);
    // From here on the dispatcher sees to it.
    open.is_complete = true;
    Ok(server.dispatcher.seal(job).await?)
}

/// A job that is being streamed. One that is dropped before it is complete, because of an error or
/// because the client went away, leaves nothing behind.
struct Open {
    server: Arc<Server>,
    id: JobId,
    is_complete: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.is_complete {
            return;
        }
        self.server.log.remove(self.id);
        let dispatcher = self.server.dispatcher.clone();
        tokio::spawn(async move { dispatcher.abandoned(0).await });
    }
}

async fn read_tasks(
    server: &Arc<Server>,
    source: &mut impl Source,
    workload: &Workload,
    job: &NewJob,
) -> Result<(u32, Option<TaskGraph>), ApiError> {
    let id = job.submission.id;
    server.log.open_job(id, job, server.clock.wall()).await?;
    let mut graph = TaskGraphBuilder::default();
    let mut chunk: Vec<Bytes> = Vec::new();
    let (mut written, mut size) = (0u32, 0);
    loop {
        let index = written as usize + chunk.len();
        let Some(task) = in_time(source.task(index)).await? else {
            break;
        };
        if index as u64 >= MAX_TASKS_PER_JOB {
            return Err(FieldError::new("tasks", format!("more than {MAX_TASKS_PER_JOB}")).into());
        }
        task.check(workload.runtime)
            .map_err(|error| at_task(index, error))?;
        let payload = encode_task(&task).map_err(|error| at_task(index, error))?;
        graph.push(&task.after)?;
        size += payload.len();
        chunk.push(payload);
        if chunk.len() >= CHUNK_TASKS || size >= CHUNK_BYTES {
            size = 0;
            let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            server
                .log
                .append_tasks(id, written, std::mem::take(&mut chunk))
                .await?;
            written += count;
        }
    }
    let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
    if written + count == 0 {
        return Err(FieldError::new("tasks", "the stream has no task after its job").into());
    }
    if count > 0 {
        server.log.append_tasks(id, written, chunk).await?;
    }
    Ok((written + count, graph.finish()?))
}

/// The lines of a body.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    searched: usize,
    ended: bool,
}

impl Lines {
    pub(super) fn new(body: Body) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            ended: false,
        }
    }

    /// The next line that is not blank.
    async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if let Some(offset) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.buffer.split_to(self.searched + offset + 1).freeze();
                self.searched = 0;
                if !line.trim_ascii().is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_BODY_BYTES {
                return Err(ApiError::too_large(MAX_BODY_BYTES));
            }
            if self.ended {
                let rest = self.buffer.split().freeze();
                self.searched = 0;
                return Ok(Some(rest).filter(|rest| !rest.trim_ascii().is_empty()));
            }
            self.read().await?;
        }
    }

    async fn read(&mut self) -> Result<(), ApiError> {
        match self.body.frame().await {
            None => self.ended = true,
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                }
            }
            Some(Err(error)) => {
                return Err(FieldError::new("", format!("the body broke off: {error}")).into());
            }
        }
        Ok(())
    }
}

impl Source for Lines {
    async fn job(&mut self) -> Result<Workload, ApiError> {
        let first = self.next().await?;
        let first = first.ok_or_else(|| FieldError::new("", "the stream is empty"))?;
        Ok(parse_json(&first)?)
    }

    async fn task(&mut self, index: usize) -> Result<Option<TaskSpec>, ApiError> {
        let Some(line) = self.next().await? else {
            return Ok(None);
        };
        let task = parse_json(&line).map_err(|error| at_task(index, error))?;
        Ok(Some(task))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(text: &'static str) -> Vec<Bytes> {
        let mut lines = Lines::new(Body::from(text));
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push(line);
        }
        all
    }

    #[tokio::test]
    async fn blank_lines_and_a_missing_last_newline_do_not_matter() {
        let lines = read_all("{\"a\":1}\n\n  \r\n{}\n{\"b\":2}").await;
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], "{\"b\":2}");
        assert!(read_all("").await.is_empty());
    }
}

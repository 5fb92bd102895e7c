//! A job whose tasks come as NDJSON: the first line is the job, each further one a task.
//!
//! The body is never held as a whole: tasks go into the journal in chunks as they are read. The
//! job exists, and its tasks run, once the last line is on disk.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use weft_api::MAX_BODY_BYTES;
use weft_types::{
    FieldError, JobId, MAX_TASKS_PER_JOB, TaskGraph, TaskGraphBuilder, TaskSpec, Workload,
    parse_json,
};

use super::after;
use super::problem::ApiError;
use super::submit::{at_task, encode_task, new_job};
use crate::dispatch::NewJob;
use crate::state::Server;

/// How many tasks, and about how many bytes of them, are written at once.
const CHUNK_TASKS: usize = 4_096;
const CHUNK_BYTES: usize = 1 << 20;

/// Reads a stream into a job.
pub(super) async fn submit(server: &Arc<Server>, body: Body) -> Result<JobId, ApiError> {
    let mut lines = Lines::new(body);
    let first = lines
        .next()
        .await?
        .ok_or_else(|| FieldError::new("", "the stream is empty"))?;
    let mut workload: Workload = parse_json(&first)?;
    if !workload.tasks.is_empty() || workload.inputs.is_some() {
        return Err(FieldError::new("tasks", "the tasks of a stream are its further lines").into());
    }
    workload.check()?;
    after::settle(server, &mut workload).await?;
    let mut job = new_job(&workload, 0, server.clock.wall())?;
    job.submission.id = server.dispatcher.open(0).await?;
    match read_tasks(server, &mut lines, &workload, &job).await {
        Ok((tasks, graph)) => {
            job.submission.tasks = tasks;
            job.submission.graph = graph.map(Arc::new);
            let id = job.submission.id;
            server.dispatcher.opened(job).await?;
            Ok(id)
        }
        Err(error) => {
            server.log.remove(job.submission.id);
            server.dispatcher.abandoned(0).await;
            Err(error)
        }
    }
}

async fn read_tasks(
    server: &Arc<Server>,
    lines: &mut Lines,
    workload: &Workload,
    job: &NewJob,
) -> Result<(u32, Option<TaskGraph>), ApiError> {
    let id = job.submission.id;
    server.log.open_job(id, job, server.clock.wall()).await?;
    let mut graph = TaskGraphBuilder::default();
    let mut chunk: Vec<Bytes> = Vec::new();
    let (mut written, mut size) = (0u32, 0);
    while let Some(line) = lines.next().await? {
        let index = written as usize + chunk.len();
        if index as u64 >= MAX_TASKS_PER_JOB {
            return Err(FieldError::new("tasks", format!("more than {MAX_TASKS_PER_JOB}")).into());
        }
        let task: TaskSpec = parse_json(&line).map_err(|error| at_task(index, error))?;
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
        return Err(FieldError::new("tasks", "the stream has no task after its first line").into());
    }
    if count > 0 {
        server.log.append_tasks(id, written, chunk).await?;
    }
    let graph = graph.finish()?;
    let tasks = written + count;
    server.log.seal_job(id, tasks, graph.is_some()).await?;
    Ok((tasks, graph))
}

/// The lines of a body.
struct Lines {
    body: Body,
    buffer: BytesMut,
    searched: usize,
    ended: bool,
}

impl Lines {
    fn new(body: Body) -> Self {
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

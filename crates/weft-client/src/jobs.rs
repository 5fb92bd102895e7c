//! Jobs, tasks, results, logs and artifacts.

use std::path::Path;
use std::time::Duration;

use reqwest::{Body, Method};
use weft_api::{
    ExplainView, JobView, LogLine, NDJSON_CONTENT_TYPE, ResultView, TaskView, UploadedView,
};
use weft_types::{BlobHash, TaskSpec, TaskState, Workload, format_duration};

use crate::client::CALL_TIMEOUT;
use crate::error::root_cause;
use crate::lines::Framing;
use crate::{Client, Error, Lines};

/// In which order results arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResultOrder {
    /// As tasks end.
    Finish,
    /// By the number of the task.
    Task,
}

impl Client {
    /// Submits a job with its tasks in one request.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn submit(&self, workload: &Workload, key: Option<&str>) -> Result<JobView, Error> {
        let mut request = self
            .request(Method::POST, "/v1/jobs")
            .timeout(CALL_TIMEOUT)
            .json(workload);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.json(request).await
    }

    /// Submits a job whose tasks are streamed, so that their number has no bound.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn submit_stream<S>(&self, workload: &Workload, tasks: S) -> Result<JobView, Error>
    where
        S: Iterator<Item = TaskSpec> + Send + 'static,
    {
        let body = ndjson_body(workload, tasks)?;
        let request = self
            .request(Method::POST, "/v1/jobs")
            .header("content-type", NDJSON_CONTENT_TYPE)
            .body(body);
        self.json(request).await
    }

    /// A job; with `wait`, as soon as it is final or the wait is over.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn job(&self, id: &str, wait: Option<Duration>) -> Result<JobView, Error> {
        let wait = wait.unwrap_or_default();
        let request = self
            .request(Method::GET, &format!("/v1/jobs/{id}"))
            .timeout(CALL_TIMEOUT + wait);
        self.json(request.query(&[("wait", format_duration(wait))]))
            .await
    }

    /// The newest jobs, at most `limit`.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn jobs(&self, limit: usize) -> Result<Vec<JobView>, Error> {
        self.pages("/v1/jobs", limit).await
    }

    /// The tasks of a job, at most `limit`, in one state if given.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn tasks(
        &self,
        id: &str,
        state: Option<TaskState>,
        limit: usize,
    ) -> Result<Vec<TaskView>, Error> {
        let filter = state
            .map(|state| format!("?state={state}"))
            .unwrap_or_default();
        self.pages(&format!("/v1/jobs/{id}/tasks{filter}"), limit)
            .await
    }

    /// The results of a job as they become final, until the last one or the end of `wait`.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn results(
        &self,
        id: &str,
        order: ResultOrder,
        wait: Duration,
    ) -> Result<Lines<ResultView>, Error> {
        let order = match order {
            ResultOrder::Finish => "finish",
            ResultOrder::Task => "task",
        };
        let request = self
            .request(Method::GET, &format!("/v1/jobs/{id}/results"))
            .query(&[("order", order), ("wait", &format_duration(wait))]);
        Ok(Lines::new(self.send(request).await?, Framing::Ndjson))
    }

    /// What a job's tasks print, of one task if given; `follow` goes on until they end.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn logs(
        &self,
        id: &str,
        task: Option<u32>,
        follow: bool,
    ) -> Result<Lines<LogLine>, Error> {
        let mut request = self
            .request(Method::GET, &format!("/v1/logs/jobs/{id}"))
            .query(&[("follow", follow)]);
        if let Some(task) = task {
            request = request.query(&[("task", task)]);
        }
        Ok(Lines::new(self.send(request).await?, Framing::Ndjson))
    }

    /// Why a job is where it is, or nowhere.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn explain(&self, id: &str) -> Result<ExplainView, Error> {
        self.get(&format!("/v1/jobs/{id}/explain")).await
    }

    /// Cancels a job that runs; removes one that has ended.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn cancel_job(&self, id: &str) -> Result<(), Error> {
        self.delete(&format!("/v1/jobs/{id}")).await
    }

    /// Queues the failed, dead and cancelled tasks of a job again.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn retry_job(&self, id: &str) -> Result<JobView, Error> {
        self.post(&format!("/v1/jobs/{id}/retry"), &serde_json::json!({}))
            .await
    }

    /// Whether the server has an artifact.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn has_blob(&self, hash: &BlobHash) -> Result<bool, Error> {
        let request = self
            .request(Method::HEAD, &format!("/v1/blobs/{hash}"))
            .timeout(CALL_TIMEOUT);
        match self.send(request).await {
            Ok(_) => Ok(true),
            Err(Error::Refused(problem)) if problem.status == 404 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a file as an artifact.
    ///
    /// # Errors
    /// Those of any call, and when the file cannot be read.
    pub async fn put_blob(&self, hash: &BlobHash, path: &Path) -> Result<UploadedView, Error> {
        let unreadable = |source| Error::File {
            path: path.display().to_string(),
            source,
        };
        let file = tokio::fs::File::open(path).await.map_err(unreadable)?;
        let length = file.metadata().await.map_err(unreadable)?.len();
        let stream = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
        let request = self
            .request(Method::PUT, &format!("/v1/blobs/{hash}"))
            .header("content-length", length)
            .body(Body::wrap_stream(stream));
        self.json(request).await
    }

    /// Downloads an artifact into a file.
    ///
    /// # Errors
    /// Those of any call, and when the file cannot be written.
    pub async fn get_blob(&self, hash: &str, path: &Path) -> Result<(), Error> {
        use tokio::io::AsyncWriteExt;
        let mut response = self
            .send(self.request(Method::GET, &format!("/v1/blobs/{hash}")))
            .await?;
        let unwritable = |source| Error::File {
            path: path.display().to_string(),
            source,
        };
        let mut file = tokio::fs::File::create(path).await.map_err(unwritable)?;
        loop {
            let chunk = response.chunk().await.map_err(|error| Error::Unreachable {
                server: self.server().to_owned(),
                detail: root_cause(&error),
            })?;
            match chunk {
                Some(chunk) => file.write_all(&chunk).await.map_err(unwritable)?,
                None => return file.flush().await.map_err(unwritable),
            }
        }
    }
}

/// About how much of the stream is encoded at a time, in bytes.
const STREAM_CHUNK_BYTES: usize = 256 << 10;

fn ndjson_body<S>(workload: &Workload, tasks: S) -> Result<Body, Error>
where
    S: Iterator<Item = TaskSpec> + Send + 'static,
{
    let mut first = serde_json::to_vec(workload).map_err(|error| Error::Garbled {
        call: "POST /v1/jobs".to_owned(),
        detail: error.to_string(),
    })?;
    first.push(b'\n');
    let mut tasks = tasks.peekable();
    let chunks = std::iter::from_fn(move || {
        tasks.peek()?;
        let mut chunk = Vec::with_capacity(STREAM_CHUNK_BYTES + 1024);
        while chunk.len() < STREAM_CHUNK_BYTES
            && let Some(task) = tasks.next()
        {
            if let Err(error) = serde_json::to_writer(&mut chunk, &task) {
                return Some(Err(std::io::Error::other(error)));
            }
            chunk.push(b'\n');
        }
        Some(Ok(bytes::Bytes::from(chunk)))
    });
    let all = std::iter::once(Ok(bytes::Bytes::from(first))).chain(chunks);
    Ok(Body::wrap_stream(futures::stream::iter(all)))
}

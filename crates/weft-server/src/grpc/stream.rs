//! A job whose tasks come as messages.

use tonic::Streaming;
use weft_proto::api;
use weft_proto::api::submit_stream_request::Message;
use weft_types::{FieldError, TaskSpec, Workload, parse_json};

use super::convert::task_spec;
use super::status::malformed;
use crate::rest::problem::ApiError;
use crate::rest::stream::Source;

/// The messages of a client: a job, then batches of tasks.
pub struct Messages {
    stream: Streaming<api::SubmitStreamRequest>,
    ready: std::vec::IntoIter<api::Task>,
}

impl Messages {
    /// Reads from a client's stream.
    pub fn new(stream: Streaming<api::SubmitStreamRequest>) -> Self {
        Self {
            stream,
            ready: Vec::new().into_iter(),
        }
    }

    async fn next(&mut self) -> Result<Option<Message>, ApiError> {
        match self.stream.message().await {
            Ok(None) => Ok(None),
            Ok(Some(api::SubmitStreamRequest {
                message: Some(message),
            })) => Ok(Some(message)),
            Ok(Some(_)) => Err(FieldError::new("message", "neither `workload` nor `tasks`").into()),
            Err(status) => Err(malformed(&status)),
        }
    }
}

impl Source for Messages {
    async fn job(&mut self) -> Result<Workload, ApiError> {
        match self.next().await? {
            Some(Message::Workload(json)) => {
                let workload = parse_json(json.as_bytes()).and_then(|workload: Workload| {
                    workload.check()?;
                    Ok(workload)
                });
                Ok(workload.map_err(|error| error.within("workload"))?)
            }
            Some(Message::Tasks(_)) => {
                Err(FieldError::new("tasks", "the first message must be `workload`").into())
            }
            None => Err(FieldError::new("", "the stream is empty").into()),
        }
    }

    async fn task(&mut self, index: usize) -> Result<Option<TaskSpec>, ApiError> {
        loop {
            if let Some(task) = self.ready.next() {
                return Ok(Some(task_spec(index, task)?));
            }
            match self.next().await? {
                Some(Message::Tasks(batch)) => self.ready = batch.tasks.into_iter(),
                Some(Message::Workload(_)) => {
                    return Err(
                        FieldError::new("workload", "only the first message may have it").into(),
                    );
                }
                None => return Ok(None),
            }
        }
    }
}

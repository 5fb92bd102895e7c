//! `POST /v1/jobs`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use prost::Message;
use serde::Deserialize;
use weft_api::{JobView, MAX_BODY_BYTES, NDJSON_CONTENT_TYPE};
use weft_core::dispatch::Submission;
use weft_placement::Request as PlacementRequest;
use weft_types::{FieldError, JobId, RuntimeKind, TaskSpec, Timestamp, Workload, parse_json};

use super::page::{Params, wait};
use super::problem::ApiError;
use super::{App, after, jobs, stream};
use crate::dispatch::NewJob;
use crate::services::apply::only_job;
use crate::state::Server;

/// The longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 128;

/// Parameters of a submission.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubmitParams {
    /// Answer once the job is final or this is over.
    wait: Option<String>,
}

/// Takes a job as JSON, or as NDJSON with a task a line; answers when it is on disk.
pub async fn submit(
    State(server): App,
    Params(params): Params<SubmitParams>,
    request: Request,
) -> Result<Response, ApiError> {
    let wait = wait(params.wait.as_deref())?;
    let (parts, body) = request.into_parts();
    let key = idempotency_key(&parts.headers)?;
    let content = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let content = content.map(|value| value.split(';').next().unwrap_or_default().trim());
    let id = match content {
        Some(content) if content.eq_ignore_ascii_case(NDJSON_CONTENT_TYPE) => {
            stream::accept(&server, stream::Lines::new(body), key).await?
        }
        Some(content) if content.eq_ignore_ascii_case("application/json") => {
            let workload: Workload = parse_json(&whole(body).await?)?;
            accept(&server, workload, key).await?
        }
        _ => {
            return Err(ApiError::wrong_content(
                "application/json or application/x-ndjson",
            ));
        }
    };
    Ok(created(&answer(&server, id, wait).await?))
}

/// The answer to a submission.
pub(crate) async fn answer(
    server: &Server,
    id: JobId,
    wait: Duration,
) -> Result<JobView, ApiError> {
    if wait.is_zero() {
        jobs::view(server, id).await
    } else {
        jobs::waited(server, id, wait).await
    }
}

fn created(view: &JobView) -> Response {
    let location = format!("/v1/jobs/{}", view.id);
    (
        StatusCode::CREATED,
        [(header::LOCATION, location)],
        Json(view),
    )
        .into_response()
}

/// A body up to the limit.
pub(super) async fn whole(body: Body) -> Result<Bytes, ApiError> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::too_large(MAX_BODY_BYTES))
        }
        Err(error) => Err(FieldError::new("", format!("the body broke off: {error}")).into()),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = checked_key("Idempotency-Key", value.to_str().unwrap_or_default())?;
    Ok(Some(key))
}

/// An idempotency key that a client sent in this field.
///
/// # Errors
/// When it is empty, too long or has other characters than visible ones.
pub(crate) fn checked_key(field: &str, key: &str) -> Result<String, FieldError> {
    let visible = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !visible {
        return Err(FieldError::new(
            field,
            format!("not 1 to {MAX_KEY_BYTES} visible ASCII characters"),
        ));
    }
    Ok(key.to_owned())
}

/// Checks a job and takes it; resolves when it is on disk.
///
/// # Errors
/// The first field that is refused, or when the queue or the disk is full.
pub(crate) async fn accept(
    server: &Arc<Server>,
    mut workload: Workload,
    key: Option<String>,
) -> Result<JobId, ApiError> {
    workload.check()?;
    only_job(&workload)?;
    after::settle(server, &mut workload).await?;
    let job = whole_job(workload, key, server.clock.wall())?;
    Ok(server.dispatcher.submit(job).await?)
}

/// Encodes a checked and settled workload with all its tasks.
///
/// # Errors
/// The field that is refused.
pub(crate) fn whole_job(
    mut workload: Workload,
    key: Option<String>,
    now: Timestamp,
) -> Result<NewJob, FieldError> {
    let graph = workload.task_graph()?.map(Arc::new);
    let mut tasks = std::mem::take(&mut workload.tasks);
    let inputs = workload.inputs.take().unwrap_or_default();
    if !inputs.files.is_empty() {
        return Err(FieldError::new(
            "inputs.files",
            "files are uploaded by the CLI; give `tasks` with `blob`",
        ));
    }
    tasks.extend(inputs.tasks);
    let count = match inputs.array {
        Some(count) => u32::try_from(count).unwrap_or(u32::MAX),
        None if tasks.is_empty() => 1,
        None => u32::try_from(tasks.len()).unwrap_or(u32::MAX),
    };
    let payloads = tasks
        .iter()
        .enumerate()
        .map(|(index, task)| encode_task(task).map_err(|error| at_task(index, error)))
        .collect::<Result<Vec<_>, _>>()?;
    let mut job = new_job(&workload, count, now)?;
    job.submission.graph = graph;
    job.payloads = payloads;
    job.idempotency_key = key;
    Ok(job)
}

/// A job of a checked and settled workload, without payloads.
pub(super) fn new_job(
    workload: &Workload,
    tasks: u32,
    now: Timestamp,
) -> Result<NewJob, FieldError> {
    let name = workload
        .name
        .as_ref()
        .map_or_else(|| default_name(workload), ToString::to_string);
    let json =
        serde_json::to_vec(workload).map_err(|error| FieldError::new("", error.to_string()))?;
    let spec = weft_proto::job_spec(workload, &name, json).encode_to_vec();
    Ok(NewJob {
        submission: submission(workload, tasks, now),
        name,
        runtime: workload.runtime.as_str(),
        spec: spec.into(),
        payloads: Vec::new(),
        idempotency_key: None,
    })
}

/// What the machine needs to know of a settled workload; what its tasks wait for comes on top.
pub(crate) fn submission(workload: &Workload, tasks: u32, now: Timestamp) -> Submission {
    let left = workload
        .deadline
        .map(|deadline| deadline.at(now).since(now));
    Submission {
        id: JobId(0),
        namespace: workload.namespace.clone(),
        request: PlacementRequest {
            resources: workload.resources(),
            runtime: workload.runtime,
            placement: workload.placement.clone(),
            ..PlacementRequest::default()
        },
        priority: workload.priority,
        retry: workload.retry.clone(),
        tasks,
        sealed: true,
        deadline_ms: left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        after: after::jobs(workload),
        graph: None,
        speculate: workload.speculate,
    }
}

/// A name that says what it does.
fn default_name(workload: &Workload) -> String {
    let words = match workload.runtime {
        RuntimeKind::Process => workload
            .process
            .as_ref()
            .and_then(|process| process.command.first()),
        RuntimeKind::Wasm => workload.wasm.as_ref().and_then(|wasm| wasm.module.as_ref()),
        _ => None,
    };
    let base = words
        .and_then(|word| word.rsplit('/').next())
        .unwrap_or(workload.runtime.as_str());
    base.chars().take(weft_types::MAX_NAME_BYTES).collect()
}

/// A checked task as the journal and the agents have it; empty when it is like its job says.
pub(super) fn encode_task(task: &TaskSpec) -> Result<Bytes, FieldError> {
    let payload = weft_proto::task_payload(task)
        .map_err(|error| FieldError::new(error.field, error.detail))?;
    Ok(payload.encode_to_vec().into())
}

/// The error of a task, with its place in the list.
pub(crate) fn at_task(index: usize, error: FieldError) -> FieldError {
    FieldError::new(format!("tasks[{index}].{}", error.path), error.message)
}

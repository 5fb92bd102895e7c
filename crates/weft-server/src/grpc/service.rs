//! The methods of `weft.v1.Weft`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};
use weft_proto::api;
use weft_types::{JobId, Workload, parse_json};

use super::{convert, services, status, stream, unit_streams};
use crate::metrics::Door;
use crate::rest::events::{EventParams, follow};
use crate::rest::page::{MAX_WAIT, PageParams, job_id};
use crate::rest::problem::ApiError;
use crate::rest::results::{Cursor, End, Next, Wanted, is_in_order};
use crate::rest::{jobs, nodes, submit};
use crate::state::Server;
use crate::watch::JobWatch;

/// The clients' interface over gRPC.
pub struct WeftService {
    server: Arc<Server>,
}

type Answer<T> = Result<Response<T>, Status>;
type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WeftService {
    /// The service over a server's state.
    pub fn new(server: Arc<Server>) -> Self {
        Self { server }
    }

    async fn accept(&self, request: api::SubmitRequest) -> Result<JobId, ApiError> {
        let workload = parse_json(request.workload.as_bytes());
        let mut workload: Workload = workload.map_err(|error| error.within("workload"))?;
        let listed = workload.tasks.len();
        let has_tasks = !request.tasks.is_empty();
        for (index, task) in request.tasks.into_iter().enumerate() {
            workload
                .tasks
                .push(convert::task_spec(listed + index, task)?);
        }
        let key = Some(request.idempotency_key).filter(|key| !key.is_empty());
        let key = key
            .map(|key| submit::checked_key("idempotency_key", &key))
            .transpose()?;
        let accepted = submit::accept(&self.server, workload, key).await;
        // `tasks[…]` names the tasks of the message, where it has any.
        accepted.map_err(|error| match error.problem().errors.first() {
            Some(field) if has_tasks && field.path.starts_with("tasks") => error,
            _ => error.within("workload"),
        })
    }

    async fn cursor(&self, request: api::ResultsRequest) -> Result<Cursor, ApiError> {
        let id = job_id(&request.job)?;
        let order = Some(request.order.as_str()).filter(|order| !order.is_empty());
        let wanted = Wanted {
            in_order: is_in_order(order)?,
            deadline: request.wait_ms.map(|ms| Instant::now() + bounded(ms)),
            seen: request
                .seen
                .iter()
                .map(|range| [range.first, range.last])
                .collect(),
        };
        Cursor::open(Arc::clone(&self.server), id, wanted, Door::Grpc).await
    }
}

/// A wait in milliseconds.
pub(super) fn bounded(wait_ms: u64) -> Duration {
    Duration::from_millis(wait_ms).min(MAX_WAIT)
}

fn page(limit: u32, cursor: String) -> PageParams {
    PageParams {
        limit: usize::try_from(limit).ok().filter(|limit| *limit > 0),
        cursor: Some(cursor).filter(|cursor| !cursor.is_empty()),
        ..PageParams::default()
    }
}

fn answer<T, V>(outcome: Result<V, ApiError>, message: impl FnOnce(V) -> T) -> Answer<T> {
    outcome
        .map(|view| Response::new(message(view)))
        .map_err(|error| status::of(&error))
}

#[tonic::async_trait]
impl api::weft_server::Weft for WeftService {
    type WatchStream = MessageStream<api::Job>;
    type ResultsStream = MessageStream<api::TaskResult>;
    type EventsStream = MessageStream<api::Event>;
    type WorkloadLogsStream = unit_streams::Answers<api::UnitLogLine>;
    type ExecStream = unit_streams::Answers<api::ExecResponse>;
    type PortForwardStream = unit_streams::Answers<api::PortForwardResponse>;

    async fn submit(&self, request: Request<api::SubmitRequest>) -> Answer<api::Job> {
        let request = request.into_inner();
        let wait = bounded(request.wait_ms);
        let submitted = async {
            let id = self.accept(request).await?;
            submit::answer(&self.server, id, wait).await
        };
        answer(submitted.await, convert::job)
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<api::SubmitStreamRequest>>,
    ) -> Answer<api::Job> {
        let key = request.metadata().get("idempotency-key").cloned();
        let messages = stream::Messages::new(request.into_inner());
        let submitted = async {
            let key = key
                .map(|key| submit::checked_key("idempotency-key", key.to_str().unwrap_or_default()))
                .transpose()?;
            let id = crate::rest::stream::accept(&self.server, messages, key).await?;
            jobs::view(&self.server, id).await
        };
        answer(submitted.await, convert::job)
    }

    async fn get_job(&self, request: Request<api::GetJobRequest>) -> Answer<api::Job> {
        let found = async {
            let id = job_id(&request.get_ref().job)?;
            jobs::waited(&self.server, id, Duration::ZERO).await
        };
        answer(found.await, convert::job)
    }

    async fn list_jobs(
        &self,
        request: Request<api::ListJobsRequest>,
    ) -> Answer<api::ListJobsResponse> {
        let request = request.into_inner();
        let params = page(request.limit, request.cursor);
        answer(jobs::newest(&self.server, &params).await, |page| {
            api::ListJobsResponse {
                jobs: page.items.into_iter().map(convert::job).collect(),
                next: page.next.unwrap_or_default(),
            }
        })
    }

    async fn wait(&self, request: Request<api::WaitRequest>) -> Answer<api::Job> {
        let request = request.into_inner();
        let waited = async {
            let id = job_id(&request.job)?;
            jobs::waited(&self.server, id, bounded(request.timeout_ms)).await
        };
        answer(waited.await, convert::job)
    }

    async fn watch(&self, request: Request<api::WatchRequest>) -> Answer<Self::WatchStream> {
        let id = job_id(&request.get_ref().job).map_err(|error| status::of(&error))?;
        let watch = JobWatch::new(Arc::clone(&self.server), id, Door::Grpc);
        let views = futures::stream::try_unfold(watch, |mut watch| async move {
            let view = watch.next().await?;
            Ok(view.map(|view| (convert::job(view), watch)))
        });
        let views = views.map_err(|error: ApiError| status::of(&error));
        Ok(Response::new(Box::pin(views)))
    }

    async fn results(&self, request: Request<api::ResultsRequest>) -> Answer<Self::ResultsStream> {
        let cursor = self.cursor(request.into_inner()).await;
        let cursor = cursor.map_err(|error| status::of(&error))?;
        let results = futures::stream::try_unfold(cursor, |mut cursor| async move {
            let result = next_result(&mut cursor).await;
            let result = result.map_err(|error| status::of(&error))?;
            Ok(result.map(|result| (result, cursor)))
        });
        Ok(Response::new(Box::pin(results)))
    }

    async fn cancel(&self, request: Request<api::CancelRequest>) -> Answer<api::Job> {
        let cancelled = async {
            let id = job_id(&request.get_ref().job)?;
            jobs::cancelled(&self.server, id).await
        };
        answer(cancelled.await, convert::job)
    }

    async fn retry(&self, request: Request<api::RetryRequest>) -> Answer<api::Job> {
        let again = async {
            let id = job_id(&request.get_ref().job)?;
            jobs::requeued(&self.server, id).await
        };
        answer(again.await, convert::job)
    }

    async fn list_nodes(
        &self,
        request: Request<api::ListNodesRequest>,
    ) -> Answer<api::ListNodesResponse> {
        let request = request.into_inner();
        let page = nodes::page(&self.server, &page(request.limit, request.cursor));
        Ok(Response::new(api::ListNodesResponse {
            nodes: page.items.into_iter().map(convert::node).collect(),
            next: page.next.unwrap_or_default(),
        }))
    }

    async fn events(&self, request: Request<api::EventsRequest>) -> Answer<Self::EventsStream> {
        let request = request.into_inner();
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let params = EventParams {
            since: Some(request.since),
            follow: Some(request.follow),
            kind: given(request.r#type),
            subject: given(request.subject),
        };
        let events = follow(Arc::clone(&self.server), params, Door::Grpc);
        Ok(Response::new(Box::pin(
            events.map(|event| Ok(convert::event(event))),
        )))
    }

    async fn apply(&self, request: Request<api::ApplyRequest>) -> Answer<api::ApplyResponse> {
        let applied = services::apply(&self.server, request.into_inner()).await;
        answer(applied, |message| message)
    }

    async fn get_workload(
        &self,
        request: Request<api::GetWorkloadRequest>,
    ) -> Answer<api::ServiceView> {
        let found = services::get(&self.server, request.into_inner()).await;
        answer(found, |message| message)
    }

    async fn list_workloads(
        &self,
        request: Request<api::ListWorkloadsRequest>,
    ) -> Answer<api::ListWorkloadsResponse> {
        let page = services::list(&self.server, request.into_inner());
        answer(page, |message| message)
    }

    async fn plan_workload(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Answer<api::PlanWorkloadResponse> {
        let planned = services::planned(&self.server, request.into_inner()).await;
        answer(planned, |message| message)
    }

    async fn explain_workload(
        &self,
        request: Request<api::ExplainWorkloadRequest>,
    ) -> Answer<api::ExplainWorkloadResponse> {
        let explained = services::explained(&self.server, request.get_ref());
        answer(explained, |message| message)
    }

    async fn patch_workload(
        &self,
        request: Request<api::PatchWorkloadRequest>,
    ) -> Answer<api::ServiceView> {
        let changed = services::patch(&self.server, request.into_inner()).await;
        answer(changed, |message| message)
    }

    async fn pause_workload(
        &self,
        request: Request<api::PauseWorkloadRequest>,
    ) -> Answer<api::ServiceView> {
        let changed = services::pause(&self.server, request.get_ref()).await;
        answer(changed, |message| message)
    }

    async fn delete_workload(
        &self,
        request: Request<api::DeleteWorkloadRequest>,
    ) -> Answer<api::DeleteWorkloadResponse> {
        let deleted = services::delete(&self.server, request.into_inner()).await;
        answer(deleted, |message| message)
    }

    async fn workload_logs(
        &self,
        request: Request<api::WorkloadLogsRequest>,
    ) -> Answer<Self::WorkloadLogsStream> {
        let lines = services::output(&self.server, request.into_inner()).await;
        answer(lines, |stream| stream)
    }

    async fn exec(
        &self,
        request: Request<Streaming<api::ExecRequest>>,
    ) -> Answer<Self::ExecStream> {
        let opened = unit_streams::exec(&self.server, request.into_inner()).await;
        answer(opened, |stream| stream)
    }

    async fn port_forward(
        &self,
        request: Request<Streaming<api::PortForwardRequest>>,
    ) -> Answer<Self::PortForwardStream> {
        let opened = unit_streams::port_forward(&self.server, request.into_inner()).await;
        answer(opened, |stream| stream)
    }
}

async fn next_result(cursor: &mut Cursor) -> Result<Option<api::TaskResult>, ApiError> {
    loop {
        match cursor.next().await {
            Next::Result(view) => return Ok(Some(convert::result(*view))),
            Next::Idle => cursor.wait().await,
            Next::End(End::Complete | End::WaitOver) => return Ok(None),
            Next::End(End::Gone) => return Err(cursor.gone()),
            Next::End(End::Stopping) => return Err(ApiError::stopping()),
        }
    }
}

//! A client of the gRPC interface: submits a job, follows it, reads its results.
//!
//! `weft_proto::api` is what `tonic-prost-build` makes of `crates/weft-proto/proto/weft/v1/api.proto`;
//! another language generates its own from the same file. docs/grpc.md has the rest.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};
use weft_proto::api::weft_client::WeftClient;
use weft_proto::api::{ResultsRequest, SubmitRequest, Task, TaskResult, WatchRequest, task::Input};

/// Counts the asterisks in each text, one task a text. `token` is that of `admin.json`; it is not
/// needed on a channel that shows a client certificate.
pub async fn count_asterisks(
    channel: Channel,
    token: &str,
    texts: &[&'static str],
) -> Result<Vec<TaskResult>, Status> {
    let bearer: MetadataValue<Ascii> = format!("Bearer {token}")
        .parse()
        .map_err(|_| Status::invalid_argument("token: not ASCII"))?;
    let mut weft = WeftClient::with_interceptor(channel, move |mut request: Request<()>| {
        request
            .metadata_mut()
            .insert("authorization", bearer.clone());
        Ok(request)
    });

    let tasks = texts.iter().map(|text| Task {
        input: Some(Input::Data(text.as_bytes().into())),
        ..Task::default()
    });
    let job = weft
        .submit(SubmitRequest {
            workload: r#"{"name": "stars", "runtime": "op", "op": {"op": "counteq", "imm": 42}}"#
                .into(),
            tasks: tasks.collect(),
            // Sending it again, after a broken connection for example, submits nothing twice.
            idempotency_key: format!("stars-{}", std::process::id()),
            ..SubmitRequest::default()
        })
        .await?
        .into_inner();

    let watched = WatchRequest {
        job: job.id.clone(),
    };
    let mut changes = weft.watch(watched).await?.into_inner();
    while let Some(job) = changes.message().await? {
        let tasks = job.tasks.unwrap_or_default();
        eprintln!(
            "{}: {} of {} tasks completed",
            job.state, tasks.completed, tasks.total
        );
    }

    let wanted = ResultsRequest {
        job: job.id,
        order: "task".into(),
        ..ResultsRequest::default()
    };
    let mut stream = weft.results(wanted).await?.into_inner();
    let mut results = Vec::new();
    while let Some(result) = stream.message().await? {
        results.push(result);
    }
    Ok(results)
}

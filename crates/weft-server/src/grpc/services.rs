//! Services over gRPC: messages in, the functions of REST, messages out.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_api::{UnitLogView, UnitView, WorkloadPatch, WorkloadView};
use weft_proto::v1::open_tunnel::What;
use weft_proto::v1::tunnel_frame::Frame;
use weft_proto::{api, v1};
use weft_types::{FieldError, Workload, parse_json};

use super::convert::why;
use super::status::{self, malformed};
use crate::outcome;
use crate::rest::problem::ApiError;
use crate::rest::unit_streams::{checked_exec, checked_port, since_ms, tunnel};
use crate::rest::workloads::{
    Condition, ListParams, ShowParams, applied, deleted, page, patched, shown,
};
use crate::services::tunnels::{Reader, Tunnel, Writer, failure};
use crate::services::{find, logs};
use crate::state::Server;

/// Messages that wait for a client; a slower one slows down the unit.
const MAX_WAITING_MESSAGES: usize = 16;

/// A stream of answers.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn given(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Applies a service.
pub async fn apply(
    server: &Server,
    request: api::ApplyRequest,
) -> Result<api::ApplyResponse, ApiError> {
    let workload = parse_json(request.workload.as_bytes());
    let workload: Workload = workload.map_err(|error| error.within("workload"))?;
    let applied = applied(server, workload, request.revision)
        .await
        .map_err(|error| error.within("workload"))?;
    let outcome = serde_json::to_value(applied.outcome).unwrap_or_default();
    Ok(api::ApplyResponse {
        outcome: outcome.as_str().unwrap_or_default().to_owned(),
        changes: applied
            .changes
            .into_iter()
            .map(|change| api::Change {
                path: change.path,
                from: change.from,
                to: change.to,
            })
            .collect(),
        workload: Some(service(applied.workload)),
    })
}

/// One service.
pub async fn get(
    server: &Server,
    request: api::GetWorkloadRequest,
) -> Result<api::ServiceView, ApiError> {
    let condition = match request.condition.as_str() {
        "" | "healthy" => Condition::Healthy,
        "running" => Condition::Running,
        "gone" => Condition::Gone,
        other => {
            let message = format!("{other:?} is none of running, healthy and gone");
            return Err(FieldError::new("condition", message).into());
        }
    };
    let params = ShowParams {
        namespace: given(request.namespace),
        wait: Some(format!("{}ms", request.wait_ms)),
        r#for: Some(condition),
    };
    shown(server, &request.workload, &params).await.map(service)
}

/// A page of services.
pub fn list(
    server: &Server,
    request: api::ListWorkloadsRequest,
) -> Result<api::ListWorkloadsResponse, ApiError> {
    let state = given(request.state).map(|text| {
        serde_json::from_value(text.clone().into())
            .map_err(|_| FieldError::new("state", format!("{text:?} is not a state of a service")))
    });
    let params = ListParams {
        limit: usize::try_from(request.limit)
            .ok()
            .filter(|limit| *limit > 0),
        cursor: given(request.cursor),
        namespace: given(request.namespace),
        state: state.transpose()?,
    };
    let page = page(server, &params)?;
    Ok(api::ListWorkloadsResponse {
        workloads: page.items.into_iter().map(service).collect(),
        next: page.next.unwrap_or_default(),
    })
}

/// Changes a service.
pub async fn patch(
    server: &Server,
    request: api::PatchWorkloadRequest,
) -> Result<api::ServiceView, ApiError> {
    let patch = WorkloadPatch {
        scale: request.scale,
        stopped: request.stopped,
        restart: request.restart,
    };
    let namespace = find::namespace(Some(&request.namespace))?;
    let view = patched(
        server,
        &request.workload,
        &namespace,
        &patch,
        request.revision,
    );
    view.await.map(service)
}

/// Deletes a service.
pub async fn delete(
    server: &Server,
    request: api::DeleteWorkloadRequest,
) -> Result<api::DeleteWorkloadResponse, ApiError> {
    let namespace = find::namespace(Some(&request.namespace))?;
    let wait = super::service::bounded(request.wait_ms);
    let (view, gone) = deleted(
        server,
        &request.workload,
        &namespace,
        request.revision,
        wait,
    )
    .await?;
    Ok(api::DeleteWorkloadResponse {
        workload: Some(service(view)),
        gone,
    })
}

/// What units print.
pub async fn output(
    server: &Arc<Server>,
    request: api::WorkloadLogsRequest,
) -> Result<Answers<api::UnitLogLine>, ApiError> {
    let namespace = find::namespace(Some(&request.namespace))?;
    let found = find::service(server, &request.workload, &namespace)?;
    let wanted = logs::Wanted {
        unit: given(request.unit),
        follow: request.follow,
        tail: request.tail,
        since_ms: since_ms(Some(&request.since), server.clock.wall())?,
        previous: request.previous,
    };
    let lines = logs::open(Arc::clone(server), &found, wanted).await?;
    Ok(Box::pin(
        ReceiverStream::new(lines).map(|line| Ok(log_line(line))),
    ))
}

fn log_line(line: UnitLogView) -> api::UnitLogLine {
    api::UnitLogLine {
        unit: line.unit,
        part: line.part,
        at: line.at,
        stream: line.stream,
        line: line.line,
    }
}

/// Runs a command inside a unit.
pub async fn exec(
    server: &Arc<Server>,
    mut requests: Streaming<api::ExecRequest>,
) -> Result<Answers<api::ExecResponse>, ApiError> {
    use api::exec_request::Message;
    let first = requests
        .message()
        .await
        .map_err(|status| malformed(&status))?;
    let Some(Message::Start(start)) = first.and_then(|first| first.message) else {
        return Err(FieldError::new("start", "the first message must be `start`").into());
    };
    let size = start.size.unwrap_or_default();
    let exec = checked_exec(v1::ExecStart {
        command: start.command,
        part: start.part,
        tty: start.tty,
        columns: size.columns,
        rows: size.rows,
    })?;
    let target = (start.workload, given(start.namespace), given(start.unit));
    let tunnel = tunnel(server, target, What::Exec(exec)).await?;
    let to_frame = |request: api::ExecRequest| match request.message? {
        Message::Stdin(bytes) => Some(Frame::Stdin(bytes)),
        Message::Eof(_) => Some(Frame::Eof(true)),
        Message::Resize(size) => Some(Frame::Resize(v1::Resize {
            columns: size.columns,
            rows: size.rows,
        })),
        Message::Start(_) => None,
    };
    Ok(carry(server, requests, tunnel, to_frame, exec_answer))
}

/// An answer, and whether it is the last.
fn exec_answer(frame: Frame) -> Option<(Result<api::ExecResponse, Status>, bool)> {
    use api::exec_response::Message;
    let (message, is_last) = match frame {
        Frame::Stdout(bytes) => (Message::Stdout(bytes), false),
        Frame::Stderr(bytes) => (Message::Stderr(bytes), false),
        Frame::Exit(code) => (Message::ExitCode(code), true),
        Frame::Error(error) => {
            let (reason, detail) = failure(&error);
            (Message::Error(why(outcome::why(reason, &detail))), true)
        }
        _ => return None,
    };
    let message = Some(message);
    Some((Ok(api::ExecResponse { message }), is_last))
}

/// A connection to a port inside a unit.
pub async fn port_forward(
    server: &Arc<Server>,
    mut requests: Streaming<api::PortForwardRequest>,
) -> Result<Answers<api::PortForwardResponse>, ApiError> {
    use api::port_forward_request::Message;
    let first = requests
        .message()
        .await
        .map_err(|status| malformed(&status))?;
    let Some(Message::Start(start)) = first.and_then(|first| first.message) else {
        return Err(FieldError::new("start", "the first message must be `start`").into());
    };
    let port = checked_port(start.port)?;
    let target = (start.workload, given(start.namespace), given(start.unit));
    let tunnel = tunnel(server, target, What::Port(port)).await?;
    let to_frame = |request: api::PortForwardRequest| match request.message? {
        Message::Data(bytes) => Some(Frame::Data(bytes)),
        Message::Start(_) => None,
    };
    Ok(carry(server, requests, tunnel, to_frame, port_answer))
}

fn port_answer(frame: Frame) -> Option<(Result<api::PortForwardResponse, Status>, bool)> {
    match frame {
        Frame::Data(data) => Some((Ok(api::PortForwardResponse { data }), false)),
        Frame::Error(error) => {
            let (reason, detail) = failure(&error);
            let status = Status::unavailable(format!("{reason}: {detail}"));
            Some((Err(status), true))
        }
        _ => None,
    }
}

/// What a frame is to a client, and whether it is the last; nothing when it says nothing.
type ToAnswer<A> = fn(Frame) -> Option<(Result<A, Status>, bool)>;

/// Carries messages both ways until the unit ends or the client is gone.
fn carry<Q, A>(
    server: &Arc<Server>,
    requests: Streaming<Q>,
    tunnel: Tunnel,
    to_frame: impl Fn(Q) -> Option<Frame> + Send + 'static,
    answer: ToAnswer<A>,
) -> Answers<A>
where
    Q: Send + 'static,
    A: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(MAX_WAITING_MESSAGES);
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let Tunnel { writer, reader } = tunnel;
        tokio::select! {
            () = up(requests, writer, to_frame) => {}
            () = down(reader, &sender, answer) => {}
            () = sender.closed() => {}
            () = server.stopping.cancelled() => {
                let _ = sender.try_send(Err(status::of(&ApiError::stopping())));
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// From the client to the unit; ends when the client breaks off. One that has nothing more to say
/// still listens.
async fn up<Q>(mut requests: Streaming<Q>, writer: Writer, to_frame: impl Fn(Q) -> Option<Frame>) {
    loop {
        match requests.message().await {
            Ok(Some(request)) => {
                let Some(frame) = to_frame(request) else {
                    return;
                };
                if !writer.send(frame).await {
                    break;
                }
            }
            Ok(None) => break,
            Err(_) => return,
        }
    }
    std::future::pending::<()>().await;
}

async fn down<A>(
    mut reader: Reader,
    sender: &mpsc::Sender<Result<A, Status>>,
    answer: ToAnswer<A>,
) {
    while let Some(frame) = reader.next().await {
        let Some((message, is_last)) = answer(frame) else {
            continue;
        };
        if sender.send(message).await.is_err() || is_last {
            return;
        }
    }
}

/// A service.
fn service(view: WorkloadView) -> api::ServiceView {
    let replicas = view.replicas;
    api::ServiceView {
        id: view.id,
        name: view.name,
        namespace: view.namespace,
        runtime: view.runtime,
        state: view.state.to_string(),
        why: view.why.map(why),
        revision: view.revision,
        replicas: Some(api::ReplicaCounts {
            wanted: replicas.wanted,
            existing: replicas.existing,
            running: replicas.running,
            ready: replicas.ready,
            updated: replicas.updated,
        }),
        rollout: Some(api::Rollout {
            state: view.rollout.state.as_str().to_owned(),
            detail: view.rollout.detail,
            good_revision: view.rollout.good_revision,
        }),
        ports: view.ports,
        created_at: view.created_at,
        changed_at: view.changed_at,
        spec: view.spec.and_then(|spec| serde_json::to_string(&spec).ok()),
        units: view.units.into_iter().map(unit).collect(),
        failures: view.failures,
        next_try_at: view.next_try_at,
    }
}

fn unit(view: UnitView) -> api::ServiceUnit {
    api::ServiceUnit {
        id: view.id,
        number: view.number,
        node: view.node,
        revision: view.revision,
        state: view.state.to_string(),
        ready: view.ready,
        stopping: view.stopping,
        why: view.why.map(why),
        step: view.step,
        evidence: view.evidence,
        exit_code: view.exit_code,
        restarts: view.restarts,
        address: view.address,
        source: view.source,
        since: view.since,
    }
}

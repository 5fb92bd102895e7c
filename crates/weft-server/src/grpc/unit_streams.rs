//! Streams into units over gRPC: commands and forwarded ports.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_proto::v1::open_tunnel::What;
use weft_proto::v1::tunnel_frame::Frame;
use weft_proto::{api, v1};
use weft_types::FieldError;

use super::convert::why;
use super::services::given;
use super::status::{self, malformed};
use crate::outcome;
use crate::rest::problem::ApiError;
use crate::rest::unit_streams::{checked_exec, checked_port, tunnel};
use crate::services::tunnels::{Reader, Tunnel, Writer, failure};
use crate::state::Server;

/// Messages that wait for a client; a slower one slows down the unit.
const MAX_WAITING_MESSAGES: usize = 16;

/// A stream of answers.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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

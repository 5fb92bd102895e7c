//! HTTP/1.1 on published ports, and between nodes.

mod answer;
mod body;
mod exchange;
mod head;
mod pool;
mod send;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

use answer::Failure;
use body::{AnswerBody, Source};
use exchange::{Client, finish};
pub(crate) use pool::Pool;
use send::send;

use crate::backend::Backend;
use crate::core::Core;
use crate::wire;

/// How much longer than the other node keeps an idle connection this node does, so that it is the
/// one that asks who closes it.
const NODE_IDLE: Duration = Duration::from_secs(15);

/// Serves the requests of a client's connection until it ends, until the one that runs at
/// `closing` has its answer, or until `cut`.
pub(crate) async fn serve_clients(
    core: &Arc<Core>,
    port: u16,
    stream: TcpStream,
    address: IpAddr,
    closing: CancellationToken,
    cut: CancellationToken,
) {
    wire::end_when_stalled(&stream, core.limits.stalled_client);
    let client = Arc::new(Client {
        core: Arc::clone(core),
        port,
        address,
        cut: cut.clone(),
    });
    let service = service_fn(move |request| {
        let client = Arc::clone(&client);
        async move { Ok::<_, Infallible>(client.serve(request).await) }
    });
    let builder = builder(core, core.limits.head);
    serve(&builder, stream, service, &closing, cut.cancelled()).await;
}

/// Serves the requests that another node sends to one replica of this node.
pub(crate) async fn serve_node(
    core: &Arc<Core>,
    stream: TlsStream<TcpStream>,
    backend: Arc<Backend>,
    member: CancellationToken,
) {
    let (relay_core, cut) = (Arc::clone(core), member.clone());
    let service = service_fn(move |request| {
        let (core, backend, cut) = (Arc::clone(&relay_core), Arc::clone(&backend), cut.clone());
        async move { Ok::<_, Infallible>(relay(&core, &backend, cut, request).await) }
    });
    let builder = builder(core, core.limits.idle_age + NODE_IDLE);
    // Not ended when the replica drains or goes: a request that is on its way then would be lost,
    // and may not be sent twice. It is refused instead, and the connection ends with the refusal.
    let never = CancellationToken::new();
    serve(&builder, stream, service, &never, member.cancelled()).await;
}

/// A request of another node, to the replica that it names and to no other.
async fn relay(
    core: &Arc<Core>,
    backend: &Arc<Backend>,
    cut: CancellationToken,
    mut request: Request<Incoming>,
) -> Response<AnswerBody> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    head::relay(&mut parts);
    let source = Source::new(body, core.limits.replay_bytes, core.limits.body_pause);
    let answered = match backend.begin() {
        Ok(flight) => send(core, flight, &parts, &source).await,
        Err(_) => Err(Failure::Unsent(String::new())),
    };
    match answered {
        Ok(answer) => finish(core, answer, upgrade, cut),
        Err(failure) => failure.to_node(),
    }
}

fn builder(core: &Core, head: Duration) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_header_size(core.limits.head_bytes)
        .max_buf_size(core.limits.head_bytes);
    builder
}

async fn serve<S, H>(
    builder: &http1::Builder,
    stream: S,
    service: H,
    closing: &CancellationToken,
    cut: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: HttpService<Incoming, ResBody = AnswerBody, Error = Infallible>,
{
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection, cut);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = closing.cancelled() => connection.as_mut().graceful_shutdown(),
        () = cut.as_mut() => return,
    }
    tokio::select! {
        _ = connection => {}
        () = cut => {}
    }
}

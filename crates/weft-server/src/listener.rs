//! One port for everything: TLS, then HTTP/1.1 or HTTP/2, then REST or gRPC by path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use weft_pki::{ClusterName, Identity, ServerTls, peer_identity};

/// The most connections that are served at once.
const MAX_CONNECTIONS: usize = 20_000;
/// How long a peer may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to send the head of an HTTP/1 request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often an idle HTTP/2 connection is probed, and how long it may take to answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
const MAX_CONCURRENT_STREAMS: u32 = 4_096;
/// Flow-control windows, in bytes: a batch of tasks or a piece of an artifact fits.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// After a failed accept (out of file descriptors, most likely) the wait before the next.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection, as its verified certificate says.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None` when it showed no certificate.
    pub identity: Option<Identity>,
    /// Where it connected from.
    pub address: SocketAddr,
    /// Whether it came without TLS through the loopback-only listener.
    pub insecure: bool,
}

/// How connections are secured.
#[derive(Clone)]
pub enum Security {
    /// TLS 1.3 under the cluster's CA.
    Tls(Arc<ServerTls>, ClusterName),
    /// None: allowed on loopback only, when the user asks for it.
    InsecureLoopback,
}

/// Accepts and serves connections until `shutdown`, then lets running requests finish.
pub async fn serve(
    listener: TcpListener,
    security: Security,
    router: Router,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let connection = Connection {
                    security: security.clone(),
                    router: router.clone(),
                    shutdown: shutdown.clone(),
                    address,
                };
                tokio::spawn(connection.run(stream, slot));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

struct Connection {
    security: Security,
    router: Router,
    shutdown: CancellationToken,
    address: SocketAddr,
}

impl Connection {
    async fn run(self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let _slot = slot;
        // Small messages both ways: Nagle's delay would dominate the round trip.
        let _ = stream.set_nodelay(true);
        match self.security.clone() {
            Security::InsecureLoopback => {
                let peer = Peer {
                    identity: None,
                    address: self.address,
                    insecure: true,
                };
                self.http(stream, peer).await;
            }
            Security::Tls(tls, cluster) => {
                let acceptor = TlsAcceptor::from(tls.config());
                let handshake =
                    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
                let stream = match handshake {
                    Ok(Ok(stream)) => stream,
                    Ok(Err(error)) => {
                        return tracing::debug!(peer = %self.address, %error, "TLS handshake refused");
                    }
                    Err(_) => {
                        return tracing::debug!(peer = %self.address, "TLS handshake took too long");
                    }
                };
                match peer_identity(stream.get_ref().1.peer_certificates(), &cluster) {
                    Ok(identity) => {
                        let peer = Peer {
                            identity,
                            address: self.address,
                            insecure: false,
                        };
                        self.http(stream, peer).await;
                    }
                    Err(error) => {
                        tracing::debug!(peer = %self.address, %error, "certificate names nobody")
                    }
                }
            }
        }
    }

    async fn http<S>(self, stream: S, peer: Peer)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let router = self.router;
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request.map(axum::body::Body::new))
        });
        let builder = http_builder();
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = self.shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

fn http_builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder
}

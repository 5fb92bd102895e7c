//! The port for other nodes. What comes in goes to a replica of this node or nowhere: nothing
//! that came from a node is passed on to another, so that there are no loops.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::{TlsAcceptor, TlsStream, server};
use tokio_util::sync::CancellationToken;
use weft_pki::{PEER_PROTOCOL, PeerTls};
use weft_types::NodeId;

use super::hello::HELLO_BYTES;
use super::{Hello, Kind, Reply};
use crate::backend::{Backend, Flight};
use crate::core::{Core, Opened};
use crate::http;
use crate::metrics::bump;
use crate::tunnel::{either, tunnel};
use crate::unit::Refused;
use crate::wire;

/// How long another node may take for its TLS handshake and its hello.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors, most likely) the wait before the next.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts connections of other nodes until the proxy stops.
pub(crate) async fn serve(core: Arc<Core>, listener: TcpListener, tls: Arc<PeerTls>) {
    let slots = Arc::new(Semaphore::new(core.limits.peer_connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.stop.cancelled() => return,
        };
        match (accepted, Arc::clone(&slots).try_acquire_owned()) {
            (Ok((stream, address)), Ok(slot)) => {
                wire::tune_node(&stream);
                let caller = Caller {
                    core: Arc::clone(&core),
                    tls: Arc::clone(&tls),
                    address,
                };
                core.tasks.spawn(caller.run(stream, slot));
            }
            (Ok(_), Err(_)) => bump(&core.metrics.peers_refused),
            (Err(error), _) => {
                tracing::warn!(%error, "a connection of a node could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// A connection that claims to be of another node.
struct Caller {
    core: Arc<Core>,
    tls: Arc<PeerTls>,
    address: SocketAddr,
}

type Stream = server::TlsStream<TcpStream>;

impl Caller {
    async fn run(self, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let _slot = slot;
        let Ok(greeted) = tokio::time::timeout(HANDSHAKE, self.identify(stream)).await else {
            bump(&self.core.metrics.peers_refused);
            return tracing::debug!(peer = %self.address, "took too long to say what it wants");
        };
        match greeted {
            Ok((stream, member, hello)) => {
                bump(&self.core.metrics.peers_accepted);
                self.answer(stream, hello, member).await;
            }
            Err(why) => {
                bump(&self.core.metrics.peers_refused);
                tracing::debug!(peer = %self.address, why, "refused a connection to the port for nodes");
            }
        }
    }

    async fn identify(
        &self,
        stream: TcpStream,
    ) -> Result<(Stream, CancellationToken, Option<Hello>), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let acceptor = TlsAcceptor::from(self.tls.accept_config());
        let mut stream = acceptor.accept(stream).await.map_err(|e| text(&e))?;
        let session = stream.get_ref().1;
        if session.alpn_protocol() != Some(PEER_PROTOCOL) {
            return Err("it does not speak the protocol of nodes".to_owned());
        }
        let certificates = session.peer_certificates();
        let node: NodeId = self.tls.node(certificates).map_err(|e| text(&e))?;
        let member = self.core.members.admit(&node);
        let member = member.ok_or_else(|| format!("{node} is no member of the cluster"))?;
        let mut hello = [0; HELLO_BYTES];
        stream.read_exact(&mut hello).await.map_err(|e| text(&e))?;
        Ok((stream, member, Hello::decode(&hello)))
    }

    async fn answer(&self, mut stream: Stream, hello: Option<Hello>, member: CancellationToken) {
        let ready = match hello {
            None => Err(Reply::Malformed),
            Some(hello) => self.prepare(hello).await,
        };
        let reply = ready.as_ref().err().copied().unwrap_or(Reply::Ok);
        if stream.write_u8(reply as u8).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        match ready {
            Ok(Ready::Tcp(flight, opened)) => {
                let cut = either(&opened.cut, &member);
                tunnel(TlsStream::Server(stream), opened.wire, cut).await;
                drop(flight);
            }
            Ok(Ready::Http(backend)) => {
                http::serve_node(&self.core, TlsStream::Server(stream), backend, member).await;
            }
            Err(_) => {
                let _ = stream.shutdown().await;
            }
        }
    }

    async fn prepare(&self, hello: Hello) -> Result<Ready, Reply> {
        let backend = self
            .core
            .local_backend(hello.unit, hello.target)
            .ok_or(Reply::Unknown)?;
        let flight = backend.begin().map_err(|refused| match refused {
            Refused::Unknown => Reply::Unknown,
            Refused::NotReady => Reply::NotReady,
        })?;
        match hello.kind {
            // A replica that refuses its first connection is found out when it is asked.
            Kind::Http => Ok(Ready::Http(backend)),
            Kind::Tcp => {
                let opened = self.core.open(&flight, Kind::Tcp).await;
                let opened = opened.map_err(|_| Reply::Unreachable)?;
                Ok(Ready::Tcp(flight, opened))
            }
        }
    }
}

enum Ready {
    Tcp(Flight, Opened),
    Http(Arc<Backend>),
}

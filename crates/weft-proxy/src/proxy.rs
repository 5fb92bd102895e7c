//! The handle that the agent holds.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_types::{NodeId, UnitId};

use crate::core::Core;
use crate::listen::Listeners;
use crate::metrics::{Metrics, bump};
use crate::unit::UnitFlight;
use crate::wire::{self, Counted};
use crate::{Drained, Error, Local, Options, PortError, Result, ServicePort, UnitCounts, peer};

/// How long connections have to end when the proxy is shut down.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The published ports of a node. Stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    core: Arc<Core>,
    listeners: Listeners,
    peer_port: Option<u16>,
}

impl Proxy {
    /// Starts a proxy that serves nothing yet. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`Error::PeerListener`] when the port for other nodes cannot be listened on.
    pub async fn start(options: Options) -> Result<Self> {
        let core = Arc::new(Core::new(&options));
        let mut peer_port = None;
        if let Some(peers) = options.peers {
            let refused = |source| Error::PeerListener {
                address: peers.listen,
                source,
            };
            let listener = TcpListener::bind(peers.listen).await.map_err(refused)?;
            peer_port = Some(listener.local_addr().map_err(refused)?.port());
            core.tasks
                .spawn(peer::serve(Arc::clone(&core), listener, peers.tls));
        }
        core.tasks.spawn(Arc::clone(&core).sweep());
        Ok(Self {
            listeners: Listeners::new(Arc::clone(&core), options.listen),
            core,
            peer_port,
        })
    }

    /// Replaces the table of published ports: the complete one, as the server sends it. Ports that
    /// are new are listened on, ports that left it are not any more; connections of theirs go on
    /// to their end, at most [`crate::Limits::linger`]. Of two services with the same port the
    /// first is served and the other told in [`Proxy::errors`].
    pub fn set_table(&self, table: Vec<ServicePort>) {
        self.core.set_table(table);
        self.listeners.follow_table();
    }

    /// The nodes of the cluster, all of them, as the server says. Others are not let in and not
    /// dialled, and connections with those that are not in the list any more are cut. Until the
    /// first call the nodes that the table names are let in.
    pub fn set_members(&self, members: impl IntoIterator<Item = NodeId>) {
        self.core.members.set(members.into_iter().collect());
    }

    /// Says what a unit of this node is like now. A unit that is not ready or is draining is given
    /// nothing new; a unit that was drained with [`Proxy::drain`] stays closed until
    /// [`Proxy::remove_local`], whatever is said here.
    pub fn set_local(&self, unit: UnitId, local: Local) {
        self.core.set_local(unit, local);
    }

    /// A unit has gone from this node: what it still has is cut and its counts are forgotten.
    pub fn remove_local(&self, unit: UnitId) {
        self.core.remove_local(unit);
    }

    /// Gives nothing new to a unit that is about to be stopped, closes its idle connections and
    /// waits until all others and its requests have ended, at most `bound`. Returns at once for a
    /// unit that does not run here.
    pub async fn drain(&self, unit: UnitId, bound: Duration) -> Drained {
        let remaining = match self.core.seal(unit) {
            Some(unit) => unit.ended(Instant::now() + bound).await,
            None => 0,
        };
        Drained { remaining }
    }

    /// What each unit of this node has done.
    pub fn counts(&self) -> HashMap<UnitId, UnitCounts> {
        let units = self.core.local_units();
        units.iter().map(|unit| (unit.id, unit.counts())).collect()
    }

    /// What the proxy counts of itself.
    pub fn metrics(&self) -> Metrics {
        self.core.metrics.read()
    }

    /// The port for other nodes; `None` when there is none.
    pub fn peer_port(&self) -> Option<u16> {
        self.peer_port
    }

    /// The published ports that are not served now, and why; woken when that changes. A port that
    /// another process holds is tried again, and leaves the list when it is free.
    pub fn errors(&self) -> watch::Receiver<Vec<PortError>> {
        self.listeners.errors()
    }

    /// Connects to a port inside a unit of this node, published or not, ready or not; for
    /// forwarding a port to a person's machine. A drain waits for it.
    ///
    /// # Errors
    /// [`Error::NoSuchUnit`], [`Error::NoSuchTarget`], [`Error::Draining`], [`Error::Connect`].
    pub async fn connect(&self, unit: UnitId, target: u16) -> Result<LocalStream> {
        let missing = Error::NoSuchUnit { unit };
        let known = self.core.local_unit(unit).ok_or(missing)?;
        let flight = known.hold();
        if known.is_sealed() {
            return Err(Error::Draining { unit });
        }
        let targets = known.targets().ok_or(Error::NoSuchUnit { unit })?;
        let address = targets.iter().find(|(port, _)| *port == target);
        let Some((_, address)) = address else {
            let mut known: Vec<_> = targets.iter().map(|(port, _)| *port).collect();
            known.sort_unstable();
            return Err(Error::NoSuchTarget {
                unit,
                target,
                known,
            });
        };
        let stream = wire::connect(*address, self.core.limits.connect).await;
        let stream = stream.map_err(|source| Error::Connect {
            unit,
            target,
            source,
        })?;
        bump(&known.totals.connections);
        Ok(LocalStream {
            stream: Counted::new(stream, known),
            _flight: flight,
        })
    }

    /// Stops listening and closes all connections.
    pub async fn shutdown(self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.core.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                left = self.core.tasks.len(),
                "connections did not end in time"
            );
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.core.stop.cancel();
        self.core.tasks.close();
    }
}

/// A connection to a port inside a unit of this node.
#[derive(Debug)]
pub struct LocalStream {
    stream: Counted,
    _flight: UnitFlight,
}

impl AsyncRead for LocalStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

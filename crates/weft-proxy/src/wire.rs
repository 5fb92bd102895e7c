//! Streams to replicas and clients: one shape for all, with counts and with an end that is
//! either clean or an abort, so that a connection that broke never looks like one that ended.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::unit::Unit;

/// When an idle connection is probed, and how often then.
const KEEPALIVE: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(15)];
/// The same between nodes: requests wait for the answers of a node that has lost its power.
const NODE_KEEPALIVE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(5)];
/// How many lost probes end a connection.
const KEEPALIVE_PROBES: u32 = 4;

/// A byte stream that can be broken off.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    /// Makes the other side see a broken connection, not a clean end, once the stream is dropped.
    fn abort(&self);
}

/// Any such stream.
pub(crate) type AnyWire = Box<dyn Wire>;

impl Wire for TcpStream {
    fn abort(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl Wire for TlsStream<TcpStream> {
    /// Without `close_notify` the other side already sees a truncated stream.
    fn abort(&self) {}
}

impl Wire for AnyWire {
    fn abort(&self) {
        (**self).abort();
    }
}

/// Small messages go out at once, and a peer that vanished is noticed.
pub(crate) fn tune(stream: &TcpStream) {
    set_up(stream, KEEPALIVE);
}

/// The same for a connection between nodes.
pub(crate) fn tune_node(stream: &TcpStream) {
    set_up(stream, NODE_KEEPALIVE);
}

fn set_up(stream: &TcpStream, [after, every]: [Duration; 2]) {
    let keepalive = TcpKeepalive::new()
        .with_time(after)
        .with_interval(every)
        .with_retries(KEEPALIVE_PROBES);
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// Ends a connection whose peer takes no bytes for so long (RFC 5482; also with a closed window).
pub(crate) fn end_when_stalled(stream: &TcpStream, after: Duration) {
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(after));
}

/// Connects, within a bound.
pub(crate) async fn connect(address: SocketAddr, bound: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(bound, TcpStream::connect(address)).await??;
    tune(&stream);
    Ok(stream)
}

/// A stream to a replica of this node, whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: TcpStream,
    unit: Arc<Unit>,
}

impl Counted {
    pub(crate) fn new(stream: TcpStream, unit: Arc<Unit>) -> Self {
        Self { stream, unit }
    }
}

impl Wire for Counted {
    fn abort(&self) {
        self.stream.abort();
    }
}

fn count(total: &AtomicU64, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(bytes)) = &written {
        total.fetch_add(*bytes as u64, Ordering::Relaxed);
    }
    written
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        let total = &self.unit.totals.bytes_out;
        total.fetch_add(bytes as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        count(&self.unit.totals.bytes_in, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        count(&self.unit.totals.bytes_in, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

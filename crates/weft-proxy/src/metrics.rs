//! What the proxy counts of itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the proxy started, and what is open now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Metrics {
    /// Published ports that are listened on now.
    pub ports_listening: u64,
    /// Connections of clients accepted.
    pub connections: u64,
    /// Connections of clients that are open now.
    pub connections_open: u64,
    /// Connections of clients closed at once because the port had as many as it may have.
    pub connections_refused: u64,
    /// TCP connections closed because no replica took them.
    pub connections_failed: u64,
    /// HTTP requests of clients of this node.
    pub requests: u64,
    /// Times that a request or connection was tried at another replica.
    pub retries: u64,
    /// Requests answered with 503 because no replica was ready.
    pub requests_unserved: u64,
    /// Requests answered with 502 or 504 because their replica failed.
    pub requests_failed: u64,
    /// Connections of other nodes let in.
    pub peers_accepted: u64,
    /// Connections to the port for nodes that were refused.
    pub peers_refused: u64,
}

/// The same, while it is counted.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    pub(crate) ports_listening: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) connections_open: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) connections_failed: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) requests_unserved: AtomicU64,
    pub(crate) requests_failed: AtomicU64,
    pub(crate) peers_accepted: AtomicU64,
    pub(crate) peers_refused: AtomicU64,
}

/// Adds one.
pub(crate) fn bump(total: &AtomicU64) {
    total.fetch_add(1, Ordering::Relaxed);
}

/// Counts one for as long as it lives.
pub(crate) struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    pub(crate) fn up(total: &'a AtomicU64) -> Self {
        bump(total);
        Self(total)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Counting {
    pub(crate) fn read(&self) -> Metrics {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        Metrics {
            ports_listening: read(&self.ports_listening),
            connections: read(&self.connections),
            connections_open: read(&self.connections_open),
            connections_refused: read(&self.connections_refused),
            connections_failed: read(&self.connections_failed),
            requests: read(&self.requests),
            retries: read(&self.retries),
            requests_unserved: read(&self.requests_unserved),
            requests_failed: read(&self.requests_failed),
            peers_accepted: read(&self.peers_accepted),
            peers_refused: read(&self.peers_refused),
        }
    }
}

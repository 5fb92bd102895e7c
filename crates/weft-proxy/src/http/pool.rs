//! Connections to one replica over which requests go one after the other.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::body::RequestBody;

/// How long a connection whose answer has been read may take until it is free again.
const SETTLE: Duration = Duration::from_millis(50);

/// A connection to a replica.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<RequestBody>,
    /// Where it leads; a replica that was started again may have moved.
    pub(crate) address: SocketAddr,
    /// Cancelled when it is to be cut.
    pub(crate) cut: CancellationToken,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// Idle connections to one replica.
pub(crate) struct Pool {
    idle: Mutex<Vec<Idle>>,
    max: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({} idle)", self.idle.lock().len())
    }
}

impl Pool {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            idle: Mutex::default(),
            max,
        }
    }

    /// The connection that was used last and not longer than `age` ago.
    pub(crate) async fn take(&self, address: SocketAddr, age: Duration) -> Option<Connection> {
        while let Some(mut connection) = self.pop(address, age) {
            if connection.sender.is_ready() {
                return Some(connection);
            }
            let ready = tokio::time::timeout(SETTLE, connection.sender.ready());
            if let Ok(Ok(())) = ready.await {
                return Some(connection);
            }
        }
        None
    }

    fn pop(&self, address: SocketAddr, age: Duration) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let newest = idle.last()?;
        if newest.since.elapsed() > age {
            return None;
        }
        let usable =
            |idle: &Idle| idle.connection.address == address && !idle.connection.sender.is_closed();
        while let Some(next) = idle.pop() {
            if usable(&next) {
                return Some(next.connection);
            }
        }
        None
    }

    /// Keeps a connection whose answer has been read, while `wanted` says so.
    pub(crate) fn put(&self, connection: Connection, wanted: impl FnOnce() -> bool) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        // Asked under the lock: whoever stops wanting them clears the pool after that.
        if idle.len() < self.max && wanted() {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    pub(crate) fn clear(&self) {
        self.idle.lock().clear();
    }

    /// Closes connections that were not used for `age`.
    pub(crate) fn sweep(&self, age: Duration) {
        self.idle
            .lock()
            .retain(|idle| idle.since.elapsed() < age && !idle.connection.sender.is_closed());
    }
}

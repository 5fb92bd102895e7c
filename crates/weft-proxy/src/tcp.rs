//! A connection on a `tcp` port: to one replica, for as long as both sides keep it.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::backend::{Backend, Flight};
use crate::core::{Core, Opened};
use crate::metrics::bump;
use crate::peer::Kind;
use crate::tunnel::{either, tunnel};
use crate::wire::Wire;

/// Serves one connection until it ends or `cut`.
pub(crate) async fn serve(core: &Core, port: u16, stream: TcpStream, cut: &CancellationToken) {
    let reached = tokio::select! {
        reached = reach(core, port) => reached,
        () = cut.cancelled() => None,
    };
    match reached {
        Some((flight, opened)) => {
            tunnel(stream, opened.wire, either(&opened.cut, cut)).await;
            drop(flight);
        }
        None => {
            bump(&core.metrics.connections_failed);
            stream.abort();
        }
    }
}

/// Connects to a ready replica, waiting for one and passing over those that cannot be reached.
async fn reach(core: &Core, port: u16) -> Option<(Flight, Opened)> {
    let deadline = Instant::now() + core.limits.ready_wait;
    let mut changed = core.changed.subscribe();
    let mut tried: Vec<Arc<Backend>> = Vec::new();
    while tried.len() < core.limits.attempts {
        changed.mark_unchanged();
        let route = core.routes.load().ports.get(&port).map(Arc::clone);
        let Some(backend) = route.and_then(|route| route.for_connection(&tried)) else {
            match timeout_at(deadline, changed.changed()).await {
                Ok(Ok(())) => continue,
                _ => return None,
            }
        };
        if let Ok(flight) = backend.begin() {
            match core.open(&flight, Kind::Tcp).await {
                Ok(opened) => return Some((flight, opened)),
                Err(error) => tracing::debug!(unit = %backend.key.unit, %error, "not reached"),
            }
        }
        bump(&core.metrics.retries);
        tried.push(backend);
    }
    None
}

//! A connection on a `tcp` port: to one replica, for as long as both sides keep it.

use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::backend::Flight;
use crate::core::{Core, Opened};
use crate::metrics::bump;
use crate::peer::Kind;
use crate::routes::Route;
use crate::search::Search;
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
    let mut search = Search::new(core, port, Route::for_connection);
    for _ in 0..core.limits.attempts {
        let flight = search.next().await?;
        let error = match core.open(&flight, Kind::Tcp).await {
            Ok(opened) => return Some((flight, opened)),
            Err(error) => error,
        };
        let backend = Arc::clone(&flight.backend);
        tracing::debug!(unit = %backend.key.unit, %error, "not reached");
        bump(&core.metrics.retries);
        search.failed(backend);
    }
    None
}

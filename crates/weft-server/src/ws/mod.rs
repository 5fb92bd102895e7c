//! `GET /v1/ws`: submitting, watching and results over one WebSocket.
//!
//! - [`connection`]: the socket: reading, writing, idleness, closing.
//! - [`calls`]: the requests of a connection and their bounds.
//! - [`subscription`]: what is told as it happens.
//!
//! Credentials are those of REST. A browser sends none by itself, as the server sets no cookies, so
//! a foreign page gains nothing by opening a connection and `Origin` is not looked at.

mod calls;
mod connection;
mod subscription;

use std::sync::Arc;

use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::response::Response;
use tokio::sync::OwnedSemaphorePermit;
use weft_api::{MAX_BODY_BYTES, Problem};
use weft_types::Reason;

use crate::rest::problem::ApiError;
use crate::state::Server;

/// The most connections at once.
pub const MAX_CONNECTIONS: usize = 4_096;
/// After how many seconds a client that found no room may try again.
const FULL_RETRY_S: u64 = 5;

/// Turns a request into a WebSocket.
pub async fn open(
    State(server): State<Arc<Server>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let (upgrade, room) = upgraded(&server, upgrade)?;
    Ok(upgrade
        .max_message_size(MAX_BODY_BYTES)
        .max_frame_size(MAX_BODY_BYTES)
        .on_upgrade(move |socket| async move {
            connection::serve(server, socket).await;
            drop(room);
        }))
}

/// A request that may become a WebSocket, with the room it takes.
///
/// # Errors
/// When it asks for something else, or there are too many connections.
pub fn upgraded(
    server: &Server,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<(WebSocketUpgrade, OwnedSemaphorePermit), ApiError> {
    let upgrade = upgrade.map_err(|rejection| {
        Problem::new(
            426,
            "upgrade-required",
            Reason::InvalidSpec,
            rejection.body_text(),
        )
        .with_next("open this path as a WebSocket over HTTP/1.1")
    })?;
    let room = Arc::clone(&server.websockets).try_acquire_owned();
    let room = room.map_err(|_| {
        ApiError::too_many(
            format!("there are {MAX_CONNECTIONS} WebSocket connections"),
            FULL_RETRY_S,
        )
    })?;
    Ok((upgrade, room))
}

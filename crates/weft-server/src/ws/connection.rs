//! One WebSocket: a reader that starts calls, a writer that sends what they answer.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite;
use weft_api::{MAX_BODY_BYTES, WsAnswer};
use weft_types::FieldError;

use super::calls::Calls;
use crate::rest::problem::ApiError;
use crate::state::Server;

/// How many messages wait for a client. A client that reads slower than that slows down what is
/// sent to it, and what it sends.
const MAX_WAITING_MESSAGES: usize = 16;
/// How often a client is asked for a sign of life, and how long it may give none.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to accept a message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a refused client may take to read why, before its connection is cut.
const LINGER: Duration = Duration::from_secs(1);

/// Codes of RFC 6455, section 7.4.1.
const GOING_AWAY: u16 = 1001;
const NOT_UTF8: u16 = 1007;
const POLICY: u16 = 1008;
const TOO_LARGE: u16 = 1009;
const PROTOCOL_ERROR: u16 = 1002;

/// Serves a connection to its end.
pub async fn serve(server: Arc<Server>, socket: WebSocket) {
    let _counted = server.metrics.websocket();
    let (sink, mut stream) = socket.split();
    let (outgoing, messages) = mpsc::channel(MAX_WAITING_MESSAGES);
    let writer = tokio::spawn(write(sink, messages));
    let mut calls = Calls::new(Arc::clone(&server), outgoing.clone());
    let goodbye = tokio::select! {
        goodbye = read(&mut stream, &mut calls) => goodbye,
        () = outgoing.closed() => None,
        () = server.stopping.cancelled() => Some(close(GOING_AWAY, "the server is stopping")),
    };
    // Whatever still runs for this client ends with it.
    drop(calls);
    let Some(frame) = goodbye else {
        drop(outgoing);
        let _ = tokio::time::timeout(LINGER, writer).await;
        return;
    };
    let _ = tokio::time::timeout(LINGER, outgoing.send(Message::Close(Some(frame)))).await;
    drop(outgoing);
    // Closing at once, with bytes unread, would make the kernel throw away what was just sent.
    let drained = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = tokio::time::timeout(LINGER, futures::future::join(writer, drained)).await;
}

/// Reads until the client goes, or must; then with a reason.
async fn read(stream: &mut SplitStream<WebSocket>, calls: &mut Calls) -> Option<CloseFrame> {
    loop {
        let message = match tokio::time::timeout(IDLE_TIMEOUT, stream.next()).await {
            Err(_) => return Some(close(POLICY, "no sign of life")),
            Ok(None) => return None,
            Ok(Some(Err(error))) => return unreadable(error, calls).await,
            Ok(Some(Ok(message))) => message,
        };
        match message {
            Message::Text(text) => calls.handle(text.as_bytes()).await?,
            Message::Binary(_) => {
                let error = FieldError::new("message", "binary; send JSON as text");
                calls.refuse(None, &error.into()).await?;
            }
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return None,
        }
    }
}

/// Says what is wrong with a frame; what comes after it cannot be told apart any more.
async fn unreadable(error: axum::Error, calls: &Calls) -> Option<CloseFrame> {
    let error = error.into_inner();
    let (code, refusal) = match error.downcast_ref() {
        Some(tungstenite::Error::Capacity(_)) => (TOO_LARGE, ApiError::too_large(MAX_BODY_BYTES)),
        Some(tungstenite::Error::Utf8(_)) => {
            (NOT_UTF8, FieldError::new("message", "not UTF-8").into())
        }
        Some(tungstenite::Error::Protocol(fault)) => (
            PROTOCOL_ERROR,
            FieldError::new("message", fault.to_string()).into(),
        ),
        // The connection is gone.
        _ => return None,
    };
    calls.refuse(None, &refusal).await?;
    Some(close(code, &refusal.problem().detail))
}

/// The reason of a close frame has 123 bytes at most.
fn close(code: u16, reason: &str) -> CloseFrame {
    let reason: String = reason.chars().take(30).collect();
    CloseFrame {
        code,
        reason: reason.into(),
    }
}

async fn write(mut sink: SplitSink<WebSocket, Message>, mut messages: mpsc::Receiver<Message>) {
    let mut pings = tokio::time::interval(PING_INTERVAL);
    pings.reset();
    loop {
        let message = tokio::select! {
            message = messages.recv() => match message {
                Some(message) => message,
                None => break,
            },
            _ = pings.tick() => Message::Ping(Default::default()),
        };
        match tokio::time::timeout(WRITE_TIMEOUT, sink.send(message)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
    let _ = tokio::time::timeout(LINGER, sink.close()).await;
}

/// An answer as a message.
pub fn text(id: Option<String>, answer: WsAnswer) -> Message {
    let message = weft_api::WsMessage { id, answer };
    let json = serde_json::to_string(&message).unwrap_or_default();
    Message::Text(json.into())
}

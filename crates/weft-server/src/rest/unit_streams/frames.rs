//! Frames of a tunnel as messages of a WebSocket, both ways.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use weft_api::{ExecEnd, TerminalSize, exec_channel};
use weft_proto::v1;
use weft_proto::v1::tunnel_frame::Frame;

use crate::services::tunnels::{Reader, Tunnel, Writer, failure};

/// How often a client is asked for a sign of life, and how long it may give none.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to accept a message.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client that was sent the end may take to close.
const LINGER: Duration = Duration::from_secs(1);

/// How frames are written as messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// With a byte that names the channel.
    Exec,
    /// As they are.
    Port,
}

/// Carries frames both ways until either side ends.
pub(super) async fn serve(socket: WebSocket, tunnel: Tunnel, kind: Kind) {
    let (mut sink, mut stream) = socket.split();
    let Tunnel { writer, reader } = tunnel;
    let is_over = tokio::select! {
        () = up(&mut stream, writer, kind) => false,
        () = down(&mut sink, reader, kind) => true,
    };
    let _ = tokio::time::timeout(LINGER, sink.close()).await;
    if is_over {
        // Closing with bytes unread would make the kernel throw away what was just sent.
        let drained = async { while let Some(Ok(_)) = stream.next().await {} };
        let _ = tokio::time::timeout(LINGER, drained).await;
    }
}

/// From the client to the unit.
async fn up(stream: &mut SplitStream<WebSocket>, writer: Writer, kind: Kind) {
    loop {
        let message = match tokio::time::timeout(IDLE_TIMEOUT, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            _ => return,
        };
        let frame = match message {
            Message::Binary(bytes) if kind == Kind::Port => Frame::Data(bytes),
            Message::Binary(bytes) => match exec_frame(bytes) {
                Some(frame) => frame,
                None => return,
            },
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Text(_) | Message::Close(_) => return,
        };
        if !writer.send(frame).await {
            // The agent takes nothing more; what it still says is passed on.
            std::future::pending::<()>().await;
        }
    }
}

/// A message of an exec; `None` when it is none.
fn exec_frame(mut bytes: Bytes) -> Option<Frame> {
    if bytes.is_empty() {
        return None;
    }
    let channel = bytes.split_to(1)[0];
    match channel {
        exec_channel::STDIN if bytes.is_empty() => Some(Frame::Eof(true)),
        exec_channel::STDIN => Some(Frame::Stdin(bytes)),
        exec_channel::RESIZE => {
            let size: TerminalSize = serde_json::from_slice(&bytes).ok()?;
            Some(Frame::Resize(v1::Resize {
                columns: size.width.into(),
                rows: size.height.into(),
            }))
        }
        _ => None,
    }
}

/// From the unit to the client.
async fn down(sink: &mut SplitSink<WebSocket, Message>, mut reader: Reader, kind: Kind) {
    let mut pings = tokio::time::interval(PING_INTERVAL);
    pings.reset();
    loop {
        let (message, is_last) = tokio::select! {
            frame = reader.next() => match frame {
                Some(frame) => match message(frame, kind) {
                    Some(message) => message,
                    None => continue,
                },
                None => return,
            },
            _ = pings.tick() => (Message::Ping(Bytes::new()), false),
        };
        match tokio::time::timeout(WRITE_TIMEOUT, sink.send(message)).await {
            Ok(Ok(())) if !is_last => {}
            _ => return,
        }
    }
}

/// A frame as a message, and whether it is the last.
fn message(frame: Frame, kind: Kind) -> Option<(Message, bool)> {
    let on = |channel: u8, bytes: &[u8]| Message::Binary([&[channel], bytes].concat().into());
    let end = |end: ExecEnd| {
        let json = serde_json::to_vec(&end).unwrap_or_default();
        Some((on(exec_channel::END, &json), true))
    };
    match (frame, kind) {
        (Frame::Data(bytes), Kind::Port) => Some((Message::Binary(bytes), false)),
        (Frame::Stdout(bytes), Kind::Exec) => Some((on(exec_channel::STDOUT, &bytes), false)),
        (Frame::Stderr(bytes), Kind::Exec) => Some((on(exec_channel::STDERR, &bytes), false)),
        (Frame::Exit(code), Kind::Exec) => end(ExecEnd {
            exit_code: Some(code),
            reason: None,
            detail: String::new(),
        }),
        (Frame::Error(error), Kind::Exec) => {
            let (reason, detail) = failure(&error);
            end(ExecEnd {
                exit_code: None,
                reason: Some(reason),
                detail,
            })
        }
        (Frame::Error(error), Kind::Port) => {
            let (reason, detail) = failure(&error);
            let text: String = format!("{reason}: {detail}").chars().take(100).collect();
            let close = axum::extract::ws::CloseFrame {
                code: 1011,
                reason: text.into(),
            };
            Some((Message::Close(Some(close)), true))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_an_exec_become_frames() {
        let frame = |bytes: &[u8]| exec_frame(Bytes::copy_from_slice(bytes));
        assert_eq!(
            frame(b"\x00ls"),
            Some(Frame::Stdin(Bytes::from_static(b"ls")))
        );
        assert_eq!(frame(b"\x00"), Some(Frame::Eof(true)));
        let size = v1::Resize {
            columns: 80,
            rows: 24,
        };
        assert_eq!(
            frame(b"\x04{\"width\":80,\"height\":24}"),
            Some(Frame::Resize(size))
        );
        for bad in [b"".as_slice(), b"\x04{", b"\x01x", b"\xff"] {
            assert_eq!(frame(bad), None);
        }
    }
}

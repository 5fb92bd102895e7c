//! Live output for somebody who follows a task.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_runtime::Stream;

use crate::executor::Executor;

/// How many bytes go in one message.
const PIECE_BYTES: usize = 64 << 10;
/// How often is looked whether a task that waits has started.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Sends what a task prints from these offsets on, until it ends or the session does. What it had
/// printed at its very end is in its result.
pub(crate) async fn follow(
    executor: Executor,
    request: v1::FollowLog,
    out: Sender<v1::AgentMessage>,
) {
    let id = (request.job, request.task);
    let control = loop {
        if let Some(control) = executor.control(id) {
            break control;
        }
        if !executor.holds(id) || out.is_closed() {
            return;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    };
    let log = control.output();
    let mut offsets = [request.stdout_offset, request.stderr_offset];
    loop {
        for (number, stream) in [Stream::Stdout, Stream::Stderr].into_iter().enumerate() {
            while let Ok(piece) = log.read(stream, offsets[number], PIECE_BYTES) {
                if piece.bytes.is_empty() {
                    break;
                }
                let offset = piece.offset;
                offsets[number] = offset + piece.bytes.len() as u64;
                let chunk = v1::LogChunk {
                    job: request.job,
                    task: request.task,
                    stream: number as u32 + 1,
                    offset,
                    data: piece.bytes,
                };
                if out
                    .send(v1::AgentMessage {
                        message: Some(Message::Log(chunk)),
                    })
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
        if log.is_finished() {
            return;
        }
        tokio::select! {
            () = log.grown_beyond(offsets[0], offsets[1]) => {}
            () = out.closed() => return,
        }
    }
}

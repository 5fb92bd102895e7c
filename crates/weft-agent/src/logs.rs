//! Live output for those who follow tasks.
//!
//! A task is followed once, however many want to see it: the server passes the pieces on to all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_runtime::{Control, OutputLog, Stream};

use crate::executor::{Executor, TaskId};

/// How many bytes go in one message.
const PIECE_BYTES: usize = 64 << 10;
/// How often is looked whether a task that waits has started.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often is looked whether a task that prints nothing is still held.
const END_INTERVAL: Duration = Duration::from_secs(1);
/// The most tasks that are followed at once.
const MAX_FOLLOWED: usize = 1_024;
/// The streams, in the order of their numbers on the wire.
const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// The tasks that are followed over one session.
#[derive(Default)]
pub(crate) struct Follows {
    followed: HashMap<TaskId, Followed>,
}

struct Followed {
    stop: CancellationToken,
    sent: Arc<Offsets>,
}

/// Bytes of each stream that were sent.
#[derive(Default)]
struct Offsets([AtomicU64; 2]);

impl Offsets {
    fn get(&self, stream: usize) -> u64 {
        self.0[stream].load(Ordering::Relaxed)
    }

    fn set(&self, stream: usize, bytes: u64) {
        self.0[stream].store(bytes, Ordering::Relaxed);
    }
}

impl Follows {
    /// Begins to follow a task, or ends it. One that is followed already goes on from where the
    /// one of its followers is that has least: the others pass over what they have.
    pub(crate) fn request(
        &mut self,
        executor: &Executor,
        request: &v1::FollowLog,
        out: &Sender<v1::AgentMessage>,
    ) {
        let id = (request.job, request.task);
        self.followed
            .retain(|_, followed| Arc::strong_count(&followed.sent) > 1);
        let earlier = self.followed.remove(&id);
        if let Some(earlier) = &earlier {
            earlier.stop.cancel();
        }
        if request.stop || self.followed.len() >= MAX_FOLLOWED {
            return;
        }
        let wanted = [request.stdout_offset, request.stderr_offset];
        let sent = Arc::new(Offsets::default());
        for (stream, wanted) in wanted.into_iter().enumerate() {
            let earlier = earlier.as_ref().map(|earlier| earlier.sent.get(stream));
            sent.set(stream, wanted.min(earlier.unwrap_or(u64::MAX)));
        }
        let stop = CancellationToken::new();
        let following = follow(executor.clone(), id, Arc::clone(&sent), out.clone());
        let stopped = stop.clone();
        tokio::spawn(async move {
            let _ = stopped.run_until_cancelled(following).await;
        });
        self.followed.insert(id, Followed { stop, sent });
    }
}

impl Drop for Follows {
    fn drop(&mut self) {
        for followed in self.followed.values() {
            followed.stop.cancel();
        }
    }
}

/// Sends what a task prints from these offsets on, until it ends or the session does. What it had
/// printed at its very end is in its result.
async fn follow(executor: Executor, id: TaskId, sent: Arc<Offsets>, out: Sender<v1::AgentMessage>) {
    let Some(control) = started(&executor, id).await else {
        return;
    };
    let log = control.output();
    loop {
        // Piece by piece in turn, so that a busy stream does not keep the other from being seen.
        let mut was_more = false;
        for stream in 0..STREAMS.len() {
            let Ok(piece) = next_piece(log, id, stream, &sent) else {
                return;
            };
            if let Some(piece) = piece {
                if out.send(piece).await.is_err() {
                    return;
                }
                was_more = true;
            }
        }
        if was_more {
            continue;
        }
        // A task that failed before it ran never finishes its output.
        if log.is_finished() || !executor.holds(id) {
            return;
        }
        let grown = log.grown_beyond(sent.get(0), sent.get(1));
        let _ = tokio::time::timeout(END_INTERVAL, grown).await;
    }
}

/// The control of a task once it runs; `None` when it ended without, or is not here.
async fn started(executor: &Executor, id: TaskId) -> Option<Control> {
    loop {
        if let Some(control) = executor.control(id) {
            return Some(control);
        }
        if !executor.holds(id) {
            return None;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn next_piece(
    log: &OutputLog,
    id: TaskId,
    stream: usize,
    sent: &Offsets,
) -> std::io::Result<Option<v1::AgentMessage>> {
    let piece = log.read(STREAMS[stream], sent.get(stream), PIECE_BYTES)?;
    if piece.bytes.is_empty() {
        return Ok(None);
    }
    sent.set(stream, piece.offset + piece.bytes.len() as u64);
    let chunk = v1::LogChunk {
        job: id.0,
        task: id.1,
        stream: stream as u32 + 1,
        offset: piece.offset,
        data: piece.bytes,
    };
    Ok(Some(v1::AgentMessage {
        message: Some(Message::Log(chunk)),
    }))
}

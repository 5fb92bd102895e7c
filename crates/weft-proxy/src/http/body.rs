//! Bodies: of requests, kept at the beginning so that they can be sent again; of answers, which
//! hold what is in flight until they end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};

use super::pool::Connection;
use crate::backend::Flight;

/// Most pieces of a body that are kept, as each may hold on to a whole read buffer.
const MAX_PIECES: usize = 32;

/// The body of a client's request, from which each attempt at a replica reads.
pub(crate) struct Source(Option<Arc<Mutex<Replay>>>);

struct Replay {
    client: Incoming,
    /// The body from its beginning, unless `lost`.
    kept: Vec<Bytes>,
    bytes: usize,
    max_bytes: usize,
    /// The beginning is not there any more.
    lost: bool,
    ended: bool,
    /// The client broke off, or paused for too long.
    broken: bool,
    pause: Duration,
    timer: Pin<Box<Sleep>>,
    /// Which attempt reads; an older one that is still there gets nothing.
    attempt: u64,
}

impl Source {
    pub(crate) fn new(client: Incoming, max_bytes: usize, pause: Duration) -> Self {
        if client.is_end_stream() {
            return Self(None);
        }
        Self(Some(Arc::new(Mutex::new(Replay {
            client,
            kept: Vec::new(),
            bytes: 0,
            max_bytes,
            lost: false,
            ended: false,
            broken: false,
            pause,
            timer: Box::pin(tokio::time::sleep(pause)),
            attempt: 0,
        }))))
    }

    /// Whether the body is there from its beginning.
    pub(crate) fn can_repeat(&self) -> bool {
        self.0.as_ref().is_none_or(|replay| {
            let replay = replay.lock();
            !replay.lost && !replay.broken
        })
    }

    /// Whether the client broke its request off.
    pub(crate) fn is_broken(&self) -> bool {
        self.0.as_ref().is_some_and(|replay| replay.lock().broken)
    }

    /// The body for the next attempt; attempts before it get nothing any more.
    pub(crate) fn attempt(&self) -> RequestBody {
        let Some(replay) = &self.0 else {
            return RequestBody(None);
        };
        let mut locked = replay.lock();
        locked.attempt += 1;
        let kept: u64 = locked.bytes as u64;
        let rest = locked.client.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + kept);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + kept);
        }
        RequestBody(Some(Attempt {
            number: locked.attempt,
            next: 0,
            hint,
            replay: Arc::clone(replay),
        }))
    }
}

/// The body of a request as one attempt at a replica sends it.
pub(crate) struct RequestBody(Option<Attempt>);

struct Attempt {
    replay: Arc<Mutex<Replay>>,
    number: u64,
    /// Of the kept pieces.
    next: usize,
    hint: SizeHint,
}

/// Why the body of a request ended too early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokenBody {
    #[error("the client broke off its request: {0}")]
    Client(hyper::Error),
    #[error("the client paused for too long within its request")]
    Pause,
    #[error("the request is sent to another replica")]
    Superseded,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BrokenBody>>>;

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let Some(attempt) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let mut replay = attempt.replay.lock();
        if replay.attempt != attempt.number {
            return Poll::Ready(Some(Err(BrokenBody::Superseded)));
        }
        if let Some(piece) = replay.kept.get(attempt.next) {
            attempt.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if replay.ended {
            return Poll::Ready(None);
        }
        let polled = replay.poll_client(cx);
        attempt.next = replay.kept.len();
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Some(attempt) => attempt.hint,
            None => SizeHint::with_exact(0),
        }
    }
}

impl Replay {
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Polled {
        match Pin::new(&mut self.client).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let deadline = Instant::now() + self.pause;
                self.timer.as_mut().reset(deadline);
                self.keep(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.broken = true;
                Poll::Ready(Some(Err(BrokenBody::Client(error))))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.timer.as_mut().poll(cx));
                self.broken = true;
                Poll::Ready(Some(Err(BrokenBody::Pause)))
            }
        }
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let piece = frame.data_ref();
        self.bytes += piece.map_or(0, Bytes::len);
        match piece {
            Some(piece)
                if !self.lost && self.bytes <= self.max_bytes && self.kept.len() < MAX_PIECES =>
            {
                self.kept.push(piece.clone());
            }
            // Too long, or trailers, which are rare and not worth keeping.
            _ => {
                self.lost = true;
                self.kept.clear();
            }
        }
    }
}

/// What an answer holds until it has been read: its connection, and its place in the counts.
pub(crate) struct Held {
    pub(crate) connection: Connection,
    pub(crate) flight: Flight,
}

impl Held {
    /// The answer has been read: the connection is free for the next request.
    fn release(self) {
        let backend = Arc::clone(&self.flight.backend);
        backend.pool.put(self.connection, || backend.takes());
    }
}

/// The body of an answer.
pub(crate) enum AnswerBody {
    /// Made here.
    Own(Option<Bytes>),
    /// Of a replica.
    Replica(Incoming, Option<Held>),
}

impl AnswerBody {
    pub(crate) fn of_replica(body: Incoming, held: Held) -> Self {
        if body.is_end_stream() {
            held.release();
            return Self::Own(None);
        }
        Self::Replica(body, Some(held))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Replica(body, held) => {
                let polled = ready!(Pin::new(&mut *body).poll_frame(cx));
                // A body that broke leaves a connection that cannot be used again.
                if matches!(polled, Some(Err(_))) {
                    *held = None;
                } else if (polled.is_none() || body.is_end_stream())
                    && let Some(held) = held.take()
                {
                    held.release();
                }
                Poll::Ready(polled)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Replica(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Replica(body, _) => body.size_hint(),
        }
    }
}

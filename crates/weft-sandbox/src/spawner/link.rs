//! The spawner's end of the socket.

use crate::Error;
use crate::Stream;
use crate::frame::{Report, Request, encode_output, take_frame};
use bytes::BytesMut;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;
/// Unsent bytes at which outputs are no longer read.
const OUTBOX_HIGH_BYTES: usize = 8 << 20;
/// Unsent bytes at which they are read again.
const OUTBOX_LOW_BYTES: usize = 2 << 20;

/// Frames in and out, buffered.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    inbox: BytesMut,
    outbox: Vec<u8>,
    sent: usize,
    scratch: Box<[u8]>,
}

/// Whether the agent is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Alive,
    Gone,
}

impl Link {
    /// Takes over a non-blocking stream socket.
    pub(crate) fn new(socket: OwnedFd) -> Self {
        let scratch = vec![0; READ_BYTES].into_boxed_slice();
        Self {
            socket,
            inbox: BytesMut::new(),
            outbox: Vec::new(),
            sent: 0,
            scratch,
        }
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Reads what is there, once.
    pub(crate) fn receive(&mut self) -> Peer {
        match rustix::io::read(&self.socket, &mut *self.scratch) {
            Ok(0) => Peer::Gone,
            Ok(length) => {
                self.inbox.extend_from_slice(&self.scratch[..length]);
                Peer::Alive
            }
            Err(Errno::AGAIN | Errno::INTR) => Peer::Alive,
            Err(_) => Peer::Gone,
        }
    }

    /// The next request received.
    ///
    /// # Errors
    /// When it does not parse; nothing after it can be trusted.
    pub(crate) fn next_request(&mut self) -> Result<Option<Request>, Error> {
        take_frame(&mut self.inbox)?
            .map(Request::decode)
            .transpose()
    }

    /// Puts a report into the outbox.
    pub(crate) fn report(&mut self, report: &Report) {
        report.encode(&mut self.outbox);
    }

    /// Puts output into the outbox.
    pub(crate) fn output(&mut self, id: u64, stream: Stream, bytes: &[u8]) {
        encode_output(&mut self.outbox, id, stream, bytes);
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> Peer {
        while self.sent < self.outbox.len() {
            match rustix::io::write(&self.socket, &self.outbox[self.sent..]) {
                Ok(length) => self.sent += length,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Peer::Gone,
            }
        }
        if self.sent == self.outbox.len() {
            self.outbox.clear();
            self.sent = 0;
        } else if self.sent > OUTBOX_LOW_BYTES {
            self.outbox.drain(..self.sent);
            self.sent = 0;
        }
        Peer::Alive
    }

    /// Whether there is something left to send.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.sent < self.outbox.len()
    }

    /// Whether outputs should wait.
    pub(crate) fn is_full(&self) -> bool {
        self.outbox.len() - self.sent > OUTBOX_HIGH_BYTES
    }

    /// Whether outputs may go on.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.len() - self.sent <= OUTBOX_LOW_BYTES
    }
}

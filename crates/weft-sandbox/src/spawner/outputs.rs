//! Passing on what processes write, no faster than the agent takes it.

use super::deadlines::Due;
use super::serve::Server;
use super::task::Tap;
use crate::Stream;
use rustix::event::epoll;
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Bytes read from an output at once.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// How long outputs may stay open after the end of their process.
const LINGER: Duration = Duration::from_secs(1);

/// The event token of an output. The two lowest bits tell the kind; 0 and 1 are the others.
pub(super) fn token(id: u64, stream: Stream) -> u64 {
    id << 2 | if stream == Stream::Stdout { 2 } else { 3 }
}

pub(super) fn of_token(token: u64) -> Option<(u64, Stream)> {
    match token & 3 {
        2 => Some((token >> 2, Stream::Stdout)),
        3 => Some((token >> 2, Stream::Stderr)),
        _ => None,
    }
}

/// What reading an output came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Empty,
    Closed,
    /// The agent is behind.
    Held,
}

impl Server {
    /// Handles an event of an output.
    pub(super) fn read_output(&mut self, id: u64, stream: Stream) {
        self.pump(id, stream);
        self.finish_if_silent(id);
    }

    /// Passes on one chunk of an output.
    pub(super) fn pump(&mut self, id: u64, stream: Stream) -> Flow {
        let is_full = self.link.is_full();
        let Some(task) = self.tasks.get_mut(&id) else {
            return Flow::Closed;
        };
        let window = task.window;
        let tap = task.tap(stream);
        let Some(pipe) = &tap.pipe else {
            return Flow::Closed;
        };
        if tap.left_bytes > 0 && (window == 0 || is_full) {
            if !tap.paused {
                tap.paused = true;
                let _ = epoll::delete(&self.poll, pipe);
                self.paused.insert((id, stream == Stream::Stderr));
            }
            return Flow::Held;
        }
        let wanted = if tap.left_bytes == 0 {
            CHUNK_BYTES
        } else {
            CHUNK_BYTES.min(clamp(window))
        };
        match rustix::io::read(pipe, &mut self.chunk[..wanted]) {
            Ok(0) => {
                close(&self.poll, tap);
                Flow::Closed
            }
            Ok(length) => {
                let kept = length.min(clamp(tap.left_bytes));
                tap.truncated |= kept < length;
                if tap.left_bytes != u64::MAX {
                    tap.left_bytes -= kept as u64;
                }
                task.window -= kept as u64;
                if kept > 0 {
                    self.link.output(id, stream, &self.chunk[..kept]);
                }
                Flow::More
            }
            Err(Errno::AGAIN | Errno::INTR) => Flow::Empty,
            Err(_) => {
                close(&self.poll, tap);
                Flow::Closed
            }
        }
    }

    /// Puts outputs back on the poll that the agent can take again.
    pub(super) fn resume_outputs(&mut self) {
        if self.paused.is_empty() || !self.link.has_room() {
            return;
        }
        let (tasks, poll) = (&mut self.tasks, &self.poll);
        self.paused.retain(|(id, is_stderr)| {
            let Some(task) = tasks.get_mut(id) else {
                return false;
            };
            if task.window == 0 {
                return true;
            }
            let stream = if *is_stderr {
                Stream::Stderr
            } else {
                Stream::Stdout
            };
            let tap = task.tap(stream);
            tap.paused = false;
            if let Some(pipe) = &tap.pipe {
                let data = epoll::EventData::new_u64(token(*id, stream));
                let _ = epoll::add(poll, pipe, data, epoll::EventFlags::IN);
            }
            false
        });
    }

    pub(super) fn close_outputs(&mut self, id: u64) {
        if let Some(task) = self.tasks.get_mut(&id) {
            task.taps.iter_mut().for_each(|tap| close(&self.poll, tap));
        }
    }

    /// Reports the end of a process once its output has ended too. Whoever still holds the output has a moment to let
    /// go, unless it is the agent that is behind.
    pub(super) fn finish_if_silent(&mut self, id: u64) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let Some(ended) = task.ended else { return };
        if task.is_silent() {
            if let Some(task) = self.tasks.remove(&id) {
                self.finish(id, task, ended);
            }
        } else if !task.abandoned && task.taps.iter().all(|tap| !tap.paused) {
            task.abandoned = true;
            self.deadlines
                .add(Instant::now() + LINGER, id, Due::Abandon);
        }
    }
}

fn close(poll: &OwnedFd, tap: &mut Tap) {
    if let Some(pipe) = tap.pipe.take()
        && !tap.paused
    {
        // A sandbox being built may still hold a copy, which would keep it on the poll.
        let _ = epoll::delete(poll, &pipe);
    }
}

fn clamp(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_task_and_stream_and_is_never_that_of_the_socket_or_the_signals() {
        for id in [0, 1, super::super::serve::MAX_ID] {
            for stream in [Stream::Stdout, Stream::Stderr] {
                assert_eq!(of_token(token(id, stream)), Some((id, stream)));
            }
        }
        assert_eq!(of_token(super::super::serve::SOCKET), None);
        assert_eq!(of_token(super::super::serve::SIGNALS), None);
    }
}

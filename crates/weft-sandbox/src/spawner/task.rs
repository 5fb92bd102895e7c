//! A running process as the spawner sees it.

use super::slots::Slot;
use crate::frame::OUTPUT_WINDOW_BYTES;
use crate::{Capture, Limits, Outcome, Spec, Stream, Usage};
use rustix::process::{Pid, Signal};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// One process.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) pid: Pid,
    pub(crate) confined: bool,
    pub(crate) slot: Option<Slot>,
    pub(crate) taps: [Tap; 2],
    /// Output bytes the agent will still take.
    pub(crate) window: u64,
    pub(crate) requested: Instant,
    pub(crate) grace: Duration,
    pub(crate) limits: Limits,
    pub(crate) timed_out: bool,
    pub(crate) disk_exceeded: bool,
    /// Set once it has ended and only its output may be missing.
    pub(crate) ended: Option<Ended>,
    /// The end of waiting for its output is set.
    pub(crate) abandoned: bool,
}

/// What waiting for a process told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) status: libc::c_int,
    pub(crate) usage: Usage,
}

/// The reading end of one output.
#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) pipe: Option<OwnedFd>,
    /// Taken off the poll because the agent is behind.
    pub(crate) paused: bool,
    pub(crate) left_bytes: u64,
    pub(crate) truncated: bool,
}

impl Tap {
    fn new(pipe: Option<OwnedFd>, capture: Capture) -> Self {
        let left_bytes = match capture {
            Capture::Discard => 0,
            Capture::Pipe { limit_bytes } => limit_bytes,
        };
        Self {
            pipe,
            paused: false,
            left_bytes,
            truncated: false,
        }
    }
}

impl Task {
    pub(crate) fn new(started: super::launch::Started, spec: &Spec, requested: Instant) -> Self {
        Self {
            pid: started.pid,
            confined: matches!(spec.sandbox, crate::Sandbox::Full(_)),
            slot: started.slot,
            taps: [
                Tap::new(started.stdout, spec.stdout),
                Tap::new(started.stderr, spec.stderr),
            ],
            window: OUTPUT_WINDOW_BYTES,
            requested,
            grace: spec.grace,
            limits: spec.limits,
            timed_out: false,
            disk_exceeded: false,
            ended: None,
            abandoned: false,
        }
    }

    pub(crate) fn tap(&mut self, stream: Stream) -> &mut Tap {
        match stream {
            Stream::Stdout => &mut self.taps[0],
            Stream::Stderr => &mut self.taps[1],
        }
    }

    /// Whether nothing more can come from it.
    pub(crate) fn is_silent(&self) -> bool {
        self.taps.iter().all(|tap| tap.pipe.is_none())
    }

    /// Sends a signal to the program and its group. SIGKILL ends a sandbox with everything in it.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.ended.is_some() {
            return;
        }
        // Not reaped yet, so that the id is still its own.
        let _ = match self.confined {
            true => rustix::process::kill_process(self.pid, signal),
            false => rustix::process::kill_process_group(self.pid, signal),
        };
    }

    /// Kills it with what can be found of its descendants; the others become orphans and are found then.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let (false, Some(group)) = (
            self.confined,
            self.slot.as_mut().and_then(|slot| slot.group.as_mut()),
        ) {
            group.kill();
        }
    }
}

/// How a process with this wait status ended.
pub(crate) fn outcome(status: libc::c_int) -> Outcome {
    match libc::WIFSIGNALED(status) {
        true => Outcome::Signalled(libc::WTERMSIG(status)),
        false => Outcome::Exited(libc::WEXITSTATUS(status)),
    }
}

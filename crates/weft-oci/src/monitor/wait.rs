//! Watching a container until it ends.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use weft_types::Reason;

use crate::Error;
use crate::cgroup::Cgroups;
use crate::files::now_ms;
use crate::record::Exit;

use super::launch::{command, undo};
use super::log::{Log, Stream};
use super::request::Request;

/// How long is read from what a container that ended has left open.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long the runtime of a sandbox may take to clear up.
const CLEAR_UP: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 32 << 10;
/// How much of the last output explains a start that failed.
const TAIL_BYTES: usize = 4 << 10;

/// Tells of children that ended.
pub(super) struct Children {
    signals: File,
    /// Those that ended before anybody asked: the container's first process may end before its
    /// runtime has said that it runs.
    early: Vec<(i32, i32)>,
}

impl Children {
    pub(super) fn new() -> Result<Self, Error> {
        // SAFETY: the set is ours, and the descriptor is checked before it is owned.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            libc::sigaddset(&mut set, libc::SIGCHLD);
            let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(Error::io("watch children", std::io::Error::last_os_error()));
            }
            Ok(Self {
                signals: File::from_raw_fd(fd),
                early: Vec::new(),
            })
        }
    }

    /// Passes output on until a child has ended, and gives its status; `None` when it takes longer.
    /// All other children are orphans of the container's, and only have to be waited for.
    pub(super) fn until_exit(
        &mut self,
        pid: i32,
        streams: &mut Streams,
        limit: Duration,
    ) -> Option<i32> {
        let end = Instant::now().checked_add(limit);
        loop {
            if let Some(status) = self.reap(pid) {
                return Some(status);
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            streams.pass_on(Some(&self.signals), left);
            let mut drained = [0; 1024];
            while matches!((&self.signals).read(&mut drained), Ok(read) if read > 0) {}
        }
    }

    /// Gives a status back for a later question.
    pub(super) fn put_back(&mut self, pid: i32, status: i32) {
        self.early.push((pid, status));
    }

    /// Waits for everything that ended; gives the status of one.
    fn reap(&mut self, wanted: i32) -> Option<i32> {
        loop {
            let mut status = 0;
            // SAFETY: the status is ours.
            let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
            if pid <= 0 {
                break;
            }
            if pid == wanted || self.early.len() < MAX_EARLY {
                self.early.push((pid, status));
            }
        }
        let index = self.early.iter().position(|(pid, _)| *pid == wanted)?;
        Some(self.early.swap_remove(index).1)
    }
}

/// How many orphans are remembered: the first process is among the first of them.
const MAX_EARLY: usize = 64;

/// What a container prints.
pub(super) struct Streams {
    ends: [Option<File>; 2],
    log: Log,
    tail: Vec<u8>,
    buffer: Vec<u8>,
}

impl Streams {
    pub(super) fn new(output: OwnedFd, error: OwnedFd, log: Log) -> Self {
        Self {
            ends: [Some(File::from(output)), Some(File::from(error))],
            log,
            tail: Vec::new(),
            buffer: vec![0; READ_BYTES],
        }
    }

    fn is_open(&self) -> bool {
        self.ends.iter().any(Option::is_some)
    }

    /// Waits until there is something to read, or a signal, and reads once from each stream.
    fn pass_on(&mut self, signals: Option<&File>, timeout: Option<Duration>) {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let ready = {
            let fds = self.ends.iter().flatten().chain(signals);
            let mut polled: Vec<PollFd<'_>> =
                fds.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            if rustix::event::poll(&mut polled, timeout.as_ref()).is_err() {
                return;
            }
            let ready: Vec<i32> = polled
                .iter()
                .filter(|fd| !fd.revents().is_empty())
                .map(|fd| fd.as_fd().as_raw_fd())
                .collect();
            ready
        };
        for (index, stream) in [Stream::Output, Stream::Error].into_iter().enumerate() {
            let Some(end) = &mut self.ends[index] else {
                continue;
            };
            if !ready.contains(&end.as_raw_fd()) {
                continue;
            }
            match end.read(&mut self.buffer) {
                Ok(0) | Err(_) => self.ends[index] = None,
                Ok(read) => {
                    self.log.take(stream, &self.buffer[..read]);
                    if stream == Stream::Error {
                        self.tail.extend_from_slice(&self.buffer[..read]);
                        let extra = self.tail.len().saturating_sub(TAIL_BYTES);
                        self.tail.drain(..extra);
                    }
                }
            }
        }
    }

    /// Reads what is left.
    pub(super) fn drain(&mut self) {
        let end = Instant::now() + LAST_WORDS;
        while self.is_open() && Instant::now() < end {
            self.pass_on(None, Some(end.saturating_duration_since(Instant::now())));
        }
        self.log.finish();
    }

    /// What was printed last to the standard error.
    pub(super) fn tail(&self) -> Vec<u8> {
        self.tail.clone()
    }
}

/// A container that runs.
pub(super) struct Running {
    pub(super) request: Request,
    pub(super) cgroups: Cgroups,
    pub(super) streams: Streams,
    pub(super) children: Children,
    /// The process whose end is the container's.
    pub(super) watched: i32,
}

impl Running {
    /// Watches the container, and writes down how it ended when nothing is left of it.
    pub(super) fn watch(mut self) {
        self.request.config = serde_json::Value::Null;
        let status = loop {
            let year = Duration::from_secs(365 * 86_400);
            if let Some(status) = self
                .children
                .until_exit(self.watched, &mut self.streams, year)
            {
                break status;
            }
        };
        let at_ms = now_ms();
        let exit = self.judge(status, at_ms);
        if self.request.runtime.is_sandbox {
            self.clear_sandbox();
        }
        undo(&self.request, &self.cgroups);
        self.streams.drain();
        let _ = self.request.unit.write_exit(&exit);
    }

    fn judge(&self, status: i32, at_ms: u64) -> Exit {
        let (exit_code, signal) = match self.request.runtime.is_sandbox {
            // It gives what ended the container as shells do.
            true if libc::WEXITSTATUS(status) > 128 => {
                (None, Some(libc::WEXITSTATUS(status) - 128))
            }
            _ if libc::WIFSIGNALED(status) => (None, Some(libc::WTERMSIG(status))),
            _ => (Some(libc::WEXITSTATUS(status)), None),
        };
        let out_of_memory =
            exit_code != Some(0) && self.cgroups.oom_kills(&self.request.cgroup) > 0;
        let detail = match (out_of_memory, exit_code, signal) {
            (true, ..) => "it was killed because it wanted more memory than its limit".to_owned(),
            (_, Some(code), _) => format!("it ended with exit code {code}"),
            (_, _, Some(signal)) => format!("it was ended by signal {signal}"),
            _ => "its runtime did not say how it ended".to_owned(),
        };
        Exit {
            exit_code,
            signal,
            reason: out_of_memory.then_some(Reason::OomKilled),
            detail,
            at_ms,
        }
    }

    fn clear_sandbox(&mut self) {
        let spawned = command(&self.request.runtime, &self.request.unit.run())
            .args(["delete", "--force"])
            .arg(&self.request.id)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        if let Ok(child) = spawned {
            self.children
                .until_exit(child.id() as i32, &mut self.streams, CLEAR_UP);
        }
    }
}

//! The spawner's loop.

use super::deadlines::{Deadlines, Due};
use super::launch::Launcher;
use super::link::{Link, Peer};
use super::orphans::Orphans;
use super::outputs::{CHUNK_BYTES, Flow, of_token, token};
use super::reaper;
use super::task::{Ended, Task, outcome};
use crate::frame::{Report, Request};
use crate::reports::Told;
use crate::{Error, Exit, Options, Outcome, SpawnFailure, Spec, Stage, Stream, Usage};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::collections::{HashMap, HashSet, VecDeque};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Events handled in one round.
const EVENTS: usize = 256;
/// Processes started in one round: each takes a fraction of a millisecond, and ends wait meanwhile.
const SPAWNS_PER_ROUND: usize = 8;
/// Requests that wait for a running process to end; the agent keeps to far fewer.
const MAX_WAITING: usize = 16_384;
/// Between attempts at killing what does not die at once.
const RETRY: Duration = Duration::from_millis(20);

pub(super) const SOCKET: u64 = 0;
pub(super) const SIGNALS: u64 = 1;

/// Ids of which a token can be made.
pub(super) const MAX_ID: u64 = u64::MAX >> 2;

/// A request that waits for its turn.
#[derive(Debug)]
struct Waiting {
    id: u64,
    spec: Box<Spec>,
    requested: Instant,
}

/// Everything the spawner knows.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) link: Link,
    launcher: Launcher,
    pub(super) poll: OwnedFd,
    signals: OwnedFd,
    pub(super) tasks: HashMap<u64, Task>,
    by_pid: HashMap<i32, u64>,
    waiting: VecDeque<Waiting>,
    pub(super) deadlines: Deadlines,
    orphans: Orphans,
    /// Outputs taken off the poll because the outbox was full or their window used up.
    pub(super) paused: HashSet<(u64, bool)>,
    max_running: usize,
    newest: u64,
    pub(super) chunk: Box<[u8]>,
    socket_waits_to_send: bool,
    ending: Option<End>,
}

/// Why the spawner ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Ordered,
    AgentGone,
}

impl Server {
    pub(super) fn new(link: Link, launcher: Launcher, options: &Options) -> Result<Self, Error> {
        let context = "cannot set up the event loop";
        let set_up = || -> Result<(OwnedFd, OwnedFd), Errno> {
            let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let signals = signal_descriptor()?;
            rustix::io::fcntl_setfd(link.socket(), rustix::io::FdFlags::CLOEXEC)?;
            rustix::io::ioctl_fionbio(link.socket(), true)?;
            epoll::add(
                &poll,
                link.socket(),
                epoll::EventData::new_u64(SOCKET),
                epoll::EventFlags::IN,
            )?;
            epoll::add(
                &poll,
                &signals,
                epoll::EventData::new_u64(SIGNALS),
                epoll::EventFlags::IN,
            )?;
            Ok((poll, signals))
        };
        let (poll, signals) = set_up().map_err(|error| Error::System {
            context,
            source: error.into(),
        })?;
        Ok(Self {
            link,
            launcher,
            poll,
            signals,
            tasks: HashMap::new(),
            by_pid: HashMap::new(),
            waiting: VecDeque::new(),
            deadlines: Deadlines::default(),
            orphans: Orphans::new(&options.node_tag),
            paused: HashSet::new(),
            max_running: options.max_running.max(1) as usize,
            newest: 0,
            chunk: vec![0; CHUNK_BYTES].into(),
            socket_waits_to_send: false,
            ending: None,
        })
    }

    /// Serves until the agent is gone or says so, then kills everything.
    pub(super) fn serve(mut self, options: &Options) {
        let mut unread = true;
        while self.ending.is_none() {
            self.wait(unread);
            unread = self.handle_requests();
            self.handle_children();
            self.handle_deadlines();
            self.start_waiting();
            self.resume_outputs();
            self.send();
        }
        self.end(options);
    }

    /// Waits for events, not at all if there is something left to do, and handles those of descriptors.
    fn wait(&mut self, busy: bool) {
        let timeout = match (busy, self.deadlines.next()) {
            (true, _) => Some(Duration::ZERO),
            (false, next) => {
                let next = next.map(|at| at.saturating_duration_since(Instant::now()));
                let retry = (self.launcher.slots.is_draining() || !self.orphans.is_empty())
                    .then_some(RETRY * 5);
                next.into_iter().chain(retry).min()
            }
        };
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        let mut events = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        // An interrupted wait only means another round.
        let Ok((events, _)) = epoll::wait(&self.poll, &mut events[..], timeout.as_ref()) else {
            return;
        };
        for event in events {
            match event.data.u64() {
                SOCKET => self.receive(),
                SIGNALS => self.take_signals(),
                token => {
                    if let Some((id, stream)) = of_token(token) {
                        self.read_output(id, stream);
                    }
                }
            }
        }
    }

    fn receive(&mut self) {
        if self.link.receive() == Peer::Gone {
            self.ending = Some(End::AgentGone);
        }
    }

    fn take_signals(&mut self) {
        let mut buffer = [0; 16 * size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::read(&self.signals, &mut buffer).unwrap_or(0);
        for record in buffer[..length].chunks(size_of::<libc::signalfd_siginfo>()) {
            // `ssi_signo` is the first field (signalfd(2)).
            let number = record.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
            if number.is_some_and(|number| number != libc::SIGCHLD.cast_unsigned()) {
                self.ending = Some(End::AgentGone);
            }
        }
    }

    /// Handles what was received; true when more of it is left for the next round.
    fn handle_requests(&mut self) -> bool {
        let mut spawned = 0;
        while spawned < SPAWNS_PER_ROUND {
            match self.link.next_request() {
                Ok(Some(request)) => {
                    spawned += usize::from(matches!(request, Request::Spawn { .. }));
                    self.handle_request(request);
                }
                Ok(None) => return false,
                Err(error) => {
                    eprintln!("weft spawner: {error}");
                    self.ending = Some(End::AgentGone);
                    return false;
                }
            }
        }
        true
    }

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::Configure(_) => {}
            Request::Spawn { id, spec } => self.queue(Waiting {
                id,
                spec,
                requested: Instant::now(),
            }),
            Request::Kill { id, signal, grace } => self.kill(id, signal, grace),
            Request::KillForDisk { id } => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.disk_exceeded = true;
                    task.kill();
                }
            }
            Request::Credit { id, bytes } => {
                if let Some(task) = self.tasks.get_mut(&id) {
                    task.window = task
                        .window
                        .saturating_add(bytes)
                        .min(crate::frame::OUTPUT_WINDOW_BYTES);
                }
            }
            Request::Shutdown => self.ending = Some(End::Ordered),
        }
    }

    fn queue(&mut self, waiting: Waiting) {
        if waiting.id > MAX_ID || self.tasks.contains_key(&waiting.id) {
            return self.refuse(
                &waiting,
                Outcome::NotStarted(failure(Stage::Request, libc::EINVAL)),
            );
        }
        if self.tasks.len() < self.max_running {
            self.start(waiting);
        } else if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(waiting);
        } else {
            self.refuse(
                &waiting,
                Outcome::NotStarted(failure(Stage::Clone, libc::EAGAIN)),
            );
        }
    }

    /// Reports the end of a process that never ran.
    fn refuse(&mut self, waiting: &Waiting, outcome: Outcome) {
        let usage = Usage {
            wall_us: microseconds_since(waiting.requested),
            ..Usage::default()
        };
        let exit = Exit {
            outcome,
            usage,
            timed_out: false,
            oom_killed: false,
            disk_exceeded: false,
            stdout_truncated: false,
            stderr_truncated: false,
        };
        self.link.report(&Report::Exit {
            id: waiting.id,
            exit,
        });
    }

    fn start(&mut self, waiting: Waiting) {
        let marker = self.orphans.marker(waiting.id);
        match self.launcher.start(&waiting.spec, marker) {
            Ok(started) => self.watch(waiting, started),
            Err(failure) => self.refuse(&waiting, Outcome::NotStarted(failure)),
        }
    }

    fn watch(&mut self, waiting: Waiting, started: super::launch::Started) {
        let Waiting {
            id,
            spec,
            requested,
        } = waiting;
        self.newest = self.newest.max(id);
        self.by_pid.insert(started.pid.as_raw_nonzero().get(), id);
        let task = Task::new(started, &spec, requested);
        for (tap, stream) in task.taps.iter().zip([Stream::Stdout, Stream::Stderr]) {
            if let Some(pipe) = &tap.pipe {
                let data = epoll::EventData::new_u64(token(id, stream));
                // Fails only for want of memory; then the output is read at the end.
                let _ = epoll::add(&self.poll, pipe, data, epoll::EventFlags::IN);
            }
        }
        if let Some(deadline) = spec
            .timeout
            .and_then(|timeout| requested.checked_add(timeout))
        {
            self.deadlines.add(deadline, id, Due::Timeout);
        }
        self.tasks.insert(id, task);
    }

    fn start_waiting(&mut self) {
        while self.tasks.len() < self.max_running {
            let Some(waiting) = self.waiting.pop_front() else {
                break;
            };
            self.start(waiting);
        }
    }

    fn kill(&mut self, id: u64, signal: i32, grace: Duration) {
        let signal = Signal::from_named_raw(signal).unwrap_or(Signal::KILL);
        if let Some(position) = self.waiting.iter().position(|waiting| waiting.id == id) {
            if let Some(waiting) = self.waiting.remove(position) {
                self.refuse(&waiting, Outcome::Signalled(signal.as_raw()));
            }
            return;
        }
        self.terminate(id, signal, grace);
    }

    /// Sends a signal, and SIGKILL to everything when the grace period is over.
    fn terminate(&mut self, id: u64, signal: Signal, grace: Duration) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        if signal == Signal::KILL || grace.is_zero() {
            return task.kill();
        }
        task.signal(signal);
        if let Some(at) = Instant::now().checked_add(grace) {
            self.deadlines.add(at, id, Due::Kill);
        }
    }

    fn handle_deadlines(&mut self) {
        let now = Instant::now();
        while let Some((id, due)) = self.deadlines.pop(now) {
            let Some(task) = self.tasks.get_mut(&id) else {
                continue;
            };
            match due {
                Due::Timeout if task.ended.is_none() => {
                    task.timed_out = true;
                    let grace = task.grace;
                    self.terminate(id, Signal::TERM, grace);
                }
                Due::Timeout => {}
                Due::Kill => task.kill(),
                Due::Abandon => {
                    self.close_outputs(id);
                    self.finish_if_silent(id);
                }
            }
        }
        let tasks = &self.tasks;
        self.deadlines
            .clean(tasks.len(), |id| tasks.contains_key(&id));
    }

    /// Reaps, kills what descendants are left of the reaped, and reports.
    fn handle_children(&mut self) {
        let mut ended = Vec::new();
        let mut reaped_unconfined = false;
        while let Some(pid) = reaper::ended_child() {
            let id = self.by_pid.remove(&pid.as_raw_nonzero().get());
            let task = id.and_then(|id| self.tasks.get_mut(&id));
            if task.as_ref().is_none_or(|task| !task.confined) {
                reaped_unconfined = true;
                // Before the id of the group can pass to another.
                let _ = rustix::process::kill_process_group(pid, Signal::KILL);
            }
            let told = reaper::reap(pid);
            if let (Some(id), Some(task), Some(told)) = (id, task, told) {
                task.ended = Some(told);
                ended.push(id);
            }
        }
        if reaped_unconfined || !self.orphans.is_empty() {
            self.kill_orphans();
        }
        if self.launcher.slots.is_draining() {
            self.launcher.slots.drain();
        }
        for id in ended {
            for stream in [Stream::Stdout, Stream::Stderr] {
                while self.pump(id, stream) == Flow::More {}
            }
            self.finish_if_silent(id);
        }
    }

    fn kill_orphans(&mut self) {
        let (by_pid, tasks) = (&self.by_pid, &self.tasks);
        let lives = |task: &Task| task.ended.is_none() && !task.confined;
        self.orphans.kill_ownerless(
            |pid| by_pid.contains_key(&pid),
            |id| tasks.get(&id).is_some_and(lives),
            |last| tasks.iter().any(|(id, task)| *id <= last && lives(task)),
            self.newest,
        );
    }

    pub(super) fn finish(&mut self, id: u64, mut task: Task, ended: Ended) {
        let mut usage = Usage {
            wall_us: microseconds_since(task.requested),
            ..ended.usage
        };
        let mut oom_killed = false;
        let mut outcome = outcome(ended.status);
        if let Some(mut slot) = task.slot.take() {
            (oom_killed, usage.cgroup_peak_bytes) = slot.memory_outcome();
            if task.confined {
                outcome = match self.launcher.told(&slot) {
                    Told::Ended(status) => super::task::outcome(status),
                    Told::Failed(failure) => Outcome::NotStarted(failure),
                    Told::Nothing => outcome,
                };
            }
            self.launcher.slots.give_back(slot);
        }
        // A shell passes on as its own status that a command of it wrote too large a file.
        let too_large = matches!(outcome, Outcome::Signalled(libc::SIGXFSZ))
            || outcome == Outcome::Exited(128 + libc::SIGXFSZ);
        let exit = Exit {
            outcome,
            usage,
            timed_out: task.timed_out,
            oom_killed,
            disk_exceeded: task.disk_exceeded || (too_large && task.limits.disk_bytes.is_some()),
            stdout_truncated: task.taps[0].truncated,
            stderr_truncated: task.taps[1].truncated,
        };
        self.link.report(&Report::Exit { id, exit });
    }

    fn send(&mut self) {
        if self.link.flush() == Peer::Gone {
            self.ending = self.ending.or(Some(End::AgentGone));
        }
        let waits = self.link.is_backed_up();
        if waits != self.socket_waits_to_send {
            self.socket_waits_to_send = waits;
            let events = if waits {
                epoll::EventFlags::IN | epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            let _ = epoll::modify(
                &self.poll,
                self.link.socket(),
                epoll::EventData::new_u64(SOCKET),
                events,
            );
        }
    }

    /// Kills everything, reaps it, and removes what was made for it.
    fn end(mut self, options: &Options) {
        let deadline = Instant::now() + super::MAX_END;
        loop {
            self.tasks.values_mut().for_each(Task::kill);
            self.launcher.slots.drain();
            let none_left = self.orphans.kill_all();
            while let Some(pid) = reaper::ended_child() {
                self.reap_at_end(pid);
            }
            if none_left || Instant::now() > deadline {
                break;
            }
            std::thread::sleep(RETRY / 10);
        }
        for slot in self.tasks.drain().filter_map(|(_, task)| task.slot) {
            self.launcher.slots.give_back(slot);
        }
        self.launcher.slots.remove();
        if self.ending == Some(End::AgentGone) {
            for directory in &options.cleanup_dirs {
                // Whatever cannot be removed is found by the sweep of the next start.
                let _ = std::fs::remove_dir_all(directory);
            }
        }
    }

    fn reap_at_end(&mut self, pid: Pid) {
        if let Some(id) = self.by_pid.remove(&pid.as_raw_nonzero().get())
            && let Some(task) = self.tasks.get_mut(&id)
        {
            task.ended = Some(Ended {
                status: 0,
                usage: Usage::default(),
            });
        }
        let _ = reaper::reap(pid);
    }
}

fn failure(stage: Stage, errno: i32) -> SpawnFailure {
    SpawnFailure { stage, errno }
}

fn microseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Blocks the signals that tell of children and of a wish to end, and gives a descriptor to read them from.
fn signal_descriptor() -> Result<OwnedFd, Errno> {
    // SAFETY: the set is initialised before use, and a descriptor the kernel returned is nobody else's.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            fd if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(crate::clone::last_errno()),
        }
    }
}

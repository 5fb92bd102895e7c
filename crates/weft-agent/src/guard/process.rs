//! The guard's own process: one thread, a timer and what the agent tells it. It is told that the
//! list is another one by anything on its standard input, answers with the number of the list that
//! it knows, and takes the end of that input for the end of the agent.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::GUARD_ARGUMENT;
use super::arm::Arm;
use super::decide::{Facts, Next, next};
use super::list::{List, Place};
use crate::lease_file::{Kept, now_ms};

/// How long the guard before may take to be gone once it was killed.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(5);
const TAKE_OVER_INTERVAL: Duration = Duration::from_millis(5);
/// While units are being ended, how often is looked at what was read.
const WORK_SLICE: Duration = Duration::from_millis(100);
/// How often a line of the lease is read again that was just being written.
const MAX_READS: usize = 5;
/// What a guard may still do when the machine has no memory left.
const OOM_SCORE: &str = "-900";

/// Runs a guard over a data directory until there is nothing left to guard. To be called before
/// any thread is made.
pub fn main(data_dir: Option<PathBuf>) -> ExitCode {
    let Some(data_dir) = data_dir else {
        eprintln!("weft: the guard of exclusive units is not for people; it takes a directory");
        return ExitCode::from(2);
    };
    detach();
    let started = Place::open(data_dir).and_then(|place| {
        let lock = take_over(&place)?;
        Ok((place, lock))
    });
    match started {
        Ok((place, _lock)) => {
            Guard::new(place).run();
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stdout(), "{error}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves the agent: its session, its signals, its directory.
fn detach() {
    // A guard that is started by hand may lead its group already.
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    // SAFETY: plain system calls; a null pointer asks for no old mask.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
        libc::prctl(libc::PR_SET_NAME, c"weft-guard".as_ptr());
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigdelset(&mut all, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
    }
}

/// Takes the place of the guard before, if there is one: it serves an agent that is gone.
fn take_over(place: &Place) -> std::io::Result<File> {
    let mut lock = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(place.lock())?;
    let began = Instant::now();
    while rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if began.elapsed() > TAKE_OVER_TIMEOUT {
            let detail = format!("another guard holds {}", place.lock().display());
            return Err(std::io::Error::other(detail));
        }
        end_holder(place, &mut lock);
        std::thread::sleep(TAKE_OVER_INTERVAL);
    }
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "{}", std::process::id())?;
    Ok(lock)
}

/// Kills the guard that the lock names, if it is one of this data directory.
fn end_holder(place: &Place, lock: &mut File) {
    let mut text = String::new();
    let _ = lock.rewind();
    let _ = lock.read_to_string(&mut text);
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else {
        return;
    };
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return;
    };
    // Read after the process was pinned: its number is not another's.
    let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    let line = line.unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let is_ours = words.get(1) == Some(&GUARD_ARGUMENT.as_bytes())
        && words.get(2) == Some(&place.data_dir().as_os_str().as_bytes());
    if is_ours {
        let _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

struct Guard {
    place: Place,
    list: Option<List>,
    lease: Option<Kept>,
    /// The list that the agent was told of.
    answered: Option<u64>,
    is_alone: bool,
    /// Under the lease of which heartbeat units were asked.
    asked: Option<u64>,
    is_quiet: bool,
    arm: Option<Arm>,
}

impl Guard {
    fn new(place: Place) -> Self {
        Self {
            place,
            list: None,
            lease: None,
            answered: None,
            is_alone: false,
            asked: None,
            is_quiet: false,
            arm: None,
        }
    }

    fn run(mut self) {
        loop {
            self.read();
            match next(self.facts()) {
                Next::End => return,
                Next::Wait { ms } => {
                    self.arm = None;
                    self.wait(ms);
                }
                Next::Prepare { ms } => {
                    self.prepare();
                    self.work_or_wait(ms);
                }
                Next::Ask { grace_ms } => {
                    self.asked = self.lease.map(|lease| lease.sent_ms);
                    self.stop(Duration::from_millis(grace_ms));
                }
                Next::Kill { ms } => {
                    self.is_quiet = self.stop(Duration::ZERO);
                    if !(self.is_quiet && self.is_alone) {
                        self.work_or_wait(ms);
                    }
                }
            }
        }
    }

    fn facts(&self) -> Facts {
        Facts {
            now_ms: now_ms(),
            lease: self.lease,
            has_units: self.list.as_ref().is_some_and(|it| !it.units.is_empty()),
            is_alone: self.is_alone,
            has_asked: self.asked.is_some() && self.asked == self.lease.map(|it| it.sent_ms),
            is_quiet: self.is_quiet,
        }
    }

    /// Reads what the agent wrote, and tells it which list is known.
    fn read(&mut self) {
        let list = self.place.read();
        let number = list.as_ref().map(|list| list.number);
        if self.answered != number {
            self.is_quiet = false;
            self.answered = number;
            if let Some(number) = number {
                let mut answers = std::io::stdout();
                let _ = writeln!(answers, "{number}").and_then(|()| answers.flush());
            }
        }
        self.list = list;
        // After the list: a lease that is read now holds for what is on it.
        let reads = || Kept::read(self.place.data_dir());
        let lease = (0..MAX_READS).find_map(|_| reads());
        if let Some(lease) = lease {
            let is_renewed = self.lease.is_none_or(|it| it.sent_ms != lease.sent_ms);
            self.is_quiet &= !is_renewed;
            self.lease = Some(lease);
        }
    }

    fn arm(&mut self) -> Option<&mut Arm> {
        if self.arm.is_none() {
            self.arm = Arm::new().ok();
        }
        self.arm.as_mut()
    }

    fn prepare(&mut self) {
        let Some(list) = self.list.take() else {
            return;
        };
        let place = self.place.clone();
        if let Some(arm) = self.arm() {
            arm.prepare(&place, &list);
        }
        self.list = Some(list);
    }

    /// Begins to end what runs; whether nothing does.
    fn stop(&mut self, grace: Duration) -> bool {
        let Some(list) = self.list.take() else {
            return true;
        };
        let place = self.place.clone();
        let is_quiet = self.arm().is_some_and(|arm| arm.stop(&place, &list, grace));
        self.list = Some(list);
        is_quiet
    }

    fn work_or_wait(&mut self, ms: u64) {
        match self.arm.as_mut().filter(|arm| arm.is_busy()) {
            Some(arm) => {
                arm.work(Duration::from_millis(ms).min(WORK_SLICE));
                self.wait(0);
            }
            None => self.wait(ms),
        }
    }

    /// Waits until the agent says something, or the time is over.
    fn wait(&mut self, ms: u64) {
        if self.is_alone {
            return std::thread::sleep(Duration::from_millis(ms));
        }
        let time = Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: (ms % 1000 * 1_000_000).cast_signed(),
        };
        let input = std::io::stdin();
        let mut polled = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
        if !matches!(poll(&mut polled, Some(&time)), Ok(ready) if ready > 0) {
            return;
        }
        let mut bytes = [0; 256];
        // What was said does not matter, only that something was.
        match rustix::io::read(input.as_fd(), &mut bytes) {
            Ok(0) => self.is_alone = true,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) | Ok(_) => {}
            Err(_) => self.is_alone = true,
        }
    }
}

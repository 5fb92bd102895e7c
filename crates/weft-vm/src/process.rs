//! Processes that outlive the agent, found again and never mistaken for others.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A process, held by a descriptor: its number may be given again, the descriptor names this one.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    pidfd: OwnedFd,
}

impl Process {
    /// The process whose command line has `argument` as one of its arguments. What is looked for
    /// names the directory of one unit, which nothing else is started with; looking at the
    /// process itself also finds one that was killed over before its number was written down.
    pub(crate) fn with_argument(argument: &Path) -> Option<Self> {
        let numbers = std::fs::read_dir("/proc").ok()?.flatten();
        numbers
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find_map(|pid| Self::open(pid, argument.as_os_str()))
    }

    fn open(pid: i32, argument: &OsStr) -> Option<Self> {
        if !has_argument(pid, argument) {
            return None;
        }
        let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Looked at again: the descriptor may be of a process that took the number meanwhile.
        let process = Self { pid, pidfd };
        (has_argument(pid, argument) && process.is_alive()).then_some(process)
    }

    /// Its number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it runs; one that only waits to be reaped does not.
    pub(crate) fn is_alive(&self) -> bool {
        // A process descriptor is readable once its process has ended (pidfd_open(2)).
        let mut polled = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut polled, Some(&Timespec::default())), Ok(0))
    }

    /// Kills it and waits until it is gone; false when it is not within `patience`.
    pub(crate) async fn kill(&self, patience: Duration) -> bool {
        // One that is gone is what is wanted.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        self.gone_within(patience).await
    }

    /// Waits until it is gone.
    pub(crate) async fn gone_within(&self, patience: Duration) -> bool {
        let end = tokio::time::Instant::now() + patience;
        while self.is_alive() {
            if tokio::time::Instant::now() >= end {
                return false;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        true
    }

    /// CPU time in microseconds and resident memory in bytes.
    pub(crate) fn used(&self) -> Option<(u64, u64)> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        // Fields 14, 15 and 24 of proc(5), counted from the third.
        let field = |number: usize| fields(&stat).nth(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)?.saturating_add(field(15)?);
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let cpu_us = ticks.saturating_mul(1_000_000) / per_second;
        let resident = field(24)?.saturating_mul(rustix::param::page_size() as u64);
        Some((cpu_us, resident))
    }
}

fn has_argument(pid: i32, argument: &OsStr) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|line| line.split(|&b| b == 0).any(|a| a == argument.as_bytes()))
}

/// Fields of `stat` after the name, which may hold anything.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    after.split(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_process_with_the_argument_is_found_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("mark");
        assert!(Process::with_argument(&mark).is_none());
        let mut command = std::process::Command::new("sh");
        command
            .args(["-c", "while :; do sleep 60; done"])
            .arg(&mark);
        let mut child = command.spawn().unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        let found = loop {
            if let Some(found) = Process::with_argument(&mark) {
                break found;
            }
            assert!(std::time::Instant::now() < end, "never found");
            tokio::time::sleep(LOOK_INTERVAL).await;
        };
        assert_eq!(found.pid(), child.id() as i32);
        assert!(found.is_alive() && found.used().is_some());
        assert!(found.kill(Duration::from_secs(60)).await);
        child.wait().unwrap();
        assert!(Process::with_argument(&mark).is_none());
    }
}

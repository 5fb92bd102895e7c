//! Monitors, as the agent starts, finds and ends them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::process::Command;

use crate::Error;
use crate::error::During;
use crate::monitor::{Answer, MAX_ANSWER_BYTES, Request};
use crate::options::MonitorCommand;
use crate::proc;
use crate::record::{Started, UnitDir};
use crate::watch::register;

/// How long a monitor may take to answer: it waits for the OCI runtime a minute.
const ANSWER: Duration = Duration::from_secs(90);
/// How often is looked whether a monitor that somebody else started has come to an end of it.
const LOOK_AGAIN: Duration = Duration::from_millis(3);
/// How many processes there may be between a monitor and its container.
const MAX_ABOVE: usize = 4;

/// Starts monitors.
#[derive(Clone, Debug)]
pub(crate) struct Spawner {
    pub(crate) command: MonitorCommand,
}

impl Spawner {
    /// Starts a monitor and waits for its answer.
    pub(crate) async fn spawn(&self, request: &Request) -> Result<Answer, Error> {
        let what = || format!("run the monitor {}", self.command.program.display());
        let body = serde_json::to_vec(request)
            .map_err(std::io::Error::from)
            .during(what)?;
        let mut child = Command::new(&self.command.program)
            .args(&self.command.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .during(what)?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read says why.
            let _ = stdin.write_all(&body).await;
        }
        let (mut answer, mut said) = (Vec::new(), Vec::new());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let talk = async {
            if let Some(stdout) = stdout {
                let mut stdout = stdout.take(MAX_ANSWER_BYTES);
                stdout.read_to_end(&mut answer).await.during(what)?;
            }
            if let Some(stderr) = stderr {
                let mut stderr = stderr.take(MAX_ANSWER_BYTES);
                stderr.read_to_end(&mut said).await.during(what)?;
            }
            child.wait().await.during(what)
        };
        tokio::time::timeout(ANSWER, talk)
            .await
            .map_err(|_| Error::Runtime {
                detail: format!("no answer within {} s", ANSWER.as_secs()),
                evidence: Vec::new(),
            })??;
        serde_json::from_slice(&answer).map_err(|_| Error::Runtime {
            detail: "the monitor of the container ended without an answer".into(),
            evidence: String::from_utf8_lossy(&said)
                .lines()
                .take(20)
                .map(str::to_owned)
                .collect(),
        })
    }

    /// Waits until no monitor is at a unit.
    pub(crate) async fn until_gone(&self, unit: &UnitDir) -> Result<(), Error> {
        while let Some(monitor) = Monitor::find(unit)? {
            monitor.ended().await?;
        }
        Ok(())
    }
}

/// A monitor that lives.
pub(crate) struct Monitor {
    pub(crate) pid: i32,
    handle: AsyncFd<OwnedFd>,
}

impl Monitor {
    /// The monitor of a unit, if there is one.
    pub(crate) fn find(unit: &UnitDir) -> Result<Option<Self>, Error> {
        let Some(pid) = unit.monitor()? else {
            return Ok(None);
        };
        let Some(handle) = open_process(pid) else {
            return Ok(None);
        };
        // The number may have become another's since; the lock says that it has not.
        if unit.monitor()? != Some(pid) {
            return Ok(None);
        }
        let handle = register(handle, Interest::READABLE)?;
        Ok(Some(Self { pid, handle }))
    }

    /// Resolves when it has ended.
    pub(crate) async fn ended(&self) -> Result<(), Error> {
        self.handle
            .readable()
            .await
            .map(drop)
            .during(|| "wait for the monitor".into())
    }

    pub(crate) fn kill(&self) {
        let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
    }

    /// Waits until the container runs, or the monitor has ended: then `None`.
    pub(crate) async fn settled(&self, unit: &UnitDir) -> Result<Option<Started>, Error> {
        loop {
            if let Some(started) = unit.started()? {
                return Ok(Some(started));
            }
            if tokio::time::timeout(LOOK_AGAIN, self.ended()).await.is_ok() {
                return unit.started();
            }
        }
    }

    /// Sends a signal to the first process of its container; nothing when that has ended.
    pub(crate) fn signal(&self, started: &Started, signal: i32) {
        let Some(process) = open_process(started.pid) else {
            return;
        };
        if !is_below(started.pid, self.pid) {
            return;
        }
        if let Some(signal) = Signal::from_named_raw(signal) {
            let _ = pidfd_send_signal(&process, signal);
        } else {
            // SAFETY: a plain system call; a real-time signal has no name.
            unsafe { libc::kill(started.pid, signal) };
        }
    }

    /// The mount namespace in which the container's bundle and its runtime's state are.
    pub(crate) fn mount_namespace(&self, unit: &UnitDir) -> Result<File, Error> {
        let path = format!("/proc/{}/ns/mnt", self.pid);
        let namespace = File::open(&path).during(|| format!("open {path}"))?;
        match unit.monitor()? == Some(self.pid) {
            true => Ok(namespace),
            false => Err(Error::NotRunning("the container has just ended".into())),
        }
    }
}

fn open_process(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Whether a process descends from a monitor, and so is the one that is meant and none that has its
/// number since. It is a child of the monitor, or for a moment still of a process of its runtime.
fn is_below(pid: i32, monitor: i32) -> bool {
    let parent = |pid: &i32| proc::stat_field(*pid, 4);
    let above = std::iter::successors(parent(&pid), parent);
    above.take(MAX_ABOVE).any(|above| above == monitor)
}

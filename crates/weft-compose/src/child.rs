//! Child processes with bounds: on time, on output, and none that outlives its caller.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// The most that a child may print to its standard output, in bytes.
const MAX_STDOUT_BYTES: u64 = 16 << 20;
/// What of its standard error is kept: the last of it, in bytes.
const MAX_STDERR_BYTES: usize = 16 << 10;

/// How a child ended, and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The end of what it printed to its standard error.
    pub(crate) stderr: String,
}

/// Why there is no [`Finished`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("{0} could not be run: {1}")]
    Spawn(String, io::Error),
    #[error("{0} did not end within {1:?} and was killed")]
    TimedOut(String, Duration),
    #[error("{0} printed more than {MAX_STDOUT_BYTES} bytes and was killed")]
    TooMuch(String),
}

/// Kills the group of a child unless it has ended, also when the caller's future is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended meanwhile; then there is nothing to kill.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Lets the child die with its parent: an agent that is killed must not leave a Compose behind that
/// goes on creating containers.
fn die_with_parent(command: &mut Command) {
    let hook = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(io::Error::from)
    };
    // SAFETY: runs between fork and exec, and makes one system call; it allocates nothing and
    // takes no locks.
    unsafe {
        command.pre_exec(hook);
    }
}

/// Runs a command to its end, within `timeout`.
pub(crate) async fn run(mut command: Command, timeout: Duration) -> Result<Finished, ChildError> {
    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    die_with_parent(&mut command);
    let mut child = command
        .spawn()
        .map_err(|error| ChildError::Spawn(program.clone(), error))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let all = async {
        let (stdout, stderr) = tokio::join!(head(stdout), tail(stderr));
        (child.wait().await, stdout, stderr)
    };
    let Ok((status, stdout, stderr)) = tokio::time::timeout(timeout, all).await else {
        return Err(ChildError::TimedOut(program, timeout));
    };
    let status = status.map_err(|error| ChildError::Spawn(program.clone(), error))?;
    group.0 = None;
    let stdout = stdout.ok_or(ChildError::TooMuch(program))?;
    Ok(Finished {
        status,
        stdout,
        stderr,
    })
}

/// All of a stream; `None` when that is too much.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    if let Some(stream) = stream {
        // A broken pipe is the end of the output.
        let _ = stream
            .take(MAX_STDOUT_BYTES + 1)
            .read_to_end(&mut all)
            .await;
    }
    (all.len() as u64 <= MAX_STDOUT_BYTES).then_some(all)
}

/// The end of a stream.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    if let Some(mut stream) = stream {
        while let Ok(read @ 1..) = stream.read(&mut chunk).await {
            kept.extend_from_slice(&chunk[..read]);
            if kept.len() > MAX_STDERR_BYTES {
                kept.drain(..kept.len() - MAX_STDERR_BYTES);
            }
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn what_it_said_and_its_status_are_told() {
        let ran = run(
            sh("echo out; echo err >&2; exit 3"),
            Duration::from_secs(10),
        )
        .await
        .unwrap();
        assert_eq!(ran.status.code(), Some(3));
        assert_eq!(
            (ran.stdout.as_slice(), ran.stderr.as_str()),
            (&b"out\n"[..], "err\n")
        );
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", pid.display());
        let begun = Instant::now();
        let error = run(sh(&script), Duration::from_secs(3)).await.unwrap_err();
        assert!(matches!(error, ChildError::TimedOut(..)), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60));
        let grandchild = std::fs::read_to_string(pid).unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        let stat = format!("/proc/{}/stat", grandchild.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|s| !s.contains(") Z "));
        while runs() {
            assert!(Instant::now() < end, "the grandchild still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn endless_output_ends_it() {
        let error = run(sh("exec cat /dev/zero"), Duration::from_secs(30)).await;
        assert!(matches!(error, Err(ChildError::TooMuch(_))), "{error:?}");
    }
}

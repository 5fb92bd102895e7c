//! Commands inside a container.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::exec::CreateExecOptions;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use bytes::Bytes;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};
use weft_types::Reason;
use weft_unit::{Error, ExecInput, ExecOutput, ExecSession, ExecWanted, Step};

use crate::error::failed;
use crate::hijack::{self, Output};

/// Pieces that wait for a slow reader, in either direction.
const PIECES: usize = 64;
/// How long the engine may take to tell the exit code once the output has ended.
const EXIT: Duration = Duration::from_secs(30);
/// Exit codes of shells for commands that cannot be run, and that are not there.
const CANNOT_RUN: i32 = 126;
const NOT_THERE: i32 = 127;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A command that was made known to the engine.
struct Command {
    docker: Docker,
    /// The engine's id of it.
    id: String,
    /// Full id of the container.
    container: String,
}

/// Runs a command inside a running container.
pub(crate) async fn run(
    docker: &Docker,
    socket: PathBuf,
    container: String,
    wanted: &ExecWanted,
) -> Result<ExecSession, Error> {
    let options = CreateExecOptions {
        cmd: Some(wanted.command.clone()),
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(wanted.tty.is_some()),
        ..CreateExecOptions::default()
    };
    let made = docker
        .create_exec(&container, options)
        .await
        .map_err(|error| failed(Step::Run, &error))?;
    let command = Command {
        docker: docker.clone(),
        id: made.id,
        container,
    };
    let (input, inputs) = mpsc::channel(PIECES);
    let (outputs, output) = mpsc::channel(PIECES);
    let (exited, exit) = oneshot::channel();
    let session = ExecSession {
        input,
        output,
        exit,
    };
    match command.start(&socket, wanted).await {
        Ok(there) => {
            let pumping = pump(command, there, inputs, outputs, exited);
            tokio::spawn(pumping);
        }
        Err(error) => match not_run(&error.to_string()) {
            Some(code) => {
                let said = format!("{error}\n").into_bytes().into();
                let _ = outputs.try_send(ExecOutput::Stderr(said));
                let _ = exited.send(Ok(code));
            }
            None => {
                return Err(Error::new(
                    Step::Run,
                    Reason::RuntimeError,
                    error.to_string(),
                ));
            }
        },
    }
    Ok(session)
}

/// The exit code of a command that is not there or cannot be run, as shells have it.
fn not_run(said: &str) -> Option<i32> {
    let said = said.to_lowercase();
    let any = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if any(&[
        "executable file not found",
        "executable file `",
        "no such file or directory",
    ]) {
        Some(NOT_THERE)
    } else if any(&["permission denied", "exec format error"]) {
        Some(CANNOT_RUN)
    } else {
        None
    }
}

impl Command {
    async fn start(&self, socket: &Path, wanted: &ExecWanted) -> std::io::Result<hijack::Hijacked> {
        let version = self.docker.client_version();
        let path = format!(
            "/v{}.{}/exec/{}/start",
            version.major_version, version.minor_version, self.id
        );
        let is_tty = wanted.tty.is_some();
        let body = serde_json::json!({ "Detach": false, "Tty": is_tty }).to_string();
        let there = hijack::post(socket, &path, &body, is_tty).await?;
        if let Some((columns, rows)) = wanted.tty {
            self.resize(columns, rows).await;
        }
        Ok(there)
    }

    /// A terminal of the wrong size is no reason to end a command.
    async fn resize(&self, columns: u16, rows: u16) {
        let options = ResizeExecOptionsBuilder::new()
            .w(i32::from(columns))
            .h(i32::from(rows))
            .build();
        if let Err(error) = self.docker.resize_exec(&self.id, options).await {
            tracing::debug!(%error, "a terminal keeps its size");
        }
    }

    /// Waits for the exit code, which is told a moment after the output has ended.
    async fn exit_code(&self) -> Result<i32, Error> {
        let end = Instant::now() + EXIT;
        loop {
            let found = self.docker.inspect_exec(&self.id).await;
            let found = found.map_err(|error| failed(Step::Run, &error))?;
            if let (false, Some(code)) = (found.running.unwrap_or(true), found.exit_code) {
                return Ok(i32::try_from(code).unwrap_or(-1));
            }
            if Instant::now() > end {
                let detail = "the engine does not tell how the command ended";
                return Err(Error::new(Step::Run, Reason::RuntimeError, detail));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends the command, which engines have no request for.
    async fn kill(&self) {
        let end = Instant::now() + EXIT;
        let pid = loop {
            let Ok(found) = self.docker.inspect_exec(&self.id).await else {
                return;
            };
            match (found.running, found.pid, found.exit_code) {
                (Some(true), Some(pid @ 1..), _) => break pid,
                (Some(false), _, Some(_)) => return,
                // It may print before the engine has its number.
                _ if Instant::now() < end => tokio::time::sleep(LOOK_INTERVAL).await,
                _ => break 0,
            }
        };
        if let Err(error) = kill_in(pid, &self.container) {
            tracing::debug!(%error, pid, "a command inside a container runs on");
        }
    }
}

/// Kills a process if it belongs to a container. Its number may have been given to another since it
/// was told: so it is pinned first and looked at then.
fn kill_in(pid: i64, container: &str) -> std::io::Result<()> {
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let number = number.ok_or_else(|| std::io::Error::other("no process"))?;
    let pinned = pidfd_open(number, PidfdFlags::empty())?;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    if !groups.contains(container) {
        return Err(std::io::Error::other("not in the container"));
    }
    Ok(pidfd_send_signal(&pinned, Signal::KILL)?)
}

/// Carries what is said in both directions until the command has ended or nobody listens.
async fn pump(
    command: Command,
    there: hijack::Hijacked,
    inputs: mpsc::Receiver<ExecInput>,
    outputs: mpsc::Sender<ExecOutput>,
    mut exited: oneshot::Sender<Result<i32, Error>>,
) {
    let talked = async {
        // The command has ended when its output has: whatever is still to be said to it is not.
        let mut inputs = std::pin::pin!(pass_input(&command, there.input, inputs));
        let mut output = std::pin::pin!(pass_output(there.output, &outputs));
        tokio::select! {
            first = &mut output => first,
            () = &mut inputs => output.await,
        }
    };
    let dropped = async {
        outputs.closed().await;
        exited.closed().await;
    };
    let first = tokio::select! {
        first = talked => first,
        () = dropped => {
            command.kill().await;
            return;
        }
    };
    drop(outputs);
    let code = command.exit_code().await;
    let _ = exited.send(code.map(|code| corrected(code, &first)));
}

/// Docker's runtimes end with 126 also for a command that is not there, and say so as if the command
/// had printed it.
fn corrected(code: i32, first: &[u8]) -> i32 {
    let is_of_runtime = first.starts_with(b"OCI runtime exec failed");
    match not_run(&String::from_utf8_lossy(first)) {
        Some(said) if code == CANNOT_RUN && is_of_runtime => said,
        _ => code,
    }
}

/// Passes on what the command prints, and gives the first piece.
async fn pass_output(mut output: Output, outputs: &mpsc::Sender<ExecOutput>) -> Bytes {
    let mut first = None;
    // What nobody reads is read here all the same, so that the command does not wait for it.
    while let Ok(Some(piece)) = output.next().await {
        let (ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)) = &piece;
        first.get_or_insert_with(|| bytes.clone());
        let _ = outputs.send(piece).await;
    }
    first.unwrap_or_default()
}

async fn pass_input(
    command: &Command,
    mut input: OwnedWriteHalf,
    mut inputs: mpsc::Receiver<ExecInput>,
) {
    while let Some(piece) = inputs.recv().await {
        match piece {
            ExecInput::Stdin(bytes) => {
                if input.write_all(&bytes).await.is_err() {
                    break;
                }
            }
            ExecInput::Eof => _ = input.shutdown().await,
            ExecInput::Resize(columns, rows) => command.resize(columns, rows).await,
        }
    }
    let _ = input.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_has_the_code_of_a_shell() {
        for (said, code) in [
            ("exec: \"x\": executable file not found in $PATH", Some(127)),
            (
                "crun: executable file `x` not found in $PATH: No such file or directory",
                Some(127),
            ),
            ("exec: \"/etc\": permission denied", Some(126)),
            ("the container is paused", None),
        ] {
            assert_eq!(not_run(said), code, "{said}");
        }
        let of_runtime = b"OCI runtime exec failed: \"x\": executable file not found in $PATH";
        assert_eq!(corrected(126, of_runtime), 127);
        assert_eq!(corrected(126, b"x: executable file not found"), 126);
        assert_eq!(corrected(0, of_runtime), 0);
    }

    #[test]
    fn a_process_of_nobodys_container_is_left_alone() {
        let own = i64::from(std::process::id());
        assert!(kill_in(own, "no-such-container").is_err());
        assert!(kill_in(0, "x").is_err());
    }
}

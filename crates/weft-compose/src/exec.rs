//! Commands inside a part of a unit.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, ResizeExecOptions, StartExecOptions, StartExecResults};
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use weft_types::{Reason, UnitId};
use weft_unit::{Error, ExecInput, ExecOutput, ExecSession, ExecWanted, Step};

use crate::engine::{Engine, Part, failed, names};

const WAITING: usize = 64;
/// The codes of a shell for a command that is not there, and for one that cannot be run.
const NOT_FOUND: i32 = 127;
const NOT_RUNNABLE: i32 = 126;
/// How long the engine may take to note the end of a command.
const END_LOOKS: u32 = 500;
const END_INTERVAL: Duration = Duration::from_millis(20);

struct Running {
    docker: Docker,
    exec: String,
    container: String,
}

/// Runs a command in one part: the named one, else the first.
pub(crate) async fn open(
    engine: &Arc<Engine>,
    id: UnitId,
    wanted: ExecWanted,
) -> Result<ExecSession, Error> {
    let parts = engine.parts(Step::Run, id, false).await?;
    let part = choose(&parts, &wanted.part).ok_or_else(|| {
        let detail = match wanted.part.as_str() {
            "" => format!("{id} has no containers on this node"),
            part => format!(
                "{id} has no part {part:?}; it has {}",
                names(&parts).join(", ")
            ),
        };
        Error::new(Step::Run, Reason::RuntimeError, detail)
    })?;
    let docker = engine.docker(Step::Run).await?.clone();
    let options = CreateExecOptions {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(wanted.tty.is_some()),
        cmd: Some(wanted.command),
        ..CreateExecOptions::default()
    };
    let fail = |error| failed(Step::Run, &error);
    let exec = docker
        .create_exec(&part.id, options)
        .await
        .map_err(fail)?
        .id;
    let start = StartExecOptions {
        detach: false,
        tty: wanted.tty.is_some(),
        output_capacity: None,
    };
    let running = Running {
        container: part.id.clone(),
        exec,
        docker,
    };
    match running.docker.start_exec(&running.exec, Some(start)).await {
        Ok(StartExecResults::Attached { output, input }) => {
            if let Some((columns, rows)) = wanted.tty {
                running.resize(columns, rows).await;
            }
            Ok(running.session(output, input))
        }
        Ok(StartExecResults::Detached) => {
            let detail = "the engine did not attach to the command";
            Err(Error::new(Step::Run, Reason::RuntimeError, detail))
        }
        Err(error) => match not_started(&error.to_string()) {
            Some(code) => Ok(ended(code, error.to_string())),
            None => Err(fail(error)),
        },
    }
}

fn choose<'a>(parts: &'a [Part], wanted: &str) -> Option<&'a Part> {
    if wanted.is_empty() {
        return parts.first();
    }
    let named = names(parts).iter().position(|name| name == wanted);
    match named {
        Some(index) => parts.get(index),
        None => parts.iter().find(|part| part.service == wanted),
    }
}

/// The code of a command that the engine could not start.
fn not_started(said: &str) -> Option<i32> {
    let said = said.to_ascii_lowercase();
    if said.contains("executable file not found") || said.contains("no such file or directory") {
        return Some(NOT_FOUND);
    }
    (said.contains("permission denied") || said.contains("exec format")).then_some(NOT_RUNNABLE)
}

/// Whether this is what an older engine prints, with 126 as exit code, when there is no such command.
fn says_not_found(output: &[u8]) -> bool {
    let said = String::from_utf8_lossy(&output[..output.len().min(512)]);
    said.starts_with("OCI runtime exec failed") && not_started(&said) == Some(NOT_FOUND)
}

/// A session of a command that has ended before it began.
fn ended(code: i32, said: String) -> ExecSession {
    let (input, _) = mpsc::channel(1);
    let (to, output) = mpsc::channel(1);
    let (told, exit) = oneshot::channel();
    // Both have room, and their readers are in hand.
    let _ = to.try_send(ExecOutput::Stderr(said.into()));
    let _ = told.send(Ok(code));
    ExecSession {
        input,
        output,
        exit,
    }
}

type Output =
    Pin<Box<dyn futures::Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>>;

impl Running {
    fn session(self, output: Output, stdin: Pin<Box<dyn AsyncWrite + Send>>) -> ExecSession {
        let (input, from_caller) = mpsc::channel(WAITING);
        let (to_caller, from_command) = mpsc::channel(WAITING);
        let (told, exit) = oneshot::channel();
        tokio::spawn(self.attend(output, stdin, from_caller, to_caller, told));
        ExecSession {
            input,
            output: from_command,
            exit,
        }
    }

    /// Copies both ways until the command has ended or nobody is there any more.
    async fn attend(
        self,
        mut output: Output,
        stdin: Pin<Box<dyn AsyncWrite + Send>>,
        mut input: mpsc::Receiver<ExecInput>,
        to: mpsc::Sender<ExecOutput>,
        mut told: oneshot::Sender<Result<i32, Error>>,
    ) {
        let mut is_missing = false;
        let copied = async {
            let mut writing = std::pin::pin!(self.write(stdin, &mut input));
            let mut is_written = false;
            loop {
                tokio::select! {
                    () = &mut writing, if !is_written => is_written = true,
                    next = output.next() => match next {
                        Some(Ok(part)) => {
                            is_missing |= says_not_found(part.as_ref());
                            // A reader may be gone while the exit code is waited for.
                            let _ = to.send(convert(part)).await;
                        }
                        _ => return,
                    },
                }
            }
        };
        let is_abandoned = tokio::select! {
            () = copied => false,
            () = abandoned(&to, &mut told) => true,
        };
        // Its output may end first, when its input does.
        if is_abandoned || told.is_closed() {
            return self.kill().await;
        }
        drop(to);
        let code = self.exit_code().await;
        let code = code.map(|code| match code {
            NOT_RUNNABLE if is_missing => NOT_FOUND,
            other => other,
        });
        let _ = told.send(code);
    }

    async fn write(
        &self,
        mut stdin: Pin<Box<dyn AsyncWrite + Send>>,
        input: &mut mpsc::Receiver<ExecInput>,
    ) {
        while let Some(next) = input.recv().await {
            match next {
                ExecInput::Stdin(bytes) => {
                    if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
                        return;
                    }
                }
                ExecInput::Eof => break,
                ExecInput::Resize(columns, rows) => self.resize(columns, rows).await,
            }
        }
        // The command may have ended already.
        let _ = stdin.shutdown().await;
        drop(stdin);
        while let Some(next) = input.recv().await {
            if let ExecInput::Resize(columns, rows) = next {
                self.resize(columns, rows).await;
            }
        }
    }

    async fn resize(&self, width: u16, height: u16) {
        let size = ResizeExecOptions { height, width };
        // A command that has ended has no terminal; then there is nothing to do.
        let _ = self.docker.resize_exec(&self.exec, size).await;
    }

    async fn exit_code(&self) -> Result<i32, Error> {
        for _ in 0..END_LOOKS {
            let seen = self.docker.inspect_exec(&self.exec).await;
            let seen = seen.map_err(|error| failed(Step::Run, &error))?;
            if let (Some(false), Some(code)) = (seen.running, seen.exit_code) {
                return Ok(i32::try_from(code).unwrap_or(i32::MAX));
            }
            tokio::time::sleep(END_INTERVAL).await;
        }
        let detail = "the engine does not tell how the command ended";
        Err(Error::new(Step::Run, Reason::RuntimeError, detail))
    }

    /// The number of the command's process, unless it has ended.
    async fn pid(&self) -> Option<Pid> {
        for _ in 0..END_LOOKS {
            let seen = self.docker.inspect_exec(&self.exec).await.ok()?;
            match (seen.running, seen.pid, seen.exit_code) {
                (Some(true), Some(pid @ 1..), _) => {
                    return Pid::from_raw(i32::try_from(pid).ok()?);
                }
                (Some(false), _, Some(_)) => return None,
                // It may print before the engine has its number.
                _ => tokio::time::sleep(END_INTERVAL).await,
            }
        }
        None
    }

    /// The engine has no call for this: the process is killed by its id on this machine, if it is
    /// still the container's.
    async fn kill(&self) {
        let Some(pid) = self.pid().await else {
            return;
        };
        let group = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero()));
        if group.is_ok_and(|group| group.contains(&self.container)) {
            // It may end by itself at this moment.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Resolves when neither output nor exit code is waited for.
async fn abandoned(to: &mpsc::Sender<ExecOutput>, told: &mut oneshot::Sender<Result<i32, Error>>) {
    tokio::join!(to.closed(), told.closed());
}

fn convert(output: LogOutput) -> ExecOutput {
    match output {
        LogOutput::StdErr { message } => ExecOutput::Stderr(message),
        other => ExecOutput::Stdout(other.into_bytes()),
    }
}

//! Commands inside a guest, by its agent.
//!
//! The agent runs a command as a whole: what it is to read is given with its start, and what it
//! printed is told when it has ended. Input is therefore gathered until its end before the command
//! starts; a caller who sends nothing at first is taken to have none.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use weft_types::Reason;
use weft_unit::{Error, ExecInput, ExecOutput, ExecSession, ExecWanted, Step};

use crate::guest::{Agent, CommandStatus};

/// The most input that a command is given, in bytes.
const MAX_INPUT_BYTES: usize = 16 << 20;
/// How long the first input is waited for.
const FIRST_INPUT: Duration = Duration::from_millis(300);
/// How long the rest of it may take.
const INPUT_PATIENCE: Duration = Duration::from_secs(60);
const AGENT_PATIENCE: Duration = Duration::from_secs(20);
/// How often is looked whether a command has ended, at first; later ever more seldom.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const MAX_LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Pieces in which output is told, in bytes.
const PIECE_BYTES: usize = 32 << 10;
/// Puts a command into a process group of its own, tells its number, and finds it in `PATH`.
const WRAPPER: &str = r#"command -v -- "$1" >/dev/null 2>&1 || { echo "$1: not found" >&2; exit 127; }
exec "$@""#;

fn failed(detail: impl Into<String>) -> Error {
    Error::new(Step::Run, Reason::RuntimeError, detail)
}

fn unavailable(detail: &str) -> Error {
    Error::new(Step::Run, Reason::RuntimeUnavailable, detail)
}

/// The error for a guest whose agent is not there.
pub(crate) fn no_agent() -> Error {
    unavailable(
        "no agent answers in the guest; install qemu-guest-agent in its image, or log in over SSH",
    )
}

/// Starts a command as soon as its input is known.
pub(crate) fn session(agent: Agent, wanted: ExecWanted) -> Result<ExecSession, Error> {
    if wanted.tty.is_some() {
        return Err(unavailable(
            "the guest's agent has no terminals; leave the terminal out, or log in over SSH",
        ));
    }
    if wanted.command.is_empty() {
        return Err(Error::new(
            Step::Run,
            Reason::InvalidSpec,
            "no command was given",
        ));
    }
    let (input, inputs) = mpsc::channel(16);
    let (outputs, output) = mpsc::channel(16);
    let (told, exit) = oneshot::channel();
    tokio::spawn(async move {
        let outcome = run(&agent, &wanted.command, inputs, &outputs).await;
        drop(outputs);
        // Nobody may want to know any more.
        let _ = told.send(outcome);
    });
    Ok(ExecSession {
        input,
        output,
        exit,
    })
}

async fn run(
    agent: &Agent,
    command: &[String],
    inputs: mpsc::Receiver<ExecInput>,
    outputs: &mpsc::Sender<ExecOutput>,
) -> Result<i32, Error> {
    let input = gather(inputs).await?;
    let mut wrapped: Vec<String> = ["/bin/sh", "-c", WRAPPER, "sh"].map(str::to_owned).into();
    wrapped.extend_from_slice(command);
    let pid = agent.start(&wrapped, &input, AGENT_PATIENCE);
    let pid = pid.await.map_err(failed)?;
    let mut interval = LOOK_INTERVAL;
    let status = loop {
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = outputs.closed() => {
                end(agent, pid).await;
                return Err(failed("nobody waits for the command any more"));
            }
        }
        let status = agent.status(pid, AGENT_PATIENCE).await.map_err(failed)?;
        if status.has_ended {
            break status;
        }
        interval = (interval * 2).min(MAX_LOOK_INTERVAL);
    };
    tell(&status, outputs).await;
    match (status.code, status.signal) {
        (Some(code), _) => Ok(code),
        (None, Some(signal)) => Ok(128 + signal),
        (None, None) => Err(failed("the guest's agent told no exit code")),
    }
}

async fn gather(mut inputs: mpsc::Receiver<ExecInput>) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    let end = Instant::now() + INPUT_PATIENCE;
    let mut patience = FIRST_INPUT;
    loop {
        match timeout(patience, inputs.recv()).await {
            Ok(Some(ExecInput::Stdin(bytes))) => all.extend_from_slice(&bytes),
            Ok(Some(ExecInput::Resize(..))) => continue,
            Ok(Some(ExecInput::Eof) | None) => return Ok(all),
            Err(_) if all.is_empty() => return Ok(all),
            Err(_) => return Err(failed("the input did not end in time; close it")),
        }
        if all.len() > MAX_INPUT_BYTES {
            let detail = format!("more than {MAX_INPUT_BYTES} bytes of input");
            return Err(failed(detail));
        }
        patience = end.saturating_duration_since(Instant::now());
    }
}

async fn tell(status: &CommandStatus, outputs: &mpsc::Sender<ExecOutput>) {
    let stdout = status.stdout.chunks(PIECE_BYTES);
    let stdout = stdout.map(|piece| ExecOutput::Stdout(Bytes::copy_from_slice(piece)));
    let stderr = status.stderr.chunks(PIECE_BYTES);
    let stderr = stderr.map(|piece| ExecOutput::Stderr(Bytes::copy_from_slice(piece)));
    for piece in stdout.chain(stderr) {
        if outputs.send(piece).await.is_err() {
            return;
        }
    }
}

/// Ends a command that nobody waits for.
async fn end(agent: &Agent, pid: i64) {
    let kill = ["/bin/sh", "-c", r#"kill -9 "$1""#, "sh", &pid.to_string()].map(str::to_owned);
    if let Err(why) = agent.start(&kill, &[], AGENT_PATIENCE).await {
        tracing::warn!(why, "a command in a guest may run on");
    }
}

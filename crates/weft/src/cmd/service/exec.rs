//! `weft exec`: a command inside a unit, with this terminal or with this standard input.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use weft_api::{ExecEnd, TerminalSize};
use weft_client::{Client, ExecCommand, ExecEvent, ExecInput, ExecOutput};
use weft_types::Reason;

use super::need_service;
use crate::args::{ExecArgs, Global};
use crate::exit::{FAILED, Failed, WEFT_FAILED};
use crate::output::Output;

/// How much of standard input is read at once, and how many such pieces wait.
const PIECE_BYTES: usize = 16 << 10;
const WAITING_PIECES: usize = 16;
/// The command could not be run.
const NOT_RUNNABLE: u8 = 126;

/// Runs a command inside a unit; exits as it does.
pub async fn exec(
    client: &Client,
    args: &ExecArgs,
    global: &Global,
    _output: &Output,
) -> Result<ExitCode, Failed> {
    let service = need_service(client, &args.name, global).await?;
    if args.tty && !std::io::stdin().is_terminal() {
        return Err(Failed::usage("-t needs a terminal as standard input")
            .with_next("leave out -t; -i alone passes a pipe on"));
    }
    let wanted = ExecCommand {
        unit: args.instance,
        part: args.part.clone(),
        command: args.command.clone(),
        tty: args.tty.then(terminal_size),
    };
    let (input, output) = client.exec(&service.id, &wanted).await?;
    let raw = args.tty.then(Raw::enter).transpose()?;
    let end = run(input, output, args).await;
    drop(raw);
    verdict(end?)
}

async fn run(
    mut input: ExecInput,
    mut output: ExecOutput,
    args: &ExecArgs,
) -> Result<Option<ExecEnd>, Failed> {
    let mut pieces = standard_input(args.interactive || args.tty);
    let mut resized =
        signal(SignalKind::window_change()).map_err(|error| Failed::internal(error.to_string()))?;
    loop {
        tokio::select! {
            event = output.next() => match event? {
                Some(ExecEvent::Stdout(bytes)) => write(std::io::stdout(), &bytes)?,
                Some(ExecEvent::Stderr(bytes)) => write(std::io::stderr(), &bytes)?,
                Some(ExecEvent::End(end)) => return Ok(Some(end)),
                None => return Ok(None),
            },
            Some(piece) = pieces.recv() => input.stdin(&piece).await?,
            Some(()) = resized.recv(), if args.tty => input.resize(terminal_size()).await?,
        }
    }
}

/// Standard input in pieces, an empty one at its end; only that when it is not passed on.
fn standard_input(is_passed: bool) -> mpsc::Receiver<Vec<u8>> {
    let (sender, pieces) = mpsc::channel(WAITING_PIECES);
    // A thread of its own: a blocked read cannot be cancelled, and ends with the process.
    std::thread::spawn(move || {
        if is_passed {
            pass_on(&sender);
        }
        let _ = sender.blocking_send(Vec::new());
    });
    pieces
}

/// Reads until the end of standard input, or until nobody wants more.
fn pass_on(sender: &mpsc::Sender<Vec<u8>>) {
    let mut stdin = std::io::stdin().lock();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = stdin.read(&mut buffer).unwrap_or(0);
        if read == 0 || sender.blocking_send(buffer[..read].to_vec()).is_err() {
            return;
        }
    }
}

fn write(mut stream: impl Write, bytes: &[u8]) -> Result<(), Failed> {
    let written = stream.write_all(bytes).and_then(|()| stream.flush());
    written.map_err(|error| Failed::internal(format!("the output cannot be written: {error}")))
}

fn verdict(end: Option<ExecEnd>) -> Result<ExitCode, Failed> {
    let Some(end) = end else {
        return Err(Failed::new(
            WEFT_FAILED,
            "broken-off",
            Reason::NetworkError,
            "the connection ended before the command did",
        ));
    };
    match (end.exit_code, end.reason) {
        (Some(code), _) => Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(FAILED))),
        (None, reason) => {
            let reason = reason.unwrap_or(Reason::Internal);
            let code = match reason {
                Reason::RuntimeUnavailable => NOT_RUNNABLE,
                _ => WEFT_FAILED,
            };
            Err(Failed::new(code, "exec", reason, end.detail))
        }
    }
}

fn terminal_size() -> TerminalSize {
    let size = tcgetwinsize(std::io::stdin()).ok();
    let of = |cells: Option<u16>, default| cells.filter(|cells| *cells > 0).unwrap_or(default);
    TerminalSize {
        width: of(size.map(|size| size.ws_col), 80),
        height: of(size.map(|size| size.ws_row), 24),
    }
}

/// The terminal passes every key on; as it was when this goes, also by a panic.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Self, Failed> {
        let refused = |error: rustix::io::Errno| Failed::internal(format!("the terminal: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(refused)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(refused)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

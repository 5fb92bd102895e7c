//! A command inside a unit.

use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;
use weft_proto::v1;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::Reason;
use weft_unit::{Error, ExecInput, ExecOutput, ExecSession, ExecWanted};

use super::{Failed, OPEN_TIMEOUT, Tunnel, gone};

pub(super) async fn run(
    tunnel: &Tunnel,
    start: v1::ExecStart,
    incoming: &mut Streaming<v1::TunnelFrame>,
) -> Result<(), Failed> {
    let (_, runtime) = tunnel.running()?;
    let size = (dimension(start.columns), dimension(start.rows));
    let wanted = ExecWanted {
        command: start.command,
        part: start.part,
        tty: start.tty.then_some(size),
    };
    let session = tokio::time::timeout(OPEN_TIMEOUT, runtime.exec(tunnel.unit, wanted)).await;
    let ExecSession {
        input,
        output,
        exit,
    } = match session {
        Ok(session) => session.map_err(of_error)?,
        Err(_) => {
            let detail = "the engine does not answer".to_owned();
            return Err((Reason::RuntimeUnavailable, detail));
        }
    };
    // Apart, so that a command that reads nothing does not keep its output from being sent.
    tokio::select! {
        done = tell(tunnel, output, exit) => done,
        () = feed(incoming, input) => Err(gone()),
    }
}

/// Passes on what is typed, until the other side goes.
async fn feed(incoming: &mut Streaming<v1::TunnelFrame>, input: mpsc::Sender<ExecInput>) {
    while let Ok(Some(message)) = incoming.message().await {
        let told = match message.frame {
            Some(Frame::Stdin(bytes)) => ExecInput::Stdin(bytes),
            Some(Frame::Eof(_)) => ExecInput::Eof,
            Some(Frame::Resize(size)) => {
                ExecInput::Resize(dimension(size.columns), dimension(size.rows))
            }
            _ => continue,
        };
        // A command that takes no more input may still print: its exit ends the stream.
        let _ = input.send(told).await;
    }
}

async fn tell(
    tunnel: &Tunnel,
    mut output: mpsc::Receiver<ExecOutput>,
    exit: oneshot::Receiver<Result<i32, Error>>,
) -> Result<(), Failed> {
    while let Some(printed) = output.recv().await {
        match printed {
            ExecOutput::Stdout(bytes) => tunnel.pieces(bytes, Frame::Stdout).await?,
            ExecOutput::Stderr(bytes) => tunnel.pieces(bytes, Frame::Stderr).await?,
        }
    }
    match exit.await {
        Ok(code) => tunnel.send(Frame::Exit(code.map_err(of_error)?)).await,
        Err(_) => {
            let detail = "the command ended without an exit code".to_owned();
            Err((Reason::RuntimeError, detail))
        }
    }
}

pub(super) fn of_error(error: Error) -> Failed {
    (error.reason, error.detail)
}

fn dimension(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}

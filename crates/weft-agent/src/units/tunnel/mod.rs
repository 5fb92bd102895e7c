//! Streams into units, opened when the server asks: a command, a port, logs. They end with the
//! session, or when the other side goes.

mod exec;
mod logs;
mod pause;
mod port;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use weft_proto::v1;
use weft_proto::v1::open_tunnel::What;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::{Reason, UnitId};
use weft_unit::UnitRuntime;

use super::{Shared, Units, View};
use crate::channel::Client;

/// Streams at once over one session.
const MAX_TUNNELS: usize = 256;
/// Frames that wait for the network.
const MAX_WAITING_FRAMES: usize = 16;
/// The most bytes in a frame.
const PIECE_BYTES: usize = 64 << 10;
/// How long the server, an engine or a port may take to answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take to hear the end of a stream.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The streams of one session; dropping it ends them.
pub(crate) struct Tunnels {
    shared: Arc<Shared>,
    client: Client,
    turns: Arc<Semaphore>,
    ends: CancellationToken,
}

/// Why a stream ended, for the other side.
type Failed = (Reason, String);

/// The agent's end of a stream.
struct Tunnel {
    shared: Arc<Shared>,
    unit: UnitId,
    out: mpsc::Sender<v1::TunnelFrame>,
}

impl Tunnels {
    pub(crate) fn new(units: &Units, client: Client) -> Self {
        Self {
            shared: Arc::clone(&units.shared),
            client,
            turns: Arc::new(Semaphore::new(MAX_TUNNELS)),
            ends: CancellationToken::new(),
        }
    }

    /// Opens a stream that the server asked for. Beyond the bound it is not opened: the server
    /// gives up waiting for it.
    pub(crate) fn open(&self, request: v1::OpenTunnel) {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else {
            return tracing::warn!(id = request.id, "too many streams into units at once");
        };
        let work = run(Arc::clone(&self.shared), self.client.clone(), request);
        let ends = self.ends.clone();
        tokio::spawn(async move {
            let _ = ends.run_until_cancelled(work).await;
            drop(turn);
        });
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.ends.cancel();
    }
}

async fn run(shared: Arc<Shared>, mut client: Client, request: v1::OpenTunnel) {
    let (out, frames) = mpsc::channel(MAX_WAITING_FRAMES);
    let first = v1::TunnelFrame {
        id: request.id.clone(),
        frame: None,
    };
    // There is room for it: the channel is new.
    let _ = out.try_send(first);
    let opened = client.tunnel(ReceiverStream::new(frames));
    let mut incoming = match tokio::time::timeout(OPEN_TIMEOUT, opened).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return tracing::debug!(%status, "no stream"),
        Err(_) => return tracing::debug!("the server does not take the stream"),
    };
    if let Err((reason, detail)) = serve(shared, request, out.clone(), &mut incoming).await {
        let error = v1::TunnelError {
            reason: reason.code().into(),
            detail,
        };
        let _ = send(&out, Frame::Error(error)).await;
    }
    drop(out);
    // To go at once would cancel the stream, and what was said last with it.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, ended(&mut incoming)).await;
}

async fn serve(
    shared: Arc<Shared>,
    request: v1::OpenTunnel,
    out: mpsc::Sender<v1::TunnelFrame>,
    incoming: &mut Streaming<v1::TunnelFrame>,
) -> Result<(), Failed> {
    let unit = request.unit.parse();
    let unit = unit.map_err(|error| (Reason::InvalidSpec, error))?;
    let tunnel = Tunnel { shared, unit, out };
    match request.what {
        Some(What::Exec(start)) => exec::run(&tunnel, start, incoming).await,
        Some(What::Port(port)) => port::run(&tunnel, port, incoming).await,
        Some(What::Paused(is_paused)) => pause::run(&tunnel, is_paused).await,
        Some(What::Logs(start)) => logs::run(&tunnel, &start, incoming).await,
        None => Err((Reason::InvalidSpec, "nothing was asked for".to_owned())),
    }
}

impl Tunnel {
    /// The unit, which must run.
    fn running(&self) -> Result<(View, Arc<dyn UnitRuntime>), Failed> {
        let node = &self.shared.node;
        let view = self.shared.view(self.unit).ok_or_else(|| {
            let detail = format!("{} is not on node {node}", self.unit);
            (Reason::RuntimeError, detail)
        })?;
        if !view.is_settled {
            let detail = format!(
                "node {node} has just started and still looks at {}; try again in a moment",
                self.unit
            );
            return Err((Reason::RuntimeUnavailable, detail));
        }
        if !view.is_running {
            let state = view.status.state;
            let detail = format!("{} does not run: it is {state}", self.unit);
            return Err((Reason::RuntimeError, detail));
        }
        let runtime = self.shared.runtimes.get(view.kind).ok_or_else(|| {
            let detail = format!("node {node} does not run `{}` workloads", view.kind);
            (Reason::RuntimeUnavailable, detail)
        })?;
        Ok((view, runtime))
    }

    /// Sends bytes, in pieces; waits while the network takes no more.
    async fn pieces(&self, mut bytes: Bytes, frame: fn(Bytes) -> Frame) -> Result<(), Failed> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
            self.send(frame(piece)).await?;
        }
        Ok(())
    }

    async fn send(&self, frame: Frame) -> Result<(), Failed> {
        send(&self.out, frame).await
    }
}

async fn send(out: &mpsc::Sender<v1::TunnelFrame>, frame: Frame) -> Result<(), Failed> {
    let frame = v1::TunnelFrame {
        id: String::new(),
        frame: Some(frame),
    };
    out.send(frame).await.map_err(|_| gone())
}

fn gone() -> Failed {
    (Reason::NetworkError, "the other side went away".to_owned())
}

/// Resolves when the other side ends its direction or goes; what it says is of no interest.
async fn ended(incoming: &mut Streaming<v1::TunnelFrame>) {
    while let Ok(Some(_)) = incoming.message().await {}
}

//! Streams into units: exec, ports and logs. The server asks on the node's session, the agent
//! opens a stream of its own for the answer, and the two are matched by an id that nobody can guess.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::{Status, Streaming};
use weft_api::Problem;
use weft_core::service::record::Assignment;
use weft_proto::v1;
use weft_proto::v1::open_tunnel::What;
use weft_proto::v1::server_message::Message;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::{NodeId, Reason};

use crate::Error;
use crate::rest::problem::ApiError;
use crate::state::Server;

/// The most tunnels at once.
const MAX_TUNNELS: usize = 1_024;
/// After how many seconds a client that found no room may try again.
const FULL_RETRY_S: u64 = 5;
/// Frames that wait for the agent; a slower one slows down the client.
const MAX_WAITING_FRAMES: usize = 16;
/// How long an agent may take to open a tunnel, and to say which in its first frame.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// The way of frames to an agent.
pub type ToAgent = mpsc::Sender<Result<v1::TunnelFrame, Status>>;

/// Tunnels that somebody waits for.
pub struct Tunnels {
    waiting: Mutex<HashMap<String, Waiting>>,
    room: Arc<Semaphore>,
}

struct Waiting {
    node: NodeId,
    answer: oneshot::Sender<Ends>,
}

/// The ends of a tunnel that an agent opened.
struct Ends {
    to_agent: ToAgent,
    first: Option<Frame>,
    from_agent: Streaming<v1::TunnelFrame>,
}

/// An open tunnel; dropping it, or either half, ends it on both sides.
pub struct Tunnel {
    /// Frames to the unit.
    pub writer: Writer,
    /// Frames from the unit.
    pub reader: Reader,
}

/// Frames to a unit.
pub struct Writer {
    to_agent: ToAgent,
}

/// Frames from a unit.
pub struct Reader {
    first: Option<Frame>,
    from_agent: Streaming<v1::TunnelFrame>,
    _room: OwnedSemaphorePermit,
}

impl Default for Tunnels {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            room: Arc::new(Semaphore::new(MAX_TUNNELS)),
        }
    }
}

/// Forgets a tunnel that nobody waits for any more.
struct Asked<'a> {
    tunnels: &'a Tunnels,
    id: String,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.tunnels.waiting.lock().remove(&self.id);
    }
}

impl Tunnels {
    /// Opens a tunnel into a unit.
    ///
    /// # Errors
    /// When its node has no session or does not answer, or there are too many tunnels.
    pub async fn open(
        &self,
        server: &Server,
        assignment: &Assignment,
        what: What,
    ) -> Result<Tunnel, ApiError> {
        let node = &assignment.node;
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            ApiError::too_many(format!("there are {MAX_TUNNELS} tunnels"), FULL_RETRY_S)
        })?;
        let session = server.services.sessions.of(node);
        let session = session.ok_or_else(|| unreachable(node, "has no session"))?;
        let id = random_id()?;
        let (answer, opened) = oneshot::channel();
        let waiting = Waiting {
            node: node.clone(),
            answer,
        };
        self.waiting.lock().insert(id.clone(), waiting);
        let asked = Asked { tunnels: self, id };
        let message = v1::ServerMessage {
            message: Some(Message::Open(v1::OpenTunnel {
                id: asked.id.clone(),
                unit: assignment.unit.to_string(),
                what: Some(what),
            })),
        };
        let opened = async {
            session.ready.send(Ok(message)).await.ok()?;
            opened.await.ok()
        };
        let ends = tokio::select! {
            ends = tokio::time::timeout(OPEN_TIMEOUT, opened) => ends,
            () = server.stopping.cancelled() => return Err(ApiError::stopping()),
        };
        let ends = ends.ok().flatten();
        let ends = ends.ok_or_else(|| unreachable(node, "did not open the stream in time"))?;
        Ok(Tunnel {
            writer: Writer {
                to_agent: ends.to_agent,
            },
            reader: Reader {
                first: ends.first,
                from_agent: ends.from_agent,
                _room: room,
            },
        })
    }

    /// An agent opened a stream: gives it to whoever asked, and returns what goes to the agent.
    ///
    /// # Errors
    /// When nobody asked this node for it.
    pub async fn accept(
        &self,
        node: &NodeId,
        mut frames: Streaming<v1::TunnelFrame>,
    ) -> Result<mpsc::Receiver<Result<v1::TunnelFrame, Status>>, Status> {
        let first = tokio::time::timeout(OPEN_TIMEOUT, frames.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no frame came"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let waiting = {
            let mut waiting = self.waiting.lock();
            let is_theirs = waiting
                .get(&first.id)
                .is_some_and(|waiting| waiting.node == *node);
            is_theirs.then(|| waiting.remove(&first.id)).flatten()
        };
        let nobody = || Status::not_found("nobody asked this node for this tunnel");
        let waiting = waiting.ok_or_else(nobody)?;
        let (to_agent, receiver) = mpsc::channel(MAX_WAITING_FRAMES);
        let ends = Ends {
            to_agent,
            first: first.frame,
            from_agent: frames,
        };
        waiting.answer.send(ends).map_err(|_| nobody())?;
        Ok(receiver)
    }
}

impl Writer {
    /// Sends a frame; waits while the agent is slower. `false` when the tunnel has ended.
    pub async fn send(&self, frame: Frame) -> bool {
        let frame = v1::TunnelFrame {
            id: String::new(),
            frame: Some(frame),
        };
        self.to_agent.send(Ok(frame)).await.is_ok()
    }
}

impl Reader {
    /// The next frame; `None` when the agent has ended the tunnel. One that breaks off ends with
    /// an error frame.
    pub async fn next(&mut self) -> Option<Frame> {
        if let Some(frame) = self.first.take() {
            return Some(frame);
        }
        loop {
            match self.from_agent.message().await {
                Ok(Some(message)) if message.frame.is_some() => return message.frame,
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => {
                    return Some(Frame::Error(v1::TunnelError {
                        reason: Reason::NetworkError.code().into(),
                        detail: format!("the stream of the node broke off: {}", status.message()),
                    }));
                }
            }
        }
    }
}

/// What an agent says went wrong.
pub fn failure(error: &v1::TunnelError) -> (Reason, String) {
    let code = u8::try_from(error.reason).unwrap_or_default();
    let reason = Reason::from_code(code).unwrap_or(Reason::RuntimeError);
    (reason, error.detail.clone())
}

fn unreachable(node: &NodeId, what: &str) -> ApiError {
    Problem::new(
        503,
        "node-unreachable",
        Reason::NodeLost,
        format!("node {node} {what}"),
    )
    .with_next(format!(
        "`weft node show {node}` tells how it is; try again when it is healthy"
    ))
    .into()
}

fn random_id() -> Result<String, Error> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| Error::Corrupt {
        what: "random numbers".to_owned(),
        detail: error.to_string(),
    })?;
    Ok(hex::encode(random))
}

//! The gRPC service of agents.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_pki::Identity;
use weft_placement::Candidate;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_types::{NodeCapacity, NodeId};

use super::reader::{Reader, task_refs};
use super::writer::{MAX_READY_MESSAGES, Writer};
use super::{artifacts, join};
use crate::Error;
use crate::dispatch::{MAX_WAITING_WORK, NodeReport};
use crate::listener::Peer;
use crate::nodes::{SessionFacts, availability};
use crate::services::reports::Reports;
use crate::services::sessions::{Ready, Session};
use crate::services::units::Push;
use crate::state::Server;

/// How long an agent may take to greet.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The most tasks any agent may hold.
const MAX_HELD_TASKS: u32 = 65_536;
/// The most things that a node may lack.
const MAX_MISSING: usize = 64;
/// The longest text a node may send about itself, in bytes.
const MAX_FACT_BYTES: usize = 256;

/// The gRPC service of agents.
pub struct AgentService {
    server: Arc<Server>,
}

impl AgentService {
    /// The service over a server's state.
    pub fn new(server: Arc<Server>) -> Self {
        Self { server }
    }

    /// The node at the other end; only members of the cluster get past this.
    fn node<T>(&self, request: &Request<T>) -> Result<NodeId, Status> {
        let peer = request.extensions().get::<Peer>();
        let Some(Identity::Node(node)) = peer.and_then(|peer| peer.identity.as_ref()) else {
            return Err(Status::unauthenticated(
                "this needs the certificate of a node; join with a token first",
            ));
        };
        if !self.server.nodes.is_member(node) {
            return Err(Status::permission_denied(format!(
                "node {node} was removed from the cluster; join again with a new token"
            )));
        }
        Ok(node.clone())
    }
}

type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::agent_server::Agent for AgentService {
    type SessionStream = MessageStream<v1::ServerMessage>;
    type GetBlobStream = MessageStream<v1::BlobChunk>;
    type TunnelStream = MessageStream<v1::TunnelFrame>;

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        join::join(&self.server, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn rejoin(
        &self,
        request: Request<v1::RejoinRequest>,
    ) -> Result<Response<v1::RejoinResponse>, Status> {
        join::rejoin(&self.server, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = self.node(&request)?;
        let from = request.extensions().get::<Peer>();
        let from = from.map(|peer| peer.address.ip());
        let mut messages = request.into_inner();
        let (ready, encoded) = mpsc::channel(MAX_READY_MESSAGES);
        let server = Arc::clone(&self.server);
        // The answer's headers go out at once: the agent greets after it has them.
        tokio::spawn(async move {
            match greeting(&mut messages).await {
                Ok(hello) => {
                    if let Err(status) =
                        open(server, node, from, hello, messages, ready.clone()).await
                    {
                        let _ = ready.send(Err(status)).await;
                    }
                }
                Err(status) => {
                    let _ = ready.send(Err(status)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(encoded))))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<v1::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let node = self.node(&request)?;
        let tunnels = &self.server.services.tunnels;
        let frames = tunnels.accept(&node, request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(frames))))
    }

    async fn get_blob(
        &self,
        request: Request<v1::GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        self.node(&request)?;
        let stream = artifacts::read(&self.server, &request.into_inner()).await?;
        Ok(Response::new(Box::pin(stream)))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::BlobChunk>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        self.node(&request)?;
        artifacts::write(&self.server, request.into_inner())
            .await
            .map(Response::new)
    }
}

async fn greeting(messages: &mut Streaming<v1::AgentMessage>) -> Result<v1::Hello, Status> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, messages.message()).await;
    match first.map_err(|_| Status::deadline_exceeded("no hello came"))?? {
        Some(v1::AgentMessage {
            message: Some(Message::Hello(hello)),
        }) => Ok(hello),
        _ => Err(Status::invalid_argument(
            "the first message of a session must be hello",
        )),
    }
}

/// Registers the node under a fresh epoch and starts both directions of its session.
async fn open(
    server: Arc<Server>,
    node: NodeId,
    from: Option<IpAddr>,
    hello: v1::Hello,
    messages: Streaming<v1::AgentMessage>,
    ready: Ready,
) -> Result<(), Status> {
    let capacity_message = hello.capacity.unwrap_or_default();
    let (capacity, missing) = offered(&capacity_message)?;
    let held = task_refs(&hello.held)?;
    let facts = SessionFacts {
        capacity: capacity.clone(),
        hostname: short(&capacity_message.hostname),
        version: short(&hello.version),
        missing,
    };
    server
        .nodes
        .session_opened(&node, facts)
        .await
        .map_err(|error| status_of(&error))?;
    let epoch = server.liveness.register(&node);
    let state = server.liveness.state(&node);
    let candidate = Candidate {
        key: node.as_str().into(),
        price_per_hour: capacity.price_per_hour,
        capacity,
        state: state.map(availability).unwrap_or_default(),
        ..Candidate::default()
    };
    let (outbound, work) = mpsc::channel(MAX_WAITING_WORK);
    let (welcome, welcomed) = oneshot::channel();
    let writer = Writer {
        server: Arc::clone(&server),
        node: node.clone(),
        epoch,
        ready: ready.clone(),
        welcomed: Some(welcome),
    };
    tokio::spawn(writer.run(work));
    let session = Session::new(epoch, ready.clone(), from, hello.peer_port);
    server.services.sessions.opened(&node, session);
    let units = Arc::new(Reports::default());
    tokio::spawn(serve_units(
        Arc::clone(&server),
        node.clone(),
        epoch,
        ready.clone(),
        Arc::clone(&units),
        welcomed,
    ));
    let max_held = capacity_message.max_held_tasks.clamp(1, MAX_HELD_TASKS);
    let up = NodeReport::Up {
        candidate: Box::new(candidate),
        max_held,
        held,
        outbound,
    };
    server
        .dispatcher
        .node(&node, epoch, up)
        .await
        .map_err(|error| status_of(&error))?;
    tokio::spawn(
        Reader {
            server,
            node,
            epoch,
            ready,
            units,
        }
        .run(messages),
    );
    Ok(())
}

/// Tells a node its units, and writes how they are, from its welcome to the end of its session.
async fn serve_units(
    server: Arc<Server>,
    node: NodeId,
    epoch: u64,
    ready: Ready,
    reports: Arc<Reports>,
    welcomed: oneshot::Receiver<()>,
) {
    if welcomed.await.is_err() {
        return;
    }
    let writing = Arc::clone(&reports).write(Arc::clone(&server), node.clone(), epoch);
    let push = Push {
        server,
        node,
        ready,
        reports,
    };
    tokio::select! {
        () = push.run() => {}
        () = writing => {}
    }
}

/// What a node says that it offers, and that it lacks.
pub(super) fn offered(message: &v1::Capacity) -> Result<(NodeCapacity, Vec<String>), Status> {
    let capacity = weft_proto::capacity_from_proto(message)
        .map_err(|error| Status::invalid_argument(format!("capacity.{error}")))?;
    let missing = message.missing.iter().take(MAX_MISSING);
    Ok((capacity, missing.map(|text| short(text)).collect()))
}

fn short(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_FACT_BYTES)
        .collect()
}

/// A failure as gRPC has it.
pub(super) fn status_of(error: &Error) -> Status {
    use weft_types::Reason;
    match error {
        Error::NotFound { .. } | Error::NodeIdTaken(_) | Error::WrongKey(_) | Error::Token(_) => {
            Status::permission_denied(error.to_string())
        }
        error => match error.reason() {
            Reason::InvalidSpec => Status::invalid_argument(error.to_string()),
            Reason::ArtifactMissing => Status::not_found(error.to_string()),
            Reason::StorageError => Status::resource_exhausted(error.to_string()),
            _ => Status::internal(error.to_string()),
        },
    }
}

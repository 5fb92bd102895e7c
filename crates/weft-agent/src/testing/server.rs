//! A server over real TLS that does nothing by itself: tests take its sessions and talk.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_pki::{Authority, ClusterName, JoinToken, JoinTokenSpec, ServerTls};
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_proto::v1::server_message::Message as Answer;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::{BlobHash, NodeId, Timestamp};

use super::DEADLINE;
use crate::identity::now;

const A_DAY: Duration = Duration::from_secs(86_400);

/// A server that tests speak for.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) state: Arc<State>,
    sessions: mpsc::Receiver<Session>,
    tunnels: mpsc::Receiver<TunnelEnd>,
    connections: Arc<Mutex<JoinSet<()>>>,
    accept: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

/// What the server answers with.
pub(crate) struct State {
    pub(crate) authority: Authority,
    /// From when and for how long the certificates of joining nodes are good.
    pub(crate) joined_valid: Mutex<(Timestamp, Duration)>,
    /// Answers to the next sessions, instead of opening them.
    pub(crate) refusals: Mutex<VecDeque<Status>>,
    /// Answers to the next requests for artifacts, instead of their bytes.
    pub(crate) blob_refusals: Mutex<VecDeque<Status>>,
    pub(crate) blobs: Mutex<HashMap<BlobHash, bytes::Bytes>>,
    /// How often a node whose certificate expired must ask.
    pub(crate) asks_before_return: Mutex<u32>,
    /// Whether heartbeats are answered.
    pub(crate) beats: Arc<AtomicBool>,
    /// How long the leases last that sessions are welcomed with. Heartbeats are answered only while
    /// a test listens, so that a short one may end at any time.
    pub(crate) lease_ttl_ms: Arc<AtomicU64>,
    sessions: mpsc::Sender<Session>,
    tunnels: mpsc::Sender<TunnelEnd>,
}

/// The server's end of a stream into a unit.
pub(crate) struct TunnelEnd {
    pub(crate) id: String,
    frames: Streaming<v1::TunnelFrame>,
    answers: mpsc::Sender<Result<v1::TunnelFrame, Status>>,
}

impl TunnelEnd {
    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        let message = tokio::time::timeout(DEADLINE, self.frames.message()).await;
        let message = message.expect("no frame came").ok()??;
        Some(message.frame.expect("an empty frame"))
    }

    pub(crate) async fn send(&self, frame: Frame) {
        let message = v1::TunnelFrame {
            id: String::new(),
            frame: Some(frame),
        };
        self.answers.send(Ok(message)).await.unwrap();
    }
}

/// A session that an agent opened.
pub(crate) struct Session {
    messages: Streaming<v1::AgentMessage>,
    answers: mpsc::Sender<Result<v1::ServerMessage, Status>>,
    beats: Arc<AtomicBool>,
    lease_ttl_ms: Arc<AtomicU64>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "test".parse().unwrap();
        let authority = Authority::create(&dir.path().join("ca"), &cluster, now()).unwrap();
        let server: NodeId = "server-1".parse().unwrap();
        let credentials = authority.issue_server(&server, &[], A_DAY, now()).unwrap();
        let tls = ServerTls::new(&credentials).unwrap();
        let (opened, sessions) = mpsc::channel(8);
        let (tunnelled, tunnels) = mpsc::channel(8);
        let state = Arc::new(State {
            authority,
            joined_valid: Mutex::new((now(), A_DAY)),
            refusals: Mutex::default(),
            blob_refusals: Mutex::default(),
            blobs: Mutex::default(),
            asks_before_return: Mutex::default(),
            beats: Arc::new(AtomicBool::new(true)),
            lease_ttl_ms: Arc::new(AtomicU64::new(60_000)),
            sessions: opened,
            tunnels: tunnelled,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let accept = tokio::spawn(accept(
            listener,
            tls,
            Arc::clone(&state),
            Arc::clone(&connections),
        ));
        Self {
            address,
            state,
            sessions,
            tunnels,
            connections,
            accept,
            _dir: dir,
        }
    }

    /// A token to join with.
    pub(crate) fn token(&self) -> String {
        let spec = JoinTokenSpec {
            addresses: vec![self.address.clone()],
            ca_fingerprint: self.state.authority.fingerprint(),
            ttl: A_DAY,
            uses: 1,
            pool: None,
            labels: BTreeMap::new(),
        };
        JoinToken::mint(spec, now()).unwrap().0.to_string()
    }

    /// The next session that an agent opens, not welcomed yet.
    pub(crate) async fn session(&mut self) -> Session {
        let session = tokio::time::timeout(DEADLINE, self.sessions.recv()).await;
        session.expect("no session came").unwrap()
    }

    /// The next session, welcomed; with what the agent said.
    pub(crate) async fn welcomed(&mut self, epoch: u64) -> (Session, v1::Hello) {
        let mut session = self.session().await;
        let hello = session.welcome(epoch, Vec::new()).await;
        (session, hello)
    }

    /// The next stream into a unit that an agent opens.
    pub(crate) async fn tunnel(&mut self) -> TunnelEnd {
        let tunnel = tokio::time::timeout(DEADLINE, self.tunnels.recv()).await;
        tunnel.expect("no stream came").unwrap()
    }

    /// Breaks every connection off, as a crash does.
    pub(crate) fn break_off(&self) {
        self.connections.lock().abort_all();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accept.abort();
        self.break_off();
    }
}

impl Session {
    /// The next message that is no heartbeat and not about units, of which these tests have none.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            match self.of_units().await {
                Message::Units(_) | Message::Loads(_) => {}
                message => return message,
            }
        }
    }

    /// The next message that is no heartbeat; those are answered.
    pub(crate) async fn of_units(&mut self) -> Message {
        loop {
            match self.any().await {
                Message::Heartbeat(beat) => {
                    if self.beats.load(Ordering::Relaxed) {
                        let sent_ms = beat.sent_ms;
                        self.send(Answer::Beat(v1::Beat { sent_ms })).await;
                    }
                }
                message => return message,
            }
        }
    }

    /// The next message.
    pub(crate) async fn any(&mut self) -> Message {
        let message = tokio::time::timeout(DEADLINE, self.messages.message()).await;
        let message = message.expect("no message came").unwrap();
        message.expect("the session is over").message.unwrap()
    }

    pub(crate) async fn send(&self, answer: Answer) {
        let message = v1::ServerMessage {
            message: Some(answer),
        };
        self.answers.send(Ok(message)).await.unwrap();
    }

    /// Takes the greeting and answers it.
    pub(crate) async fn welcome(&mut self, epoch: u64, stop: Vec<v1::HeldTasks>) -> v1::Hello {
        let Message::Hello(hello) = self.next().await else {
            panic!("the first message is no greeting");
        };
        let welcome = v1::Welcome {
            epoch,
            heartbeat_ms: 50,
            lease_ttl_ms: self.lease_ttl_ms.load(Ordering::Relaxed),
            stop,
            ..v1::Welcome::default()
        };
        self.send(Answer::Welcome(welcome)).await;
        hello
    }

    /// Results of a job until there are this many: by task, with their attempt and reason.
    pub(crate) async fn results(&mut self, count: usize) -> BTreeMap<u32, (u32, u32)> {
        let mut results = BTreeMap::new();
        while results.len() < count {
            if let Message::Results(batch) = self.next().await {
                for item in batch.groups.into_iter().flat_map(|group| group.results) {
                    results.insert(item.task, (item.attempt, item.reason));
                }
            }
        }
        results
    }
}

async fn accept(
    listener: TcpListener,
    tls: ServerTls,
    state: Arc<State>,
    connections: Arc<Mutex<JoinSet<()>>>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(tls.config());
        let service = v1::agent_server::AgentServer::from_arc(Arc::clone(&state));
        connections.lock().spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let service = TowerToHyperService::new(service);
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
    }
}

type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl v1::agent_server::Agent for State {
    type SessionStream = MessageStream<v1::ServerMessage>;
    type GetBlobStream = MessageStream<v1::BlobChunk>;
    type TunnelStream = MessageStream<v1::TunnelFrame>;

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let request = request.into_inner();
        let (from, validity) = *self.joined_valid.lock();
        let id: NodeId = request.node_id.parse().unwrap();
        let certificate = self
            .authority
            .sign_node_csr(&request.csr, &id, validity, from)
            .unwrap();
        Ok(Response::new(v1::JoinResponse {
            node_id: request.node_id,
            certificate: certificate.der().to_vec().into(),
            ca: self.authority.certificate().der().to_vec().into(),
            cluster: "test".to_owned(),
        }))
    }

    async fn rejoin(
        &self,
        request: Request<v1::RejoinRequest>,
    ) -> Result<Response<v1::RejoinResponse>, Status> {
        let request = request.into_inner();
        let mut asks = self.asks_before_return.lock();
        if *asks > 0 {
            *asks -= 1;
            return Ok(Response::new(v1::RejoinResponse::default()));
        }
        let id: NodeId = request.node_id.parse().unwrap();
        let certificate = self
            .authority
            .sign_node_csr(&request.csr, &id, A_DAY, now())
            .unwrap();
        Ok(Response::new(v1::RejoinResponse {
            certificate: certificate.der().to_vec().into(),
            ..v1::RejoinResponse::default()
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(refusal) = self.refusals.lock().pop_front() {
            return Err(refusal);
        }
        let (answers, stream) = mpsc::channel(64);
        let session = Session {
            messages: request.into_inner(),
            answers,
            beats: Arc::clone(&self.beats),
            lease_ttl_ms: Arc::clone(&self.lease_ttl_ms),
        };
        self.sessions.send(session).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<v1::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.unwrap();
        let (answers, stream) = mpsc::channel(4);
        let tunnel = TunnelEnd {
            id: first.id,
            frames,
            answers,
        };
        self.tunnels.send(tunnel).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn get_blob(
        &self,
        request: Request<v1::GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        if let Some(refusal) = self.blob_refusals.lock().pop_front() {
            return Err(refusal);
        }
        let hash = BlobHash::from_slice(&request.into_inner().hash).unwrap();
        let data = self.blobs.lock().get(&hash).cloned();
        let data = data.ok_or_else(|| Status::not_found("there is no such artifact"))?;
        let chunk = v1::BlobChunk {
            total_bytes: data.len() as u64,
            data,
            ..v1::BlobChunk::default()
        };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(chunk)]))))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::BlobChunk>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let mut chunks = request.into_inner();
        let (mut hash, mut data) = (None, Vec::new());
        while let Some(chunk) = chunks.next().await.transpose()? {
            hash = hash.or(BlobHash::from_slice(&chunk.hash).ok());
            data.extend_from_slice(&chunk.data);
        }
        let size = data.len() as u64;
        self.blobs.lock().insert(hash.unwrap(), data.into());
        Ok(Response::new(v1::PutBlobResponse { size }))
    }
}

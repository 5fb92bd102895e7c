//! An agent that does what a script says: no containers, but the protocol as it is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tower::ServiceExt;
use weft_core::service::record::{Assignment, Intent, UnitStatus};
use weft_pki::{Identity, PrivateKey};
use weft_proto::v1;
use weft_proto::v1::agent_client::AgentClient;
use weft_proto::v1::agent_message::Message;
use weft_proto::v1::agent_server::AgentServer;
use weft_proto::v1::open_tunnel::What;
use weft_proto::v1::server_message::Message as FromServer;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::{NodeId, Reason, UnitId, WorkloadState};

use super::SOON;
use crate::listener::Peer;
use crate::session::AgentService;
use crate::state::Server as State;

/// What a machine remembers, whatever becomes of its sessions.
#[derive(Default)]
pub(in crate::services) struct Machine {
    /// What runs there.
    pub(in crate::services) units: BTreeMap<UnitId, Assignment>,
    /// What it was told of published ports last.
    pub(in crate::services) endpoints: v1::Endpoints,
    /// What it was given of secrets.
    pub(in crate::services) secrets: BTreeMap<UnitId, v1::UnitSecrets>,
    /// Bytes of each message with units that it was sent, and whether its list was complete.
    pub(in crate::services) lists: Vec<(usize, bool)>,
    /// How often it was answered.
    pub(in crate::services) beats: usize,
    /// Units that were started more than once.
    pub(in crate::services) doubles: Vec<UnitId>,
    started: BTreeMap<UnitId, u32>,
}

/// A machine with an agent; its session lasts until it is dropped.
pub(in crate::services) struct Agent {
    pub(in crate::services) node: NodeId,
    pub(in crate::services) machine: Arc<Mutex<Machine>>,
    pub(in crate::services) to_server: mpsc::Sender<v1::AgentMessage>,
    task: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes a node a member of the cluster.
pub(in crate::services) async fn join(state: &Arc<State>, name: &str) -> NodeId {
    let node: NodeId = name.parse().expect("a name");
    let (token, _) = state.mint_join_token(SOON, 1).await.expect("a token");
    let key = PrivateKey::generate().expect("a key");
    let csr = key.csr().expect("a request");
    let id = token.id.to_string();
    let joined = state.nodes.join(&id, &token.secret, &node, &csr).await;
    joined.expect("joined");
    node
}

impl Agent {
    /// Joins a new machine.
    pub(in crate::services) async fn join(state: &Arc<State>, name: &str) -> Self {
        let node = join(state, name).await;
        Self::connect(state, node, Arc::default()).await
    }

    /// Joins a new machine that says at first that it runs only these.
    pub(in crate::services) async fn join_offering(
        state: &Arc<State>,
        name: &str,
        runtimes: &[&str],
    ) -> Self {
        let node = join(state, name).await;
        Self::greet(state, node, Arc::default(), runtimes).await
    }

    /// Opens a session of a machine that may have units already.
    pub(in crate::services) async fn connect(
        state: &Arc<State>,
        node: NodeId,
        machine: Arc<Mutex<Machine>>,
    ) -> Self {
        let runtimes = ["op", "container", "compose", "vm"];
        Self::greet(state, node, machine, &runtimes).await
    }

    async fn greet(
        state: &Arc<State>,
        node: NodeId,
        machine: Arc<Mutex<Machine>>,
        runtimes: &[&str],
    ) -> Self {
        let (to_server, outgoing) = mpsc::channel(64);
        let mut client = client(state, &node);
        to_server.send(hello(runtimes)).await.expect("room");
        let session = client.session(ReceiverStream::new(outgoing)).await;
        let messages = session.expect("a session").into_inner();
        let script = Script {
            state: Arc::clone(state),
            node: node.clone(),
            machine: Arc::clone(&machine),
            to_server: to_server.clone(),
        };
        Self {
            node,
            machine,
            to_server,
            task: tokio::spawn(script.run(messages)),
        }
    }

    /// Says that it offers something else, and what it lacks.
    pub(in crate::services) async fn offer(&self, runtimes: &[&str], missing: &[&str]) {
        let mut capacity = capacity(runtimes);
        capacity.missing = missing.iter().map(ToString::to_string).collect();
        let offer = v1::Offer {
            capacity: Some(capacity),
        };
        let message = v1::AgentMessage {
            message: Some(Message::Offer(offer)),
        };
        // An older session may be over.
        let _ = self.to_server.send(message).await;
    }

    /// The units that run, by the image they run.
    pub(in crate::services) fn images(&self) -> Vec<String> {
        images(&self.machine.lock())
    }
}

/// The images of what runs on a machine.
pub(in crate::services) fn images(machine: &Machine) -> Vec<String> {
    let specs = machine.units.values().map(|unit| &unit.spec);
    specs
        .filter_map(|spec| spec.container.as_ref().map(|c| c.image.clone()))
        .collect()
}

type Body = tonic::body::Body;

/// A client of the agents' service inside this process, as the node it says it is.
pub(in crate::services) fn client(
    state: &Arc<State>,
    node: &NodeId,
) -> AgentClient<
    tower::util::BoxCloneSyncService<
        http::Request<Body>,
        http::Response<Body>,
        std::convert::Infallible,
    >,
> {
    let peer = Peer {
        identity: Some(Identity::Node(node.clone())),
        address: ([127, 0, 0, 1], 9).into(),
        insecure: false,
    };
    let service = AgentServer::new(AgentService::new(Arc::clone(state)));
    let service = service.map_request(move |mut request: http::Request<Body>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    AgentClient::new(tower::util::BoxCloneSyncService::new(service))
        .max_decoding_message_size(weft_proto::MAX_MESSAGE_BYTES)
}

fn capacity(runtimes: &[&str]) -> v1::Capacity {
    v1::Capacity {
        cpu_millicores: 4_000,
        memory_bytes: 4 << 30,
        disk_bytes: 100 << 30,
        arch: "x86_64".to_owned(),
        os: "linux".to_owned(),
        runtimes: runtimes.iter().map(ToString::to_string).collect(),
        max_held_tasks: 16,
        ..v1::Capacity::default()
    }
}

fn hello(runtimes: &[&str]) -> v1::AgentMessage {
    v1::AgentMessage {
        message: Some(Message::Hello(v1::Hello {
            version: "test".to_owned(),
            capacity: Some(capacity(runtimes)),
            peer_port: 7701,
            ..v1::Hello::default()
        })),
    }
}

struct Script {
    state: Arc<State>,
    node: NodeId,
    machine: Arc<Mutex<Machine>>,
    to_server: mpsc::Sender<v1::AgentMessage>,
}

impl Script {
    async fn run(self, mut messages: tonic::Streaming<v1::ServerMessage>) {
        let mut beats = tokio::time::interval(Duration::from_millis(200));
        let mut epoch = 0;
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(Ok(message)) => self.take(message, &mut epoch).await,
                    _ => return,
                },
                _ = beats.tick(), if epoch > 0 => {
                    let beat = v1::Heartbeat { epoch, sent_ms: 1, ..v1::Heartbeat::default() };
                    self.send(Message::Heartbeat(beat)).await;
                }
            }
        }
    }

    async fn take(&self, message: v1::ServerMessage, epoch: &mut u64) {
        match message.message {
            Some(FromServer::Welcome(welcome)) => *epoch = welcome.epoch,
            Some(FromServer::Beat(_)) => self.machine.lock().beats += 1,
            Some(FromServer::Endpoints(endpoints)) => self.machine.lock().endpoints = endpoints,
            Some(FromServer::Units(units)) => {
                let statuses = self.obey(units);
                let statuses = statuses
                    .iter()
                    .map(|status| serde_json::to_vec(status).expect("JSON").into())
                    .collect();
                let report = v1::UnitReports {
                    complete: false,
                    statuses,
                };
                self.send(Message::Units(report)).await;
            }
            Some(FromServer::Open(open)) => {
                let (state, node) = (Arc::clone(&self.state), self.node.clone());
                tokio::spawn(tunnel(state, node, open));
            }
            _ => {}
        }
    }

    /// Starts and ends units at once; images called `bad…` never become ready.
    fn obey(&self, units: v1::Units) -> Vec<UnitStatus> {
        let mut machine = self.machine.lock();
        let mut statuses = Vec::new();
        machine.lists.push((units.encoded_len(), units.complete));
        let kept = units.kept.iter().map(|unit| unit.parse().expect("a unit"));
        let mut told: Vec<UnitId> = kept.collect();
        for told_unit in units.apply {
            let assignment: Assignment =
                serde_json::from_slice(&told_unit.assignment).expect("an assignment");
            let unit = assignment.unit;
            told.push(unit);
            machine
                .secrets
                .insert(unit, told_unit.secrets.unwrap_or_default());
            let mut status =
                UnitStatus::new(unit, self.node.clone(), WorkloadState::Running, 1_000);
            if assignment.intent == Intent::Stop {
                machine.units.remove(&unit);
                status.state = WorkloadState::Stopped;
                status.gone = true;
            } else {
                let image = assignment.spec.container.as_ref().map(|c| c.image.clone());
                if machine.units.insert(unit, assignment).is_none() {
                    *machine.started.entry(unit).or_default() += 1;
                    if machine.started.get(&unit) > Some(&1) {
                        machine.doubles.push(unit);
                    }
                }
                status.ready = !image.is_some_and(|image| image.starts_with("bad"));
                if !status.ready {
                    status.state = WorkloadState::Failed;
                    status.step = "start".to_owned();
                    status.reason = Some(Reason::NonzeroExit);
                    status.detail = "it ended with exit code 1".to_owned();
                    status.given_up = true;
                }
            }
            statuses.push(status);
        }
        for unit in units.remove {
            machine.units.remove(&unit.parse().expect("a unit"));
        }
        if units.complete {
            machine.units.retain(|unit, _| told.contains(unit));
        }
        statuses
    }

    async fn send(&self, message: Message) {
        let message = v1::AgentMessage {
            message: Some(message),
        };
        let _ = self.to_server.send(message).await;
    }
}

/// Answers a tunnel: a command's input comes back in capitals, a port's bytes come back, and the
/// output of a unit is two lines.
async fn tunnel(state: Arc<State>, node: NodeId, open: v1::OpenTunnel) {
    let (frames, outgoing) = mpsc::channel(4);
    let frame = |frame| v1::TunnelFrame {
        id: open.id.clone(),
        frame: Some(frame),
    };
    let first = v1::TunnelFrame {
        id: open.id.clone(),
        frame: None,
    };
    frames.send(first).await.expect("room");
    let answer = client(&state, &node)
        .tunnel(ReceiverStream::new(outgoing))
        .await;
    let Ok(answer) = answer else { return };
    let mut incoming = answer.into_inner();
    if let Some(What::Logs(_)) = open.what {
        let unit: UnitId = open.unit.parse().expect("a unit");
        for at_ms in [10, 20] {
            let line = v1::UnitLogLine {
                at_ms: at_ms + u64::from(unit.number),
                line: format!("line at {at_ms}").into_bytes().into(),
                ..v1::UnitLogLine::default()
            };
            let lines = v1::LogLines { lines: vec![line] };
            let _ = frames.send(frame(Frame::Lines(lines))).await;
        }
        return;
    }
    while let Some(Ok(message)) = incoming.next().await {
        let answer = match message.frame {
            Some(Frame::Stdin(bytes)) => Frame::Stdout(bytes.to_ascii_uppercase().into()),
            Some(Frame::Eof(_)) => Frame::Exit(7),
            Some(Frame::Resize(size)) => Frame::Stderr(
                format!("{}x{}", size.columns, size.rows)
                    .into_bytes()
                    .into(),
            ),
            Some(Frame::Data(bytes)) => Frame::Data(bytes),
            _ => return,
        };
        let is_last = matches!(answer, Frame::Exit(_));
        if frames.send(frame(answer)).await.is_err() || is_last {
            return;
        }
    }
}

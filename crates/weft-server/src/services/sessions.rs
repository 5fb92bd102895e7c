//! The open sessions of nodes: how to reach each, and where others reach it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tonic::Status;
use weft_core::Epoch;
use weft_proto::v1;
use weft_types::NodeId;

/// The way of messages to an agent.
pub type Ready = mpsc::Sender<Result<v1::ServerMessage, Status>>;

/// An open session.
#[derive(Clone)]
pub struct Session {
    /// Its epoch.
    pub epoch: Epoch,
    /// The way to the agent.
    pub ready: Ready,
    /// Where other nodes reach this one's replicas.
    pub peer: Option<SocketAddr>,
}

impl Session {
    /// A session that came from an address, of an agent that others reach at this port there.
    pub fn new(epoch: Epoch, ready: Ready, from: Option<IpAddr>, peer_port: u32) -> Self {
        let port = u16::try_from(peer_port).ok().filter(|port| *port > 0);
        let peer = from
            .zip(port)
            .map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port));
        Self { epoch, ready, peer }
    }
}

/// The open sessions, by node.
pub struct Sessions {
    open: Mutex<BTreeMap<NodeId, Session>>,
    changed: watch::Sender<()>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            changed: watch::channel(()).0,
        }
    }
}

impl Sessions {
    /// A node opened a session; an older one of it counts no more.
    pub fn opened(&self, node: &NodeId, session: Session) {
        let mut open = self.open.lock();
        if open.get(node).is_none_or(|old| old.epoch < session.epoch) {
            open.insert(node.clone(), session);
        }
        drop(open);
        self.changed.send_replace(());
    }

    /// A session has ended.
    pub fn closed(&self, node: &NodeId, epoch: Epoch) {
        let mut open = self.open.lock();
        if open.get(node).is_some_and(|session| session.epoch == epoch) {
            open.remove(node);
        }
        drop(open);
        self.changed.send_replace(());
    }

    /// The open session of a node.
    pub fn of(&self, node: &NodeId) -> Option<Session> {
        self.open.lock().get(node).cloned()
    }

    /// Where each node is reached by others.
    pub fn peers(&self) -> BTreeMap<NodeId, SocketAddr> {
        let open = self.open.lock();
        open.iter()
            .filter_map(|(node, session)| Some((node.clone(), session.peer?)))
            .collect()
    }

    /// Resolves whenever a session was opened or ended.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

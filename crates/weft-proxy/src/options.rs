//! How a proxy is set up, and its bounds.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use weft_pki::PeerTls;
use weft_types::NodeId;

/// How a proxy is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node.
    pub node: NodeId,
    /// The address on which published ports are listened on; `None` for all addresses of this
    /// machine, of IPv6 and IPv4.
    pub listen: Option<IpAddr>,
    /// How other nodes are reached and reach this one; without it only replicas of this node
    /// answer.
    pub peers: Option<Peers>,
    /// Whether `X-Forwarded-*` of clients are believed and passed on: only right when every client
    /// is a proxy of one's own. Otherwise they are replaced.
    pub trust_forwarded: bool,
    /// Bounds.
    pub limits: Limits,
}

/// How other nodes are reached and reach this one.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Where to listen for other nodes; port 0 takes a free one, see [`crate::Proxy::peer_port`].
    pub listen: SocketAddr,
    /// This node's certificate, which may be renewed while the proxy runs.
    pub tls: Arc<PeerTls>,
}

impl Options {
    /// A proxy without other nodes, on all addresses, with the default bounds.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            listen: None,
            peers: None,
            trust_forwarded: false,
            limits: Limits::default(),
        }
    }
}

/// Bounds of a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most connections of clients a published port.
    pub port_connections: usize,
    /// Most connections from other nodes.
    pub peer_connections: usize,
    /// Most idle connections kept to one replica.
    pub idle_connections: usize,
    /// How long an idle connection to a replica is kept.
    pub idle_age: Duration,
    /// How long a request or connection waits for a ready replica.
    pub ready_wait: Duration,
    /// How long a replica of this node may take to accept a connection.
    pub connect: Duration,
    /// How long another node may take to accept a connection and reach its replica.
    pub peer_connect: Duration,
    /// How long a client may take for the head of a request, or be idle between two.
    pub head: Duration,
    /// How long a client may pause within the body of a request.
    pub body_pause: Duration,
    /// How long a replica may take until the head of its answer.
    pub answer: Duration,
    /// How long an HTTP client may refuse to take bytes of an answer before its connection ends.
    pub stalled_client: Duration,
    /// How long connections may go on after their port has left the table.
    pub linger: Duration,
    /// Most bytes of a request's or an answer's head.
    pub head_bytes: usize,
    /// Most bytes of a request's body that are kept so that it can be sent again.
    pub replay_bytes: usize,
    /// Most replicas that are tried for one request or connection.
    pub attempts: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            port_connections: 8_192,
            peer_connections: 16_384,
            idle_connections: 64,
            idle_age: Duration::from_secs(30),
            ready_wait: Duration::from_secs(2),
            connect: Duration::from_secs(1),
            peer_connect: Duration::from_secs(3),
            head: Duration::from_secs(30),
            body_pause: Duration::from_secs(60),
            answer: Duration::from_secs(300),
            stalled_client: Duration::from_secs(300),
            linger: Duration::from_secs(60),
            head_bytes: 64 << 10,
            replay_bytes: 64 << 10,
            attempts: 16,
        }
    }
}

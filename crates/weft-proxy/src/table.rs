//! What the proxy is told: which ports there are, who answers them, and what runs on this node.

use std::collections::HashMap;
use std::net::SocketAddr;

use weft_types::{NodeId, Protocol, UnitId, WorkloadId};

/// A published port of a service and the replicas that answer it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// The service.
    pub workload: WorkloadId,
    /// Its name, for messages to people.
    pub name: String,
    /// The port on every node.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Its ready replicas, wherever they run.
    pub endpoints: Vec<Endpoint>,
}

/// One replica of a service, as the server knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The replica.
    pub unit: UnitId,
    /// Where it runs.
    pub node: NodeId,
    /// Where that node's proxy listens for other nodes; `None` when it cannot be reached.
    pub peer: Option<SocketAddr>,
    /// The port inside the unit.
    pub target: u16,
}

/// A replica that runs on this node, as the agent knows it; sooner and better than the server does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Local {
    /// Whether it may be given requests.
    pub ready: bool,
    /// Whether it is about to be stopped: nothing new goes there.
    pub draining: bool,
    /// Where each port inside the unit is reached from this node.
    pub targets: HashMap<u16, SocketAddr>,
}

/// Why a published port is not served, in a sentence for an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortError {
    /// The port on this node.
    pub port: u16,
    /// The service that it belongs to.
    pub workload: WorkloadId,
    /// What is wrong and what to do.
    pub text: String,
}

/// What a unit of this node has done since it was made known. Totals: a rate is the difference of
/// two readings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnitCounts {
    /// HTTP requests handed to it, from clients of any node; each counts once.
    pub requests: u64,
    /// Connections handed to it on `tcp` ports, and those upgraded from HTTP.
    pub connections: u64,
    /// Bytes sent to it, with the heads of requests.
    pub bytes_in: u64,
    /// Bytes that it sent, with the heads of answers.
    pub bytes_out: u64,
    /// Requests and connections that have not ended.
    pub in_flight: u64,
}

/// How a drain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    /// Requests and connections that had not ended when the bound was reached; 0 when all had.
    pub remaining: usize,
}

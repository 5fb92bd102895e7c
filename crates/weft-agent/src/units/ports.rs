//! The seam to the proxy of published ports.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_pki::{Credentials, PeerTls};
use weft_proto::v1;
use weft_proxy::{Endpoint, Options, Peers, Proxy, ServicePort};
use weft_types::{NodeId, Protocol, UnitId};

use crate::Error;

/// What is told of a unit of this node.
pub(super) use weft_proxy::Local;

/// Published ports on this node; by default none.
#[derive(Default)]
pub(crate) struct Ports {
    proxy: Option<(Proxy, Arc<PeerTls>)>,
}

impl Ports {
    /// Listens for other nodes; published ports follow with the server's table.
    ///
    /// # Errors
    /// When the port for other nodes cannot be listened on.
    pub(crate) async fn start(
        node: &NodeId,
        credentials: &Credentials,
        peer_listen: SocketAddr,
    ) -> Result<Self, Error> {
        let tls = Arc::new(PeerTls::new(credentials)?);
        let proxy = Proxy::start(Options {
            peers: Some(Peers {
                listen: peer_listen,
                tls: Arc::clone(&tls),
            }),
            ..Options::new(node.clone())
        })
        .await?;
        Ok(Self {
            proxy: Some((proxy, tls)),
        })
    }

    /// Presents a renewed certificate to other nodes.
    pub(crate) fn present(&self, credentials: &Credentials) {
        if let Some((_, tls)) = &self.proxy
            && let Err(error) = tls.replace(credentials)
        {
            tracing::error!(%error, "other nodes cannot be shown the renewed certificate");
        }
    }

    pub(super) fn set_table(&self, endpoints: v1::Endpoints) {
        if let Some((proxy, _)) = &self.proxy {
            let nodes = endpoints.nodes.iter();
            proxy.set_members(nodes.filter_map(|node| node.parse().ok()));
            let ports = endpoints.ports.into_iter();
            proxy.set_table(ports.filter_map(service_port).collect());
        }
    }

    /// Where other nodes reach this one's replicas; 0 when they cannot.
    pub(super) fn peer_port(&self) -> u16 {
        let proxy = self.proxy.as_ref();
        proxy.and_then(|(proxy, _)| proxy.peer_port()).unwrap_or(0)
    }

    pub(super) fn set_local(&self, unit: UnitId, local: Local) {
        if let Some((proxy, _)) = &self.proxy {
            proxy.set_local(unit, local);
        }
    }

    pub(super) fn remove_local(&self, unit: UnitId) {
        if let Some((proxy, _)) = &self.proxy {
            proxy.remove_local(unit);
        }
    }

    /// Sends a unit nothing new, and waits until what it has is answered, for this long at most.
    pub(super) async fn drain(&self, unit: UnitId, timeout: Duration) {
        if let Some((proxy, _)) = &self.proxy {
            let drained = proxy.drain(unit, timeout).await;
            if drained.remaining > 0 {
                tracing::warn!(%unit, remaining = drained.remaining, "requests are cut: they took too long");
            }
        }
    }

    /// Hands on which published ports are not served, whenever that changes.
    pub(super) async fn follow_errors(&self, tell: impl Fn(v1::PortErrors)) {
        let Some((proxy, _)) = &self.proxy else {
            return;
        };
        let mut errors = proxy.errors();
        while errors.changed().await.is_ok() {
            let now = errors.borrow_and_update();
            let now = now.iter().map(|error| v1::PortError {
                port: error.port.into(),
                workload: error.workload.to_string(),
                detail: error.text.clone(),
            });
            tell(v1::PortErrors {
                errors: now.collect(),
            });
        }
    }

    /// Requests that each unit has had.
    pub(super) fn requests(&self) -> HashMap<UnitId, u64> {
        let Some((proxy, _)) = &self.proxy else {
            return HashMap::new();
        };
        let counts = proxy.counts().into_iter();
        counts
            .map(|(unit, counts)| (unit, counts.requests))
            .collect()
    }
}

/// `None` for what this agent cannot read: a later server may know more than it.
fn service_port(port: v1::ServicePort) -> Option<ServicePort> {
    let protocol = match port.protocol.as_str() {
        "tcp" => Protocol::Tcp,
        "http" => Protocol::Http,
        other => {
            tracing::error!(
                port = port.port,
                protocol = other,
                "not known to this agent"
            );
            return None;
        }
    };
    Some(ServicePort {
        workload: port.workload.parse().ok()?,
        name: port.name,
        port: u16::try_from(port.port).ok()?,
        protocol,
        endpoints: port.endpoints.iter().filter_map(endpoint).collect(),
    })
}

fn endpoint(endpoint: &v1::Endpoint) -> Option<Endpoint> {
    Some(Endpoint {
        unit: endpoint.unit.parse().ok()?,
        node: endpoint.node.parse().ok()?,
        peer: endpoint.peer.parse().ok(),
        target: u16::try_from(endpoint.target).ok()?,
    })
}

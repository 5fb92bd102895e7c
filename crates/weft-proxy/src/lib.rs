//! Published ports of services: a proxy on every node, and mutual TLS between nodes.
//!
//! A port of a service answers on every node of the cluster, served by any ready replica: one of
//! the same node directly, one of another node through that node's proxy. The agent tells its
//! [`Proxy`] the server's table of ports and replicas ([`Proxy::set_table`]) and what its own
//! units are like ([`Proxy::set_local`]).
//!
//! ```no_run
//! use std::time::Duration;
//! use weft_proxy::{Options, Proxy};
//!
//! # async fn example(table: Vec<weft_proxy::ServicePort>, unit: weft_types::UnitId, local: weft_proxy::Local)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let proxy = Proxy::start(Options::new("n1".parse()?)).await?;
//! proxy.set_local(unit, local);
//! proxy.set_table(table);
//! // Before the unit is stopped: no request is lost.
//! proxy.drain(unit, Duration::from_secs(30)).await;
//! proxy.remove_local(unit);
//! # Ok(()) }
//! ```
//!
//! What a client can rely on:
//!
//! - `tcp`: a connection goes to a ready replica; one that cannot be reached is passed over. Once
//!   connected it is bound to its replica.
//! - `http`: each request goes to a ready replica. It is sent again to another one when nothing of
//!   it reached the first, or when its method is idempotent (RFC 9110, 9.2.2) and no byte of an
//!   answer came; in both cases only while its body is no longer than [`Limits::replay_bytes`] or
//!   has not been read. A request is therefore executed at most once unless it is idempotent.
//! - Nothing crosses the network between nodes but TLS 1.3 with both sides' certificates.
//!
//! Architecture invariant: this crate knows neither the agent's session, nor the server, nor how a
//! unit runs; it decides nothing about which replicas there are.

mod backend;
mod core;
mod error;
mod http;
mod listen;
mod metrics;
mod options;
mod peer;
mod proxy;
mod routes;
mod search;
mod table;
mod tcp;
mod told;
mod tunnel;
mod unit;
mod wire;

pub use error::{Error, Result};
pub use metrics::Metrics;
pub use options::{Limits, Options, Peers};
pub use proxy::{LocalStream, Proxy};
pub use table::{Drained, Endpoint, Local, PortError, ServicePort, UnitCounts};

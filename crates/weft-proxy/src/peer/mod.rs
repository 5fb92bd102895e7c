//! Connections between nodes: mutual TLS 1.3 by the nodes' certificates, then a hello, then bytes.

mod dial;
mod hello;
mod members;
mod serve;

pub(crate) use dial::dial;
pub(crate) use hello::{Hello, Kind, Reply};
pub(crate) use members::Members;
pub(crate) use serve::serve;

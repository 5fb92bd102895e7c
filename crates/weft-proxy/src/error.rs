//! What can go wrong for the caller of the proxy.

use std::io;
use std::net::SocketAddr;

use weft_types::UnitId;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the proxy's own calls. What fails on a published port is told by
/// [`crate::Proxy::errors`] instead, and never ends the proxy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The port for other nodes cannot be listened on.
    #[error("cannot listen for other nodes on {address}: {source}; choose another address")]
    PeerListener {
        /// The address.
        address: SocketAddr,
        /// What the operating system says.
        source: io::Error,
    },
    /// The unit does not run on this node.
    #[error("{unit} does not run on this node")]
    NoSuchUnit {
        /// The unit.
        unit: UnitId,
    },
    /// The unit has no such port.
    #[error("{unit} has no port {target}; it has {known:?}")]
    NoSuchTarget {
        /// The unit.
        unit: UnitId,
        /// The port that was asked for.
        target: u16,
        /// The ports that it has.
        known: Vec<u16>,
    },
    /// The unit is about to be stopped.
    #[error("{unit} is being stopped")]
    Draining {
        /// The unit.
        unit: UnitId,
    },
    /// The unit did not take the connection.
    #[error("{unit} does not answer on port {target}: {source}; see `weft logs {unit}`")]
    Connect {
        /// The unit.
        unit: UnitId,
        /// The port inside it.
        target: u16,
        /// What the operating system says.
        source: io::Error,
    },
}

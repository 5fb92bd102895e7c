//! What can go wrong with an agent.

use std::path::PathBuf;

/// Why an agent cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates or keys.
    #[error(transparent)]
    Pki(#[from] weft_pki::Error),
    /// The join token is not good.
    #[error("the join token: {0}; {next}", next = .0.next_step())]
    Token(#[from] weft_pki::TokenError),
    /// The agent has never joined and has no token.
    #[error(
        "this agent has not joined a cluster yet and has no token: make one on the server with `weft token create` and pass it with --token"
    )]
    NotJoined,
    /// Nobody knows where a server is.
    #[error("no server was found on the local network: pass its address with --join ADDRESS:PORT")]
    NoServer,
    /// No server answered.
    #[error("no server can be reached at {addresses}: {detail}")]
    Unreachable {
        /// Where it was tried.
        addresses: String,
        /// The last cause.
        detail: String,
    },
    /// The server refused.
    #[error("the server refused: {0}")]
    Refused(String),
    /// The node was removed from the cluster.
    #[error(
        "this node was removed from the cluster; join again with a new token and another --data-dir"
    )]
    Removed,
    /// Another agent uses the data directory.
    #[error("{0} is used by another agent: stop that one, or choose another --data-dir")]
    Locked(PathBuf),
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Artifacts.
    #[error(transparent)]
    Blobs(#[from] weft_blobs::Error),
    /// A runtime.
    #[error(transparent)]
    Runtime(#[from] weft_runtime::Error),
    /// The spawner.
    #[error(transparent)]
    Sandbox(#[from] weft_sandbox::Error),
    /// Published ports.
    #[error(transparent)]
    Ports(#[from] weft_proxy::Error),
    /// Anything else that should work.
    #[error("{0}")]
    Machine(String),
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

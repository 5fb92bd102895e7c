//! Errors of this crate.

use crate::Missing;

/// What can go wrong between agent and spawner.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spawner has ended; everything it had started is dead.
    #[error("the spawner has ended")]
    SpawnerGone,
    /// The spawner did not answer in time.
    #[error("the spawner did not {0} in time")]
    SpawnerSilent(&'static str),
    /// The full sandbox was asked for and this machine cannot build it.
    #[error("the sandbox is not available: {}", missing.iter().map(|m| format!("{} ({}); {}", m.what, m.why, m.fix)).collect::<Vec<_>>().join("; "))]
    Unavailable {
        /// What is missing.
        missing: Vec<Missing>,
    },
    /// The request cannot be carried out by anyone.
    #[error("invalid process request: {0}")]
    InvalidSpec(String),
    /// The other side sent something that is no frame.
    #[error("malformed frame: {0}")]
    Frame(&'static str),
    /// The operating system refused.
    #[error("{context}: {source}")]
    System {
        /// What was tried.
        context: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) fn system(context: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { context, source }
    }
}

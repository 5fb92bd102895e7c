//! Errors of setting a runtime up. What goes wrong with a task is told by its [`Outcome`](crate::Outcome).

use std::path::PathBuf;

/// Why a runtime could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory could not be made, cleared or read.
    #[error("{}: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A directory that must be ours alone is open to others.
    #[error("{} must belong to this user and be closed to others (mode 0700)", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
    },
    /// The WebAssembly engine refused its configuration.
    #[error("the WebAssembly engine cannot start: {0}")]
    Engine(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

impl Error {
    pub(crate) fn directory(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Directory { path, source }
    }
}

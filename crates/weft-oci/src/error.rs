//! What goes wrong inside this crate.

use std::io;

use weft_types::Reason;
use weft_unit::Step;

/// A step that failed, before it is known of which part of a unit's life it was one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reference of the image cannot be read.
    #[error("image {reference:?}: {why}; write it like registry:5000/name:tag")]
    Reference {
        /// As it was given.
        reference: String,
        /// What is wrong.
        why: String,
    },
    /// The registry has no such image, or none for this machine.
    #[error("{0}")]
    ImageNotFound(String),
    /// The registry did not give the image away.
    #[error("{0}")]
    Denied(String),
    /// The registry could not be reached, or broke off.
    #[error("{0}")]
    Pull(String),
    /// The image is not what it says it is, or is made to do harm.
    #[error("{0}")]
    Corrupt(String),
    /// The specification cannot be met.
    #[error("{0}")]
    Spec(String),
    /// The machine lacks something.
    #[error("{0}")]
    Unavailable(String),
    /// The network of a container could not be made.
    #[error("network: {0}")]
    Network(String),
    /// A volume could not be mounted.
    #[error("volume: {0}")]
    Volume(String),
    /// The OCI runtime, or the program in the container, did not start.
    #[error("{detail}")]
    Runtime {
        /// What it said last.
        detail: String,
        /// All that it said.
        evidence: Vec<String>,
    },
    /// There is no such container, or it does not run.
    #[error("{0}")]
    NotRunning(String),
    /// A file, directory or mount of ours.
    #[error("{what}: {source}")]
    Io {
        /// Which, and what was done to it.
        what: String,
        /// As the system said.
        source: io::Error,
    },
}

impl Error {
    /// A call of the system that failed.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }

    /// The word of the contract.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Reference { .. } | Self::Spec(_) => Reason::InvalidSpec,
            Self::ImageNotFound(_) => Reason::ImageNotFound,
            Self::Denied(_) => Reason::PermissionDenied,
            Self::Pull(_) => Reason::ImagePullFailed,
            Self::Corrupt(_) => Reason::ArtifactCorrupt,
            Self::Unavailable(_) => Reason::RuntimeUnavailable,
            Self::Network(_) => Reason::NetworkError,
            Self::Volume(_) | Self::Io { .. } => Reason::StorageError,
            Self::Runtime { .. } | Self::NotRunning(_) => Reason::RuntimeError,
        }
    }

    /// As the port wants it.
    pub(crate) fn at(self, step: Step) -> weft_unit::Error {
        let reason = self.reason();
        let detail = self.to_string();
        let evidence = match self {
            Self::Runtime { evidence, .. } => evidence,
            _ => Vec::new(),
        };
        weft_unit::Error::new(step, reason, detail).with_evidence(evidence)
    }
}

/// Adds what was done to an error of the system.
pub(crate) trait During<T> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::io(what(), source))
    }
}

//! What goes wrong with volumes.

use std::path::{Path, PathBuf};

use weft_types::{Reason, UnitId};

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A path of the node that containers do not get.
    #[error(
        "host path {path} is refused: it {why}; mount another directory, or run the container `privileged` where the namespace allows it"
    )]
    HostRefused {
        /// As resolved.
        path: PathBuf,
        /// Continues "it …".
        why: String,
    },
    /// A sub-path that leaves its volume.
    #[error(
        "sub_path {path} of the volume at {target} is refused: {why}; name a directory inside the volume that no symbolic link leads to"
    )]
    SubPathRefused {
        /// As given.
        path: String,
        /// Where the volume is mounted in the container.
        target: String,
        /// What the system said.
        why: String,
    },
    /// A path of the node that is not there.
    #[error("host path {path}: {error}; make it on the node, or place the workload elsewhere")]
    HostMissing {
        /// As given.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Something that the class cannot do.
    #[error("volume at {target}: {why}")]
    Unsupported {
        /// Where the volume is mounted in the container.
        target: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A program that this node lacks.
    #[error("{what} needs `{program}`, which this node does not have; install {package}")]
    Missing {
        /// What needs it.
        what: &'static str,
        /// The program.
        program: &'static str,
        /// What to install.
        package: &'static str,
    },
    /// Another unit holds a volume that only one may hold.
    #[error(
        "volume {name} is held by {holder} and may be held by one unit only; stop that one first, or use `access_mode: read-write-many`"
    )]
    Held {
        /// Its name.
        name: String,
        /// By whom.
        holder: UnitId,
    },
    /// A program that failed.
    #[error("{program} failed for {what}: {said}")]
    Failed {
        /// The program.
        program: String,
        /// What it was to do.
        what: String,
        /// What it said.
        said: String,
    },
    /// The system refused.
    #[error("{path}: {error}")]
    Io {
        /// Where.
        path: PathBuf,
        /// What it said.
        error: std::io::Error,
    },
    /// The work was ended before it was done.
    #[error("the work on a volume was interrupted; it is taken up again with the next try")]
    Interrupted,
}

impl Error {
    /// The reason that a user sees.
    pub fn reason(&self) -> Reason {
        match self {
            Self::HostRefused { .. } | Self::SubPathRefused { .. } => Reason::PermissionDenied,
            Self::Unsupported { .. } => Reason::InvalidSpec,
            Self::Missing { .. } => Reason::RuntimeUnavailable,
            Self::HostMissing { .. }
            | Self::Held { .. }
            | Self::Failed { .. }
            | Self::Io { .. }
            | Self::Interrupted => Reason::StorageError,
        }
    }
}

/// Says where an error of the system happened.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T, Error>;
}

impl<T, E: Into<std::io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T, Error> {
        self.map_err(|error| Error::Io {
            path: path.to_owned(),
            error: error.into(),
        })
    }
}

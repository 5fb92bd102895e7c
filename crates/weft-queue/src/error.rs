//! What can go wrong with the journal.

use weft_types::Reason;

/// A failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The disk is full or failing; what was acknowledged is safe.
    #[error("the journal cannot be written or read: {0}")]
    Storage(String),
    /// Too much waits to be written.
    #[error("more than {limit_bytes} bytes wait to be written")]
    Full {
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// A record larger than the format allows.
    #[error("a record of {bytes} bytes is larger than {limit_bytes}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound, in bytes.
        limit_bytes: usize,
    },
    /// The directory was written by a newer version.
    #[error(
        "the journal has format {found}, this version knows {supported} at most: use a newer weft, or another --data-dir"
    )]
    NewerFormat {
        /// The format of the directory.
        found: String,
        /// The newest format that is understood.
        supported: u32,
    },
    /// Another process has the directory open.
    #[error(
        "the journal in {0} is open in another process: stop that one, or use another --data-dir"
    )]
    Locked(String),
    /// The journal is closed.
    #[error("the journal is closed")]
    Closed,
}

impl Error {
    /// Which of the reasons of the contract.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Storage(_) => Reason::StorageError,
            Self::TooLarge { .. } => Reason::InvalidSpec,
            Self::Full { .. } => Reason::QuotaExceeded,
            _ => Reason::Internal,
        }
    }

    pub(crate) fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Storage(format!("{}: {error}", path.display()))
    }
}

//! What can go wrong in a store.

use weft_types::Reason;

/// A failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The disk is full or failing; what was acknowledged is safe.
    #[error("the store cannot be written or read: {0}")]
    Storage(String),
    /// The data directory was written by a newer version.
    #[error(
        "the store has format {found}, this version knows {supported} at most: use a newer weft, or another --data-dir"
    )]
    NewerFormat {
        /// The format of the directory.
        found: u64,
        /// The newest format that is understood.
        supported: u64,
    },
    /// Another process has the data directory open.
    #[error(
        "the store in {0} is open in another process: stop that one, or use another --data-dir"
    )]
    Locked(String),
    /// The revision is no longer known; list the keys again and watch from there.
    #[error("revisions before {oldest} were compacted")]
    Compacted {
        /// The oldest revision that is known.
        oldest: u64,
    },
    /// A watcher was too slow and was cut off; list the keys again and watch from there.
    #[error("the watch fell too far behind and was ended")]
    Lagged,
    /// The lease has ended.
    #[error("the lease has ended")]
    LeaseGone,
    /// A key, value or transaction that is too large or malformed.
    #[error("{field}: {detail}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A value that is not what was expected under its key.
    #[error("the value of {key} cannot be understood: {detail}")]
    Corrupt {
        /// Which key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Which of the reasons of the contract.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Storage(_) => Reason::StorageError,
            Self::Invalid { .. } => Reason::InvalidSpec,
            _ => Reason::Internal,
        }
    }
}

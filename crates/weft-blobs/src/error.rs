//! What can go wrong with artifacts.

use std::path::PathBuf;

use weft_types::{BlobHash, Reason};

/// A failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk is full or failing.
    #[error("{path}: {source}")]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The sender broke off, or could not be read.
    #[error("the artifact could not be read to its end: {0}")]
    Source(std::io::Error),
    /// There is no such artifact.
    #[error("there is no artifact {0}")]
    Missing(BlobHash),
    /// The bytes do not have the hash they were announced with, or no longer have it.
    #[error("the bytes of artifact {expected} have the hash {found}")]
    Corrupt {
        /// The name.
        expected: BlobHash,
        /// The hash of the bytes.
        found: BlobHash,
    },
    /// The store has no room.
    #[error(
        "the artifacts take {used} bytes already, and may take {limit}: remove jobs or raise the limit"
    )]
    Full {
        /// Bytes in use.
        used: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The artifact is larger than the caller allows.
    #[error("artifact {hash} has {length} bytes, more than {limit}")]
    TooLarge {
        /// Which.
        hash: BlobHash,
        /// Its size, in bytes.
        length: u64,
        /// The most that was allowed, in bytes.
        limit: u64,
    },
}

impl Error {
    /// Which of the reasons of the contract.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Storage { .. } | Self::Full { .. } => Reason::StorageError,
            Self::Source(_) => Reason::NetworkError,
            Self::Missing(_) => Reason::ArtifactMissing,
            Self::Corrupt { .. } => Reason::ArtifactCorrupt,
            Self::TooLarge { .. } => Reason::InvalidSpec,
        }
    }
}

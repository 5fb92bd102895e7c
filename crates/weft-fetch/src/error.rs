//! What can go wrong.

use std::time::Duration;

use weft_types::Reason;

/// Why nothing was fetched. Each names the URL.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no URL that can be fetched.
    #[error("{url}: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Its address, or the one of a redirect, may not be asked.
    #[error("{url}: {why}")]
    Refused {
        /// As it was given.
        url: String,
        /// The host that is meant.
        why: String,
    },
    /// The server does not have it, or not for everybody.
    #[error("{url} answers {status}")]
    Missing {
        /// As it was given.
        url: String,
        /// The answer's status.
        status: u16,
    },
    /// The server could not be reached, broke off or answered something unexpected.
    #[error("{url}: {why}")]
    Network {
        /// As it was given.
        url: String,
        /// The error with its causes.
        why: String,
    },
    /// There is less than was asked for.
    #[error("{url} has no byte {missing}")]
    Short {
        /// As it was given.
        url: String,
        /// The first byte that is not there.
        missing: u64,
    },
    /// There is more than may be fetched.
    #[error("{url} is larger than {limit} bytes")]
    TooLarge {
        /// As it was given.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// It took too long.
    #[error("{url} takes longer than {} s", limit.as_secs_f64())]
    Late {
        /// As it was given.
        url: String,
        /// The limit.
        limit: Duration,
    },
    /// The file could not be written.
    #[error("{0}")]
    File(#[from] std::io::Error),
    /// No client could be made.
    #[error("TLS: {0}")]
    Tls(String),
}

impl Error {
    /// The word of the contract for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Url { .. } | Self::Short { .. } | Self::TooLarge { .. } => Reason::InvalidSpec,
            Self::Refused { .. } => Reason::PermissionDenied,
            Self::Missing { .. } => Reason::ArtifactMissing,
            Self::Network { .. } => Reason::NetworkError,
            Self::Late { .. } => Reason::Timeout,
            Self::File(_) => Reason::StorageError,
            Self::Tls(_) => Reason::Internal,
        }
    }
}

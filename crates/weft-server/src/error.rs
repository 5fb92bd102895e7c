//! What can go wrong in a server.

use std::path::PathBuf;

use weft_types::{FieldError, Reason};

/// A failure of the server or of a request to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Certificates or tokens.
    #[error(transparent)]
    Pki(#[from] weft_pki::Error),
    /// A join token or bearer token that is not good.
    #[error(transparent)]
    Token(#[from] weft_pki::TokenError),
    /// The store.
    #[error(transparent)]
    Store(#[from] weft_store::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] weft_queue::Error),
    /// Artifacts.
    #[error(transparent)]
    Blobs(#[from] weft_blobs::Error),
    /// A queue that others push into.
    #[error(transparent)]
    Intake(#[from] weft_intake::Error),
    /// The dispatcher has no room.
    #[error(transparent)]
    Dispatch(#[from] weft_core::Error),
    /// A file or directory of the server.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address to listen on.
    #[error(
        "cannot listen on {address}: {source}; choose another with --listen ADDRESS:PORT, port 0 takes a free one"
    )]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// A value that the server itself wrote cannot be read.
    #[error("{what} cannot be understood: {detail}")]
    Corrupt {
        /// Which.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A field of a request.
    #[error(transparent)]
    Invalid(#[from] FieldError),
    /// Something that is not there.
    #[error("there is no {what} {id:?}")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// How it was named.
        id: String,
    },
    /// A prefix that means several things.
    #[error("{id:?} could be more than one {what}; write more of it")]
    Ambiguous {
        /// What kind of thing.
        what: &'static str,
        /// How it was named.
        id: String,
    },
    /// A job that has not ended.
    #[error("{0} has not ended; cancel it first")]
    NotFinal(weft_types::JobId),
    /// A job that was cancelled: nothing of it runs again.
    #[error("{0} was cancelled; submit it again instead")]
    JobCancelled(weft_types::JobId),
    /// Another node has the id.
    #[error(
        "the node id {0} belongs to another machine; choose another with --id, or remove that node first"
    )]
    NodeIdTaken(String),
    /// A request that was not made with the node's key.
    #[error("the request for {0} was not signed with its key")]
    WrongKey(String),
    /// A code that is not the one the node shows.
    #[error("the code is not the one that node {0} shows")]
    WrongApprovalCode(String),
    /// A node that has not asked to come back.
    #[error(
        "node {0} has not asked to come back; it does so when its agent runs and its certificate has expired"
    )]
    NotWaiting(String),
    /// Something could not be made durable; the cause is in the log.
    #[error("not kept: {0}")]
    NotWritten(String),
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

impl Error {
    /// Which of the reasons of the contract.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Token(_)
            | Self::NodeIdTaken(_)
            | Self::WrongKey(_)
            | Self::WrongApprovalCode(_) => Reason::PermissionDenied,
            Self::Store(error) => error.reason(),
            Self::Journal(error) => error.reason(),
            Self::Blobs(error) => error.reason(),
            Self::Dispatch(_) => Reason::QuotaExceeded,
            Self::File { .. } | Self::NotWritten(_) => Reason::StorageError,
            Self::Invalid(_)
            | Self::NotFound { .. }
            | Self::Ambiguous { .. }
            | Self::NotFinal(_)
            | Self::JobCancelled(_)
            | Self::NotWaiting(_) => Reason::InvalidSpec,
            Self::Pki(_) => Reason::PermissionDenied,
            Self::Intake(weft_intake::Error::Setting { .. }) => Reason::InvalidSpec,
            Self::Intake(_) => Reason::NetworkError,
            Self::Listen { .. } | Self::Corrupt { .. } | Self::Stopping => Reason::Internal,
        }
    }

    /// Something could not be made durable.
    pub(crate) fn not_written(what: &str) -> Self {
        Self::NotWritten(what.to_owned())
    }

    /// When to try again, in seconds, for what is only full.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            Self::Dispatch(weft_core::Error::Full { retry_after_ms, .. }) => {
                Some(retry_after_ms.div_ceil(1000).max(1))
            }
            _ => None,
        }
    }
}

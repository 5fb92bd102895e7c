//! What can go wrong between a client and the API.

use weft_api::Problem;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server could be reached.
    #[error("the control plane at {server} cannot be reached: {detail}")]
    Unreachable {
        /// Where it was looked for.
        server: String,
        /// The last cause.
        detail: String,
    },
    /// The server refused the call.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// The answer could not be understood.
    #[error("the server's answer to {call} could not be understood: {detail}")]
    Garbled {
        /// Method and path.
        call: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The connection details are not usable.
    #[error("{what}: {detail}")]
    Endpoint {
        /// Which of them.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A local file could not be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// The problem document, when the server sent one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused(problem) => Some(problem),
            _ => None,
        }
    }

    /// Whether no server answered at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// The innermost cause says what happened; the outer ones only where.
pub(crate) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

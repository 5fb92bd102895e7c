//! What can go wrong with a queue.

/// A failed operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The engine cannot be reached, or did not answer in time.
    #[error("{queue} cannot be reached: {detail}")]
    Unreachable {
        /// Which engine.
        queue: &'static str,
        /// Why.
        detail: String,
    },
    /// The engine answered that it does not do this.
    #[error("{queue} refused: {detail}")]
    Refused {
        /// Which engine.
        queue: &'static str,
        /// Its words.
        detail: String,
    },
    /// A setting that cannot be used.
    #[error("{field}: {detail}")]
    Setting {
        /// Which, as in the config file.
        field: &'static str,
        /// What is wrong with it and what would be right.
        detail: String,
    },
    /// The embedded store.
    #[error(transparent)]
    Store(#[from] weft_store::Error),
}

impl Error {
    pub(crate) fn setting(field: &'static str, detail: impl Into<String>) -> Self {
        Self::Setting {
            field,
            detail: detail.into(),
        }
    }
}

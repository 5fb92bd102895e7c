//! Why a network cannot be asked, and what to do then.

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a search or an advertisement failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This machine cannot send or receive multicast.
    #[error(
        "servers on the local network cannot be found, since multicast does not work here ({0}); name the server with --join ADDR"
    )]
    Multicast(String),
    /// A text of the advertisement does not fit into a DNS record.
    #[error(
        "the server cannot be advertised on the local network: {0}; machines can still join with --join ADDR"
    )]
    Advertisement(String),
    /// The program is shutting down.
    #[error("the search was stopped")]
    Stopped,
}

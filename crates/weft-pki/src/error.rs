//! What can go wrong with keys, certificates and tokens, in sentences for the user.

use std::io;
use std::path::{Path, PathBuf};

use crate::{ClusterName, Fingerprint};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure to read, make or check a key, a certificate or a TLS configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not a SPIFFE trust domain.
    #[error(
        "{name:?} is not a cluster name: use 1 to 255 lower-case letters, digits, `.`, `-` and `_`"
    )]
    ClusterName {
        /// The text as given.
        name: String,
    },
    /// The text is not a SPIFFE ID.
    #[error("{text:?} is not a SPIFFE ID: {why}")]
    SpiffeId {
        /// The text as given, shortened.
        text: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// A well-formed SPIFFE ID that names no node, server or user of Weft.
    #[error("{id} names neither a node, nor a server, nor a user")]
    UnknownIdentity {
        /// The SPIFFE ID.
        id: String,
    },
    /// The certificate belongs to another cluster.
    #[error("the certificate is of cluster {found}, not of {expected}")]
    OtherCluster {
        /// The cluster it should belong to.
        expected: ClusterName,
        /// The cluster it names.
        found: ClusterName,
    },
    /// The bytes are not a usable certificate.
    #[error("the certificate cannot be used: {0}")]
    Certificate(&'static str),
    /// The bytes are not a usable private key.
    #[error("the private key cannot be used: {0}")]
    PrivateKey(&'static str),
    /// The bytes are not an acceptable certificate signing request.
    #[error("the certificate signing request is refused: {0}")]
    SigningRequest(&'static str),
    /// The text is not a SHA-256 fingerprint.
    #[error("a fingerprint is 64 hexadecimal digits")]
    Fingerprint,
    /// The server's certificate chain does not lead to the CA that the join token names.
    #[error(
        "this is not the server that the join token is for: no CA with fingerprint {pinned} in its certificate chain; \
         check the address, or create a new token on the right cluster with `weft token create`"
    )]
    NotPinned {
        /// The fingerprint in the token.
        pinned: Fingerprint,
    },
    /// The peer has a certificate of the cluster, but is not a server.
    #[error("the peer is {found}, not a server of the cluster")]
    NotAServer {
        /// What it is.
        found: String,
    },
    /// The peer has a certificate of the cluster, but is not a node.
    #[error("the peer is {found}, not a node of the cluster")]
    NotANode {
        /// What it is.
        found: String,
    },
    /// Not a name that a server certificate can carry.
    #[error("{name:?} is neither a DNS name nor an IP address (write it without port)")]
    ServerName {
        /// The name as given.
        name: String,
    },
    /// Not a name for a user.
    #[error("{name:?} is not a user name: use 1 to 63 letters, digits, `.`, `-` and `_`")]
    UserName {
        /// The name as given.
        name: String,
    },
    /// A join token cannot carry this.
    #[error("no join token can be made: {0}")]
    TokenSpec(&'static str),
    /// A private key that others than its owner can read.
    #[error("{path} can be read by others than its owner (mode {mode:04o}); run: chmod 600 {path}")]
    KeyExposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There is a cluster CA in the directory already.
    #[error("there is already a cluster CA in {dir}")]
    AuthorityExists {
        /// The directory.
        dir: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("the operating system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// A certificate or a request could not be encoded or signed.
    #[error("the certificate cannot be made: {0}")]
    Issue(#[from] rcgen::Error),
    /// A TLS configuration was refused.
    #[error("the TLS configuration is refused: {0}")]
    Tls(#[from] rustls::Error),
}

impl Error {
    /// For `map_err` after an operation on `path`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File {
            path: path.to_owned(),
            source,
        }
    }
}

/// Why a token is refused. The text is a sentence for the user; [`TokenError::next_step`] says
/// what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not a token at all.
    #[error("this is not a {expected}: {why}")]
    Malformed {
        /// The kind of token that was expected.
        expected: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The text looks like a token, but a character of it is wrong or missing.
    #[error("the token was not copied completely or correctly: its checksum does not fit")]
    Checksum,
    /// A token of a format that this version does not know.
    #[error("the token has format version {found}, this weft knows version 1")]
    WrongVersion {
        /// The version in the token.
        found: String,
    },
    /// The token's time is over.
    #[error("the token has expired")]
    Expired,
    /// The token has been used as often as it may be.
    #[error("the token has been used already")]
    Spent,
    /// There is no such token, or its secret is another one.
    #[error("the cluster does not know this token")]
    Unknown,
}

impl TokenError {
    /// What the user can do about it, one sentence.
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Malformed { .. } | Self::Checksum => {
                "Copy the whole token, from `weft` to its last character, and try again."
            }
            Self::WrongVersion { .. } => "Install the same version of weft on both machines.",
            Self::Expired | Self::Spent => {
                "Create a new one on the server with `weft token create`."
            }
            Self::Unknown => {
                "Check that it is a token of this cluster (`weft token ls`), or create a new one with `weft token create`."
            }
        }
    }
}

//! Cluster certificate authority, join tokens, SPIFFE identities and TLS configuration.
//!
//! Every party of a cluster has a certificate of the one cluster CA ([`Authority`]) that says who
//! it is ([`Identity`], a SPIFFE ID). Keys are made where they are used ([`PrivateKey`]) and only
//! requests for certificates travel. A machine that has no certificate yet holds a [`JoinToken`],
//! which pins the CA by its fingerprint and carries a one-time secret. [`ServerTls`] and
//! [`ClientTls`] turn all this into TLS 1.3 configurations whose certificates can be renewed while
//! they are in use.
//!
//! ```
//! use std::time::Duration;
//! use weft_pki::{Authority, Identity, PrivateKey};
//! use weft_types::Timestamp;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let now = Timestamp(1_800_000_000_000);
//! let authority = Authority::create(&dir.path().join("ca"), &"home".parse()?, now)?;
//! let key = PrivateKey::generate()?; // on the node; only the request leaves it
//! let certificate = authority.sign_node_csr(&key.csr()?, &"n1".parse()?, Duration::from_secs(86_400), now)?;
//! assert_eq!(certificate.identity(authority.cluster())?, Identity::Node("n1".parse()?));
//! # Ok(())
//! # }
//! ```
//!
//! Architecture invariant: this crate opens no connection, reads no clock and knows neither store
//! nor API. It draws random numbers and reads and writes the files it is told. Whom to sign for,
//! which tokens exist and which nodes were removed, the server decides.

mod api_token;
mod armor;
mod authority;
mod base32;
mod certificate;
mod error;
mod files;
mod fingerprint;
mod join_token;
mod key;
mod secret;
mod spiffe;
mod tls;
mod token_record;

pub use api_token::{ApiToken, ApiTokenRecord};
pub use authority::{Authority, CA_VALIDITY, MAX_BACKDATE, MAX_SERVER_NAMES, SERVER_NAME};
pub use certificate::{
    Certificate, MAX_CERTIFICATE_BYTES, identity_from_cert, renew_at, validity_at,
};
pub use error::{Error, Result, TokenError};
pub use files::{Credentials, IdentityFiles, NodeIdentity, write_secret_file};
pub use fingerprint::{Fingerprint, short_code};
pub use join_token::{JoinToken, JoinTokenSpec, MAX_ADDRESSES, MAX_LABELS, MAX_TEXT_BYTES};
pub use key::{MAX_SIGNING_REQUEST_BYTES, PrivateKey, csr_public_key};
pub use secret::{ApiSecret, JoinSecret, Secret, SecretHash, TokenId};
pub use spiffe::{ClusterName, Identity, SpiffeId};
pub use tls::{ClientTls, PEER_PROTOCOL, PeerTls, ServerTls, explain_tls_error, peer_identity};
pub use token_record::TokenRecord;

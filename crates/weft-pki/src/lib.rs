//! Cluster certificate authority, join tokens, SPIFFE identities and TLS configuration.
#![allow(unused, missing_docs, clippy::unimplemented)]
// Signatures first; bodies follow.
use std::{path::{Path, PathBuf}, sync::Arc, time::Duration, collections::BTreeMap, fmt};
use weft_types::{NodeId, Timestamp};
use serde::{Serialize, Deserialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;
#[derive(Debug, thiserror::Error)] #[error("…")] pub struct Error; // becomes an enum
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)] #[error("…")] #[non_exhaustive]
pub enum TokenError { Malformed(String), Checksum, WrongVersion(String), Expired, Spent, Unknown }
impl TokenError { /// One sentence: what to do now.
    pub fn next_step(&self) -> &'static str { unimplemented!() } }

/// SPIFFE trust domain. FromStr, Display, serde as string.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)] pub struct ClusterName(Box<str>);
impl ClusterName { pub fn as_str(&self) -> &str { &self.0 } }
impl fmt::Display for ClusterName { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { unimplemented!() } }
impl std::str::FromStr for ClusterName { type Err = Error; fn from_str(s: &str) -> Result<Self> { unimplemented!() } }

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity { Node(NodeId), Server(NodeId), User(String) }
impl Identity { pub fn spiffe_id(&self, cluster: &ClusterName) -> SpiffeId { unimplemented!() } }
/// FromStr (strict), Display.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)] pub struct SpiffeId { trust_domain: ClusterName, path: Box<str> }
/// The identity in a certificate that the handshake has verified.
pub fn identity_from_cert(der: &[u8], cluster: &ClusterName) -> Result<Identity> { unimplemented!() }

/// SHA-256 of DER; Display/FromStr hex, serde hex string.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)] pub struct Fingerprint([u8; 32]);
impl fmt::Display for Fingerprint { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { unimplemented!() } }
impl std::str::FromStr for Fingerprint { type Err = Error; fn from_str(s: &str) -> Result<Self> { unimplemented!() } }

#[derive(Debug, Clone, PartialEq, Eq)] pub struct Certificate;
impl Certificate {
    pub fn from_pem(pem: &str) -> Result<Self> { unimplemented!() }
    pub fn from_der(der: &[u8]) -> Result<Self> { unimplemented!() }
    pub fn der(&self) -> &[u8] { unimplemented!() }
    pub fn to_pem(&self) -> String { unimplemented!() }
    pub fn not_before(&self) -> Timestamp { unimplemented!() }
    pub fn not_after(&self) -> Timestamp { unimplemented!() }
    pub fn serial(&self) -> String { unimplemented!() }
    pub fn public_key_der(&self) -> &[u8] { unimplemented!() }
    pub fn public_key_hash(&self) -> Fingerprint { unimplemented!() }
    pub fn fingerprint(&self) -> Fingerprint { unimplemented!() }
    pub fn spiffe_id(&self) -> Result<SpiffeId> { unimplemented!() }
    pub fn identity(&self, cluster: &ClusterName) -> Result<Identity> { unimplemented!() }
    /// Cluster named by a CA certificate.
    pub fn cluster(&self) -> Result<ClusterName> { unimplemented!() }
    pub fn renew_at(&self) -> Timestamp { unimplemented!() }
    pub fn validity(&self, now: Timestamp) -> Validity { unimplemented!() }
}
pub fn renew_at(not_before: Timestamp, not_after: Timestamp) -> Timestamp { unimplemented!() }
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Validity { Fresh, RenewDue, ExpiringSoon, Expired }
impl Validity { pub fn at(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Self { unimplemented!() } }
/// "ABCD-EFGH"
pub fn short_code(public_key_der: &[u8]) -> String { unimplemented!() }

pub struct PrivateKey;
impl PrivateKey {
    pub fn generate() -> Result<Self> { unimplemented!() }
    pub fn from_pem(pem: &str) -> Result<Self> { unimplemented!() }
    pub fn to_pem(&self) -> String { unimplemented!() }
    pub fn public_key_der(&self) -> &[u8] { unimplemented!() }
    /// A certificate signing request, DER.
    pub fn csr(&self) -> Result<Vec<u8>> { unimplemented!() }
}
/// Certificate + its key + the CA.
pub struct Credentials { pub certificate: Certificate, pub key: PrivateKey, pub ca: Certificate }
/// `ca.pem`, `cert.pem`, `key.pem` (0600) in one directory (0700).
pub struct IdentityFiles;
impl IdentityFiles {
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self { unimplemented!() }
    pub fn ca(&self) -> PathBuf { unimplemented!() }
    pub fn cert(&self) -> PathBuf { unimplemented!() }
    pub fn key(&self) -> PathBuf { unimplemented!() }
    pub fn write(&self, credentials: &Credentials) -> Result<()> { unimplemented!() }
    /// None when there is no certificate yet.
    pub fn read(&self) -> Result<Option<Credentials>> { unimplemented!() }
}
/// A node's (or joining server's) own key, and its certificate once it has one.
pub struct NodeIdentity;
impl NodeIdentity {
    pub fn load_or_generate_key(dir: &Path) -> Result<Self> { unimplemented!() }
    pub fn csr(&self) -> Result<Vec<u8>> { unimplemented!() }
    pub fn short_code(&self) -> String { unimplemented!() }
    pub fn credentials(&self) -> Result<Option<Credentials>> { unimplemented!() }
    /// Checks that the certificate is for our key and signed by `ca`, then writes both.
    pub fn install(&self, certificate: &Certificate, ca: &Certificate) -> Result<Credentials> { unimplemented!() }
}
/// Atomic (temp + rename + fsync) write, mode 0600; for admin.json and the like.
pub fn write_secret_file(path: &Path, bytes: &[u8]) -> Result<()> { unimplemented!() }

pub struct Authority;
impl Authority {
    pub fn create(dir: &Path, cluster: &ClusterName, now: Timestamp) -> Result<Self> { unimplemented!() }
    pub fn load(dir: &Path) -> Result<Self> { unimplemented!() }
    pub fn load_or_create(dir: &Path, cluster: &ClusterName, now: Timestamp) -> Result<Self> { unimplemented!() }
    pub fn cluster(&self) -> &ClusterName { unimplemented!() }
    pub fn certificate(&self) -> &Certificate { unimplemented!() }
    pub fn fingerprint(&self) -> Fingerprint { unimplemented!() }
    /// `csr` PEM or DER.
    pub fn sign_node_csr(&self, csr: &[u8], node: &NodeId, validity: Duration, now: Timestamp) -> Result<Certificate> { unimplemented!() }
    pub fn issue_server(&self, server: &NodeId, names: &[String], validity: Duration, now: Timestamp) -> Result<Credentials> { unimplemented!() }
    pub fn issue_user(&self, name: &str, validity: Duration, now: Timestamp) -> Result<Credentials> { unimplemented!() }
}
/// Public key (SPKI DER) of a CSR whose self signature holds: for pending approvals (short_code) before signing.
pub fn csr_public_key(csr: &[u8]) -> Result<Vec<u8>> { unimplemented!() }

/// What a user copies to the machine that joins. FromStr -> TokenError; Display is the token string.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken { pub addresses: Vec<String>, pub ca_fingerprint: Fingerprint, pub id: String, pub secret: Secret,
    pub expires_at: Timestamp, pub pool: Option<String>, pub labels: BTreeMap<String, String> }
#[derive(Clone, PartialEq, Eq)] pub struct Secret([u8; 16]);
/// What to mint.
pub struct JoinTokenSpec { pub addresses: Vec<String>, pub ca_fingerprint: Fingerprint, pub ttl: Duration, pub uses: u32,
    pub pool: Option<String>, pub labels: BTreeMap<String, String> }
impl JoinToken { pub fn mint(spec: JoinTokenSpec, now: Timestamp) -> Result<(JoinToken, TokenRecord)> { unimplemented!() } }
impl fmt::Display for JoinToken { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { unimplemented!() } }
impl std::str::FromStr for JoinToken { type Err = TokenError; fn from_str(s: &str) -> Result<Self, TokenError> { unimplemented!() } }
/// Server side; serde JSON; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord { pub id: String, pub secret_hash: String, pub created_at_ms: u64, pub expires_at_ms: u64, pub uses_left: u32,
    pub pool: Option<String>, pub labels: BTreeMap<String, String> }
impl TokenRecord {
    pub fn verify(&self, secret: &Secret, now: Timestamp) -> Result<(), TokenError> { unimplemented!() }
    /// verify, then one use less. Store the record by compare-and-set.
    pub fn spend(&mut self, secret: &Secret, now: Timestamp) -> Result<(), TokenError> { unimplemented!() }
}
/// Bearer secret of the API: `weftapi1-…`. FromStr -> TokenError, Display.
#[derive(Clone, PartialEq, Eq)] pub struct ApiToken;
impl ApiToken { pub fn mint(name: &str, ttl: Option<Duration>, now: Timestamp) -> Result<(ApiToken, ApiTokenRecord)> { unimplemented!() }
    pub fn id(&self) -> &str { unimplemented!() } }
impl std::str::FromStr for ApiToken { type Err = TokenError; fn from_str(s: &str) -> Result<Self, TokenError> { unimplemented!() } }
impl fmt::Display for ApiToken { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { unimplemented!() } }
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenRecord { pub id: String, pub name: String, pub secret_hash: String, pub created_at_ms: u64, pub expires_at_ms: Option<u64> }
impl ApiTokenRecord { pub fn verify(&self, token: &ApiToken, now: Timestamp) -> Result<(), TokenError> { unimplemented!() } }

/// Server side TLS; ALPN h2, http/1.1; client certificate optional.
pub struct ServerTls;
impl ServerTls {
    pub fn new(credentials: &Credentials) -> Result<Self> { unimplemented!() }
    pub fn config(&self) -> Arc<rustls::ServerConfig> { unimplemented!() }
    /// New handshakes present the new certificate.
    pub fn replace(&self, credentials: &Credentials) -> Result<()> { unimplemented!() }
}
/// `connection.peer_certificates()` → who it is; None: anonymous.
pub fn peer_identity(certificates: Option<&[rustls_pki_types::CertificateDer<'_>]>, cluster: &ClusterName) -> Result<Option<Identity>> { unimplemented!() }
/// Client side; every variant authenticates the server as a server of the cluster, whatever address was dialled.
#[derive(Clone)] pub struct ClientTls;
impl ClientTls {
    pub fn with_identity(credentials: &Credentials) -> Result<Self> { unimplemented!() }
    pub fn ca_only(ca: &Certificate) -> Result<Self> { unimplemented!() }
    pub fn pinned(fingerprint: Fingerprint) -> Result<Self> { unimplemented!() }
    pub fn config(&self) -> Arc<rustls::ClientConfig> { unimplemented!() }
    pub fn replace(&self, credentials: &Credentials) -> Result<()> { unimplemented!() }
}
/// The name to pass to a TLS connector ("weft"); the dialled address works as well.
pub const SERVER_NAME: &str = "weft";

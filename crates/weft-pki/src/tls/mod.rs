//! TLS for both sides of every connection: version 1.3 only, `ring` for the cryptography, the
//! cluster CA as the only root.
//!
//! Sessions are never resumed: a resumed session would skip the check of the peer's certificate,
//! so that an expired certificate would live on and a renewed one would not be seen.

mod client;
mod explain;
mod peer;
mod server;
mod verifier;

use std::fmt;
use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwap;
use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme, SupportedProtocolVersion};

pub use client::ClientTls;
pub use explain::explain_tls_error;
pub use peer::{PEER_PROTOCOL, PeerTls};
pub use server::{ServerTls, peer_identity};

use crate::{Certificate, Credentials, Result};

/// Application protocols, the preferred one first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
const VERSIONS: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

/// The one provider of cryptography; the process-wide default is neither read nor set.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

fn alpn() -> Vec<Vec<u8>> {
    ALPN.iter().map(|protocol| protocol.to_vec()).collect()
}

fn roots(ca: &Certificate) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.rustls_der())?;
    Ok(Arc::new(roots))
}

/// The certificate and key that new handshakes present; replaced when renewed.
struct CurrentKey(ArcSwap<CertifiedKey>);

impl CurrentKey {
    fn new(credentials: &Credentials) -> Result<Self> {
        Ok(Self(ArcSwap::from_pointee(certified_key(credentials)?)))
    }

    fn replace(&self, credentials: &Credentials) -> Result<()> {
        self.0.store(Arc::new(certified_key(credentials)?));
        Ok(())
    }
}

/// The CA goes along with the certificate, so that a joining agent, which knows only the CA's
/// fingerprint, can find it in the handshake.
fn certified_key(credentials: &Credentials) -> Result<CertifiedKey> {
    let chain = vec![
        credentials.certificate.rustls_der(),
        credentials.ca.rustls_der(),
    ];
    Ok(CertifiedKey::from_der(
        chain,
        credentials.key.rustls_der(),
        &provider(),
    )?)
}

impl fmt::Debug for CurrentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CurrentKey")
    }
}

impl ResolvesServerCert for CurrentKey {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ResolvesClientCert for CurrentKey {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

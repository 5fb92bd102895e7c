//! The server's side of TLS.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;

use super::{CurrentKey, VERSIONS, alpn, provider, roots};
use crate::{ClusterName, Credentials, Error, Identity, Result, identity_from_cert};

/// TLS configuration of a server. A client may come without certificate (it then is anonymous and
/// needs a token); one with a certificate must have it from the cluster CA, valid now.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    current: Arc<CurrentKey>,
}

impl ServerTls {
    /// A configuration that presents `credentials` and trusts the clients of their CA.
    ///
    /// # Errors
    /// [`Error::Tls`] when certificate and key do not fit.
    pub fn new(credentials: &Credentials) -> Result<Self> {
        let current = Arc::new(CurrentKey::new(credentials)?);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(&credentials.ca)?, provider())
                .allow_unauthenticated()
                .build()
                .map_err(|_| Error::Certificate("the CA cannot verify clients"))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(current.clone());
        config.alpn_protocols = alpn();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
            current,
        })
    }

    /// The configuration for a TLS acceptor; stays valid over renewals.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Presents renewed credentials of the same CA from the next handshake on; connections that are
    /// open stay open.
    ///
    /// # Errors
    /// [`Error::Tls`] when certificate and key do not fit; the old ones then stay.
    pub fn replace(&self, credentials: &Credentials) -> Result<()> {
        self.current.replace(credentials)
    }
}

/// Who the peer is, given the certificates that its handshake has verified; `None` when it came
/// without.
///
/// # Errors
/// When the certificate, although of the CA, names nobody in `cluster`: refuse such a connection.
pub fn peer_identity(
    certificates: Option<&[CertificateDer<'_>]>,
    cluster: &ClusterName,
) -> Result<Option<Identity>> {
    certificates
        .and_then(<[_]>::first)
        .map(|certificate| identity_from_cert(certificate, cluster))
        .transpose()
}

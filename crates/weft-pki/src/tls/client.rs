//! The client's side of TLS: agents, the CLI, and machines that join.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::ConfigBuilder;
use rustls::client::{Resumption, WantsClientCert};

use super::verifier::ClusterServerVerifier;
use super::{CurrentKey, VERSIONS, alpn, provider};
use crate::{Certificate, Credentials, Fingerprint, Result};

/// TLS configuration of a client.
///
/// Whatever address was dialled, the server must prove to be a server of the cluster: a certificate
/// of the cluster CA with the SPIFFE ID of a server and the DNS name [`crate::SERVER_NAME`]. The
/// address is no part of the proof, so servers can be reached behind NAT, by any interface and under
/// names that they do not know; the CA signs nothing but parties of the cluster, so a matching
/// address would add nothing.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    current: Option<Arc<CurrentKey>>,
}

impl ClientTls {
    /// Presents a certificate and trusts the servers of its CA.
    ///
    /// # Errors
    /// [`crate::Error::Tls`] when certificate and key do not fit.
    pub fn with_identity(credentials: &Credentials) -> Result<Self> {
        let current = Arc::new(CurrentKey::new(credentials)?);
        let config = builder(ClusterServerVerifier::of_authority(&credentials.ca)?)?
            .with_client_cert_resolver(current.clone());
        Ok(Self::finish(config, Some(current)))
    }

    /// Presents no certificate and trusts the servers of a CA.
    ///
    /// # Errors
    /// [`crate::Error::Certificate`] when it is not the certificate of a cluster CA.
    pub fn ca_only(ca: &Certificate) -> Result<Self> {
        let config = builder(ClusterServerVerifier::of_authority(ca)?)?.with_no_client_auth();
        Ok(Self::finish(config, None))
    }

    /// For joining: presents no certificate and trusts the servers of the one CA with this
    /// fingerprint, which the server sends along with its own certificate.
    ///
    /// # Errors
    /// [`crate::Error::Tls`], which does not happen with the built-in provider.
    pub fn pinned(ca_fingerprint: Fingerprint) -> Result<Self> {
        let config = builder(ClusterServerVerifier::pinned(ca_fingerprint))?.with_no_client_auth();
        Ok(Self::finish(config, None))
    }

    fn finish(mut config: ClientConfig, current: Option<Arc<CurrentKey>>) -> Self {
        config.alpn_protocols = alpn();
        config.resumption = Resumption::disabled();
        Self {
            config: Arc::new(config),
            current,
        }
    }

    /// The configuration for a TLS connector; stays valid over renewals.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// Presents renewed credentials of the same CA from the next connection on. Without effect on a
    /// configuration that presents none.
    ///
    /// # Errors
    /// [`crate::Error::Tls`] when certificate and key do not fit; the old ones then stay.
    pub fn replace(&self, credentials: &Credentials) -> Result<()> {
        self.current
            .as_ref()
            .map_or(Ok(()), |current| current.replace(credentials))
    }
}

fn builder(
    verifier: ClusterServerVerifier,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

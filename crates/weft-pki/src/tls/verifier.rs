//! How a client decides that its peer is a server of the cluster.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{provider, roots};
use crate::{Certificate, Error, Fingerprint, Identity, Result, SERVER_NAME};

/// Accepts a chain that webpki validates up to the cluster CA for the name `weft`, when its leaf
/// is the SPIFFE ID of a server. The dialled name is ignored; [`super::ClientTls`] says why.
#[derive(Debug)]
pub(super) struct ClusterServerVerifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
enum Trust {
    /// The CA is known.
    Authority(Authority),
    /// Only the CA's fingerprint is known; the server sends the CA.
    Pinned(Fingerprint),
}

#[derive(Debug)]
struct Authority {
    certificate: Certificate,
    webpki: Arc<WebPkiServerVerifier>,
}

impl Authority {
    fn new(certificate: Certificate) -> Result<Self> {
        let webpki = WebPkiServerVerifier::builder_with_provider(roots(&certificate)?, provider())
            .build()
            .map_err(|_| Error::Certificate("the CA cannot verify servers"))?;
        Ok(Self {
            certificate,
            webpki,
        })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<()> {
        let name = ServerName::try_from(SERVER_NAME).expect("`weft` is a DNS name");
        self.webpki
            .verify_server_cert(leaf, chain, &name, &[], now)?;
        match Certificate::from_der(leaf)?.identity(&self.certificate.cluster()?)? {
            Identity::Server(_) => Ok(()),
            other => Err(Error::NotAServer {
                found: other.to_string(),
            }),
        }
    }
}

impl ClusterServerVerifier {
    pub(super) fn of_authority(ca: &Certificate) -> Result<Self> {
        ca.cluster()?;
        Ok(Self::new(Trust::Authority(Authority::new(ca.clone())?)))
    }

    pub(super) fn pinned(fingerprint: Fingerprint) -> Self {
        Self::new(Trust::Pinned(fingerprint))
    }

    fn new(trust: Trust) -> Self {
        Self {
            trust,
            algorithms: provider().signature_verification_algorithms,
        }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<()> {
        match &self.trust {
            Trust::Authority(authority) => authority.verify(leaf, chain, now),
            Trust::Pinned(pinned) => {
                let sent = chain.iter().find(|der| Fingerprint::of(der) == *pinned);
                let ca = Certificate::from_der(sent.ok_or(Error::NotPinned { pinned: *pinned })?)?;
                Authority::new(ca)?.verify(leaf, chain, now)
            }
        }
    }
}

impl ServerCertVerifier for ClusterServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verify(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(Error::Tls(error)) => Err(error),
            Err(error) => Err(CertificateError::Other(OtherError(Arc::new(error))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

//! TLS between nodes: both sides show the same kind of certificate.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use weft_types::NodeId;

use super::{CurrentKey, VERSIONS, provider, roots};
use crate::{Certificate, ClusterName, Credentials, Error, Identity, Result, identity_from_cert};

/// The one application protocol of connections between nodes (RFC 7301), so that neither end can
/// be made to speak with a listener of another kind.
pub const PEER_PROTOCOL: &[u8] = b"weft-peer/1";

/// TLS configuration of a node towards other nodes, in both directions.
///
/// The other side must prove to be a node of the cluster: a certificate of the cluster CA, valid
/// now, with the SPIFFE ID of a node. Servers and users are refused. Which node it is says
/// [`PeerTls::node`]; whether that node is still a member is for the caller to decide.
#[derive(Clone, Debug)]
pub struct PeerTls {
    accept: Arc<ServerConfig>,
    dial: Arc<ClientConfig>,
    current: Arc<CurrentKey>,
    cluster: ClusterName,
}

impl PeerTls {
    /// Presents a node's certificate and trusts the nodes of its CA.
    ///
    /// # Errors
    /// [`Error::Tls`] when certificate and key do not fit, [`Error::Certificate`] when the CA is
    /// not that of a cluster.
    pub fn new(credentials: &Credentials) -> Result<Self> {
        let current = Arc::new(CurrentKey::new(credentials)?);
        let verifier = Arc::new(NodeVerifier::new(&credentials.ca)?);
        let mut accept = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(current.clone());
        accept.alpn_protocols = vec![PEER_PROTOCOL.to_vec()];
        accept.session_storage = Arc::new(NoServerSessionStorage {});
        accept.send_tls13_tickets = 0;
        let mut dial = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&VERSIONS)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(current.clone());
        dial.alpn_protocols = vec![PEER_PROTOCOL.to_vec()];
        dial.resumption = Resumption::disabled();
        Ok(Self {
            accept: Arc::new(accept),
            dial: Arc::new(dial),
            current,
            cluster: verifier.cluster.clone(),
        })
    }

    /// The configuration for accepting other nodes; stays valid over renewals.
    pub fn accept_config(&self) -> Arc<ServerConfig> {
        self.accept.clone()
    }

    /// The configuration for dialling other nodes; stays valid over renewals.
    pub fn dial_config(&self) -> Arc<ClientConfig> {
        self.dial.clone()
    }

    /// Presents renewed credentials of the same CA from the next handshake on.
    ///
    /// # Errors
    /// [`Error::Tls`] when certificate and key do not fit; the old ones then stay.
    pub fn replace(&self, credentials: &Credentials) -> Result<()> {
        self.current.replace(credentials)
    }

    /// Which node the other side is, given the certificates that the handshake has verified.
    ///
    /// # Errors
    /// When there is none or it names no node of this cluster: close such a connection.
    pub fn node(&self, certificates: Option<&[CertificateDer<'_>]>) -> Result<NodeId> {
        let leaf = certificates
            .and_then(<[_]>::first)
            .ok_or(Error::Certificate("the peer shows none"))?;
        node_of(leaf, &self.cluster)
    }
}

fn node_of(leaf: &[u8], cluster: &ClusterName) -> Result<NodeId> {
    match identity_from_cert(leaf, cluster)? {
        Identity::Node(node) => Ok(node),
        other => Err(Error::NotANode {
            found: other.to_string(),
        }),
    }
}

/// Verifies the certificate of a node, whichever side it is on. Node certificates are for client
/// authentication, so that none of them can pose as a server of the cluster; between nodes the
/// accepting side shows one too, and it is verified in the same way.
#[derive(Debug)]
struct NodeVerifier {
    webpki: Arc<dyn ClientCertVerifier>,
    cluster: ClusterName,
}

impl NodeVerifier {
    fn new(ca: &Certificate) -> Result<Self> {
        let webpki = WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
            .build()
            .map_err(|_| Error::Certificate("the CA cannot verify nodes"))?;
        Ok(Self {
            webpki,
            cluster: ca.cluster()?,
        })
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.webpki.verify_client_cert(leaf, chain, now)?;
        match node_of(leaf, &self.cluster) {
            Ok(_) => Ok(verified),
            Err(error) => Err(CertificateError::Other(OtherError(Arc::new(error))).into()),
        }
    }
}

impl ClientCertVerifier for NodeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.webpki.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates, now)
            .map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

//! A certificate as Weft reads it: who, until when, which key. Trust is decided by the TLS
//! handshake, not here.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use weft_types::{NodeValidity, Timestamp};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::key::p256_point;
use crate::{ClusterName, Error, Fingerprint, Identity, Result, SpiffeId};

/// Largest certificate that is read, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// Largest PEM text that is read, in bytes.
const MAX_PEM_BYTES: usize = 4 * MAX_CERTIFICATE_BYTES;
const PEM_LINE_CHARS: usize = 64;

/// An X.509 certificate, parsed once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    der: CertificateDer<'static>,
    not_before: Timestamp,
    not_after: Timestamp,
    serial: String,
    public_key: Box<[u8]>,
    uris: Vec<String>,
    is_ca: bool,
}

impl Certificate {
    /// Reads the first certificate of a PEM text.
    ///
    /// # Errors
    /// [`Error::Certificate`] when there is none or it is malformed.
    pub fn from_pem(pem: &str) -> Result<Self> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(Error::Certificate("it is too large"));
        }
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| Error::Certificate("there is no PEM certificate in it"))?;
        Self::from_der(&der)
    }

    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`Error::Certificate`] when it is malformed, too large or followed by other bytes.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err(Error::Certificate("it is too large"));
        }
        let parsed = parse(der)?;
        let alternative = parsed
            .subject_alternative_name()
            .map_err(|_| Error::Certificate("its subject alternative names are malformed"))?;
        let uris = alternative
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            });
        Ok(Self {
            not_before: timestamp(parsed.validity().not_before.timestamp()),
            not_after: timestamp(parsed.validity().not_after.timestamp()),
            serial: hex::encode(parsed.raw_serial()),
            public_key: parsed.public_key().raw.into(),
            uris: uris.collect(),
            is_ca: parsed.is_ca(),
            der: CertificateDer::from(der.to_vec()),
        })
    }

    /// The certificate in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as rustls takes it.
    pub(crate) fn rustls_der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    /// The certificate in PEM.
    pub fn to_pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// The first moment of its validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The last moment of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The serial number in hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The public key: SubjectPublicKeyInfo in DER.
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key
    }

    /// SHA-256 of the public key, which stays the same when the certificate is renewed.
    pub fn public_key_hash(&self) -> Fingerprint {
        Fingerprint::of(&self.public_key)
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.der)
    }

    /// Its SPIFFE ID: the one URI among its subject alternative names (X.509-SVID, section 2).
    ///
    /// # Errors
    /// [`Error::Certificate`] when it has none or several, [`Error::SpiffeId`] when malformed.
    pub fn spiffe_id(&self) -> Result<SpiffeId> {
        match self.uris.as_slice() {
            [uri] => uri.parse(),
            [] => Err(Error::Certificate("it has no SPIFFE ID")),
            _ => Err(Error::Certificate(
                "it has several URIs, which the SPIFFE standard forbids",
            )),
        }
    }

    /// Who it says its holder is. Only as good as the verification that came before.
    ///
    /// # Errors
    /// As [`Certificate::spiffe_id`]; also for a CA certificate, another cluster, an unknown kind.
    pub fn identity(&self, cluster: &ClusterName) -> Result<Identity> {
        if self.is_ca {
            return Err(Error::Certificate(
                "it is the certificate of a CA, not of a party",
            ));
        }
        Identity::from_spiffe_id(&self.spiffe_id()?, cluster)
    }

    /// The cluster whose CA certificate this is.
    ///
    /// # Errors
    /// [`Error::Certificate`] when it is not the certificate of a cluster CA.
    pub fn cluster(&self) -> Result<ClusterName> {
        let id = self.spiffe_id()?;
        if !self.is_ca || !id.path().is_empty() {
            return Err(Error::Certificate(
                "it is not the certificate of a cluster CA",
            ));
        }
        Ok(id.cluster().clone())
    }

    /// Whether `ca` has signed it, whatever the time.
    ///
    /// # Errors
    /// [`Error::Certificate`] when it has not.
    pub fn check_issued_by(&self, ca: &Certificate) -> Result<()> {
        const NOT_SIGNED: Error = Error::Certificate("the cluster CA has not signed it");
        let point = p256_point(&ca.public_key).ok_or(NOT_SIGNED)?;
        let parsed = parse(&self.der)?;
        signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point)
            .verify(
                parsed.tbs_certificate.as_ref(),
                &parsed.signature_value.data,
            )
            .map_err(|_| NOT_SIGNED)
    }

    /// When it should be renewed; see [`renew_at`].
    pub fn renew_at(&self) -> Timestamp {
        renew_at(self.not_before, self.not_after)
    }

    /// How far through its life it is.
    pub fn validity(&self, now: Timestamp) -> NodeValidity {
        validity_at(self.not_before, self.not_after, now)
    }
}

/// The identity in the certificate of a peer that the handshake has verified.
///
/// # Errors
/// As [`Certificate::from_der`] and [`Certificate::identity`].
pub fn identity_from_cert(der: &[u8], cluster: &ClusterName) -> Result<Identity> {
    Certificate::from_der(der)?.identity(cluster)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(Error::Certificate("other bytes follow it")),
        Err(_) => Err(Error::Certificate("it is not an X.509 certificate in DER")),
    }
}

fn timestamp(seconds: i64) -> Timestamp {
    Timestamp(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// RFC 7468 text of some DER.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    let body = STANDARD.encode(der);
    for (position, character) in body.chars().enumerate() {
        if position > 0 && position % PEM_LINE_CHARS == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}

/// When a certificate should be renewed: half-way through its life, so that as much time again
/// is left to try.
pub fn renew_at(not_before: Timestamp, not_after: Timestamp) -> Timestamp {
    not_before.plus(not_after.since(not_before) / 2)
}

/// How far through its life a certificate is at a moment.
pub fn validity_at(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> NodeValidity {
    let left = not_after.since(now);
    if left == Duration::ZERO {
        NodeValidity::Expired
    } else if left <= not_after.since(not_before) / 4 {
        NodeValidity::ExpiringSoon
    } else if now >= renew_at(not_before, not_after) {
        NodeValidity::RenewDue
    } else {
        NodeValidity::Fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_life_goes_through_its_phases_in_order() {
        let (from, to) = (Timestamp(1000), Timestamp(9000));
        let phases = [
            (0, NodeValidity::Fresh),
            (4999, NodeValidity::Fresh),
            (5000, NodeValidity::RenewDue),
            (6999, NodeValidity::RenewDue),
            (7000, NodeValidity::ExpiringSoon),
            (8999, NodeValidity::ExpiringSoon),
            (9000, NodeValidity::Expired),
            (20_000, NodeValidity::Expired),
        ];
        for (now, phase) in phases {
            assert_eq!(validity_at(from, to, Timestamp(now)), phase, "at {now}");
        }
        assert_eq!(renew_at(from, to), Timestamp(5000));
    }

    #[test]
    fn bytes_of_another_kind_are_no_certificate() {
        for garbage in [
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN",
        ] {
            assert!(Certificate::from_pem(garbage).is_err(), "{garbage:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_garbage_never_panics(bytes: Vec<u8>, text in "\\PC*") {
            prop_assert!(Certificate::from_der(&bytes).is_err());
            prop_assert!(Certificate::from_pem(&text).is_err());
        }
    }
}

//! Private keys (ECDSA on P-256) and certificate signing requests, on both sides.

use std::fmt;
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use ring::signature;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::certificate::pem;
use crate::{Error, Result, short_code};

/// Largest signing request that is read, in bytes.
pub const MAX_SIGNING_REQUEST_BYTES: usize = 8 * 1024;
/// Largest PEM text of a private key that is read, in bytes.
const MAX_KEY_PEM_BYTES: usize = 8 * 1024;

/// All bytes of a P-256 SubjectPublicKeyInfo (RFC 5480) before the uncompressed point.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P256_POINT_BYTES: usize = 65;

/// The point in a SubjectPublicKeyInfo; `None` for any other kind of key.
pub(crate) fn p256_point(public_key_der: &[u8]) -> Option<&[u8]> {
    public_key_der
        .strip_prefix(&P256_SPKI_PREFIX)
        .filter(|point| point.len() == P256_POINT_BYTES)
}

/// A private key, made where it is used. It has no `Debug` output and leaves the process only
/// through [`PrivateKey::to_pem`].
#[derive(Clone)]
pub struct PrivateKey {
    pair: Arc<KeyPair>,
    public_key: Arc<[u8]>,
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`Error::Issue`] when the operating system gives no random numbers.
    pub fn generate() -> Result<Self> {
        Ok(Self::from_pair(KeyPair::generate_for(
            &PKCS_ECDSA_P256_SHA256,
        )?))
    }

    /// Reads a key in PEM (PKCS #8).
    ///
    /// # Errors
    /// [`Error::PrivateKey`] when it is not a P-256 key.
    pub fn from_pem(pem: &str) -> Result<Self> {
        if pem.len() > MAX_KEY_PEM_BYTES {
            return Err(Error::PrivateKey("it is too large"));
        }
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| Error::PrivateKey("there is no PEM private key (PKCS #8) in it"))?;
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| Error::PrivateKey("it is not an ECDSA key on P-256"))?;
        Ok(Self::from_pair(pair))
    }

    fn from_pair(pair: KeyPair) -> Self {
        let public_key = pair.subject_public_key_info().into();
        Self {
            pair: Arc::new(pair),
            public_key,
        }
    }

    /// The key in PEM (PKCS #8). Secret.
    pub fn to_pem(&self) -> String {
        pem("PRIVATE KEY", self.pair.serialized_der())
    }

    /// The public key: SubjectPublicKeyInfo in DER.
    pub fn public_key_der(&self) -> &[u8] {
        &self.public_key
    }

    /// The code that people compare before an approval.
    pub fn short_code(&self) -> String {
        short_code(&self.public_key)
    }

    /// A certificate signing request (PKCS #10, DER) that asks for nothing but a certificate for
    /// this key: the CA decides about the name.
    ///
    /// # Errors
    /// [`Error::Issue`] when signing fails.
    pub fn csr(&self) -> Result<Vec<u8>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&*self.pair)?.der().to_vec())
    }

    pub(crate) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    pub(crate) fn rustls_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(
            self.pair.serialized_der().to_vec(),
        ))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

/// The public key (SubjectPublicKeyInfo, DER) of a signing request in PEM or DER, after its
/// signature has proved that the sender holds the private key. Everything else in the request,
/// names above all, is ignored.
///
/// # Errors
/// [`Error::SigningRequest`].
pub fn csr_public_key(request: &[u8]) -> Result<Vec<u8>> {
    const PEM_START: &[u8] = b"-----BEGIN";
    if request.len() > MAX_SIGNING_REQUEST_BYTES {
        return Err(Error::SigningRequest("it is too large"));
    }
    if request.trim_ascii_start().starts_with(PEM_START) {
        let der = CertificateSigningRequestDer::from_pem_slice(request)
            .map_err(|_| Error::SigningRequest("its PEM is malformed"))?;
        return proven_public_key(&der);
    }
    proven_public_key(request)
}

fn proven_public_key(der: &[u8]) -> Result<Vec<u8>> {
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
        return Err(Error::SigningRequest("it is not a PKCS #10 request"));
    };
    let public_key = request.certification_request_info.subject_pki.raw;
    let point = p256_point(public_key).ok_or(Error::SigningRequest(
        "its key is not an ECDSA key on P-256",
    ))?;
    signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, point)
        .verify(
            request.certification_request_info.raw,
            &request.signature_value.data,
        )
        .map_err(|_| Error::SigningRequest("its signature does not prove possession of the key"))?;
    Ok(public_key.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_reads_back_from_its_pem_and_is_not_printed() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public_key_der(), key.public_key_der());
        assert_eq!(format!("{key:?}"), "PrivateKey(secret)");
    }

    #[test]
    fn a_request_proves_its_key_in_der_and_in_pem() {
        let key = PrivateKey::generate().unwrap();
        let der = key.csr().unwrap();
        assert_eq!(csr_public_key(&der).unwrap(), key.public_key_der());
        let text = pem("CERTIFICATE REQUEST", &der);
        assert_eq!(
            csr_public_key(text.as_bytes()).unwrap(),
            key.public_key_der()
        );
    }

    #[test]
    fn a_request_changed_anywhere_proves_no_other_key() {
        let key = PrivateKey::generate().unwrap();
        let der = key.csr().unwrap();
        // After the outer header: version, no name, the key, no attributes.
        let signed = 3..103;
        for position in 0..der.len() {
            let mut forged = der.clone();
            forged[position] ^= 1;
            match csr_public_key(&forged) {
                Ok(proven) => assert!(
                    !signed.contains(&position) && proven == key.public_key_der(),
                    "byte {position}"
                ),
                Err(error) => assert!(
                    matches!(error, Error::SigningRequest(_)),
                    "byte {position}: {error}"
                ),
            }
        }
    }

    #[test]
    fn a_request_for_a_key_of_another_kind_is_refused() {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        assert!(matches!(
            csr_public_key(request.der()),
            Err(Error::SigningRequest(_))
        ));
    }

    proptest! {
        #[test]
        fn reading_garbage_never_panics(bytes: Vec<u8>, text in "\\PC*") {
            prop_assert!(csr_public_key(&bytes).is_err());
            prop_assert!(PrivateKey::from_pem(&text).is_err());
        }
    }
}

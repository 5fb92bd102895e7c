//! The cluster's certificate authority: makes the root of trust and signs who may take part.
//!
//! It decides names, never takes them from a request, and knows nothing of tokens, approvals or
//! removed nodes: whether to sign is the server's decision.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::DnsName;
use weft_types::{NodeId, Timestamp};

use crate::files::{
    create_dir, create_public_file, create_secret_file, missing, read_public_file, read_secret_file,
};
use crate::key::csr_public_key;
use crate::{
    Certificate, ClusterName, Credentials, Error, Fingerprint, Identity, PrivateKey, Result,
    SpiffeId,
};

/// How long a cluster CA is valid: ten years.
pub const CA_VALIDITY: Duration = Duration::from_secs(3653 * 24 * 3600);
/// How far a certificate is dated back, for clocks that are late.
pub const MAX_BACKDATE: Duration = Duration::from_secs(5 * 60);
/// A short certificate is dated back by at most this part of its life, so that its half-life
/// does not lie in the past.
const BACKDATE_DIVISOR: u32 = 10;
/// Most names in a server certificate.
pub const MAX_SERVER_NAMES: usize = 64;
/// The DNS name that every server certificate carries, whatever the server's address.
pub const SERVER_NAME: &str = "weft";
/// Names in every server certificate, for programs other than Weft on the same machine.
const LOCAL_NAMES: [&str; 4] = [SERVER_NAME, "localhost", "127.0.0.1", "::1"];

const SERIAL_BYTES: usize = 16;
const CA_FILE: &str = "ca.pem";
const CA_KEY_FILE: &str = "ca.key";
/// The end of year 9999, the last moment that X.509 can express.
const LAST_SECOND: u64 = 253_402_300_799;

/// The certificate authority of one cluster.
pub struct Authority {
    cluster: ClusterName,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authority({}, {})", self.cluster, self.fingerprint())
    }
}

impl Authority {
    /// Makes a CA for a new cluster in `dir`: `ca.key` (mode 0600) and `ca.pem`.
    ///
    /// A creation that was interrupted after the key was written is completed with that key.
    ///
    /// # Errors
    /// [`Error::AuthorityExists`] when there is one; [`Error::File`], [`Error::KeyExposed`].
    pub fn create(dir: &Path, cluster: &ClusterName, now: Timestamp) -> Result<Self> {
        let exists = || Error::AuthorityExists {
            dir: dir.to_owned(),
        };
        create_dir(dir)?;
        if read_public_file(&dir.join(CA_FILE))?.is_some() {
            return Err(exists());
        }
        // Whoever wrote the key first wins; both then certify the same key.
        create_secret_file(
            &dir.join(CA_KEY_FILE),
            PrivateKey::generate()?.to_pem().as_bytes(),
        )?;
        let key = load_key(dir)?;
        let certificate = root_certificate(cluster, key.pair(), now)?;
        if !create_public_file(&dir.join(CA_FILE), certificate.to_pem().as_bytes())? {
            return Err(exists());
        }
        tracing::info!(%cluster, fingerprint = %certificate.fingerprint(), "created the cluster CA");
        Self::new(certificate, &key)
    }

    /// Loads the CA in `dir`.
    ///
    /// # Errors
    /// [`Error::File`] when there is none; [`Error::KeyExposed`] when others can read its key;
    /// [`Error::Certificate`] when certificate and key do not fit.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(CA_FILE);
        let certificate =
            Certificate::from_pem(&read_public_file(&path)?.ok_or_else(|| missing(&path))?)?;
        Self::new(certificate, &load_key(dir)?)
    }

    /// Loads the CA in `dir`, or makes one. A CA that is there keeps its name.
    ///
    /// # Errors
    /// As [`Authority::load`] and [`Authority::create`].
    pub fn load_or_create(dir: &Path, cluster: &ClusterName, now: Timestamp) -> Result<Self> {
        match Self::create(dir, cluster, now) {
            Err(Error::AuthorityExists { .. }) => Self::load(dir),
            result => result,
        }
    }

    fn new(certificate: Certificate, key: &PrivateKey) -> Result<Self> {
        let cluster = certificate.cluster()?;
        if certificate.public_key_der() != key.public_key_der() {
            return Err(Error::Certificate("the CA certificate is for another key"));
        }
        let pair = KeyPair::try_from(key.pair().serialized_der())?;
        let issuer = Issuer::from_ca_cert_der(&certificate.rustls_der(), pair)?;
        Ok(Self {
            cluster,
            certificate,
            issuer,
        })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The CA's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// SHA-256 of the CA's certificate, which join tokens pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.certificate.fingerprint()
    }

    /// Signs a node's request (PEM or DER): a client certificate for the key in the request, whose
    /// one name is `spiffe://<cluster>/node/<id>`. Names that the request asks for are ignored.
    ///
    /// # Errors
    /// [`Error::SigningRequest`] when the request is malformed or does not prove its key.
    pub fn sign_node_csr(
        &self,
        request: &[u8],
        node: &NodeId,
        validity: Duration,
        now: Timestamp,
    ) -> Result<Certificate> {
        let public_key = SubjectPublicKeyInfo::from_der(&csr_public_key(request)?)?;
        let identity = Identity::Node(node.clone());
        self.sign(self.leaf(&identity, validity, now)?, &public_key)
    }

    /// Makes a key and certificate for a server: `spiffe://<cluster>/server/<id>`, usable on both
    /// sides of a connection, for `names` (DNS names and IP addresses, without port) and always
    /// for `weft`, `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    /// [`Error::ServerName`] for a name that is neither; [`Error::Certificate`] for too many.
    pub fn issue_server(
        &self,
        server: &NodeId,
        names: &[String],
        validity: Duration,
        now: Timestamp,
    ) -> Result<Credentials> {
        if names.len() > MAX_SERVER_NAMES {
            return Err(Error::Certificate(
                "a server certificate has at most 64 names",
            ));
        }
        let mut params = self.leaf(&Identity::Server(server.clone()), validity, now)?;
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        for name in LOCAL_NAMES
            .into_iter()
            .chain(names.iter().map(String::as_str))
        {
            let san = server_name(name)?;
            if !params.subject_alt_names.contains(&san) {
                params.subject_alt_names.push(san);
            }
        }
        self.issue(params)
    }

    /// Makes a key and certificate for a user of the API: `spiffe://<cluster>/user/<name>`.
    ///
    /// # Errors
    /// [`Error::UserName`] when the name does not fit into a SPIFFE ID.
    pub fn issue_user(
        &self,
        name: &str,
        validity: Duration,
        now: Timestamp,
    ) -> Result<Credentials> {
        self.issue(self.leaf(&Identity::User(name.to_owned()), validity, now)?)
    }

    fn leaf(
        &self,
        identity: &Identity,
        validity: Duration,
        now: Timestamp,
    ) -> Result<CertificateParams> {
        let mut params = CertificateParams::default();
        let backdate = MAX_BACKDATE.min(validity / BACKDATE_DIVISOR);
        let not_before = now
            .as_millis()
            .saturating_sub(Timestamp(0).plus(backdate).as_millis());
        let not_after = now.plus(validity).min(self.certificate.not_after());
        set_validity(&mut params, Timestamp(not_before), not_after);
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = named(identity.name());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = vec![uri(&identity.spiffe_id(&self.cluster)?)?];
        Ok(params)
    }

    fn issue(&self, params: CertificateParams) -> Result<Credentials> {
        let key = PrivateKey::generate()?;
        let certificate = self.sign(params, key.pair())?;
        Ok(Credentials {
            certificate,
            key,
            ca: self.certificate.clone(),
        })
    }

    fn sign(
        &self,
        params: CertificateParams,
        public_key: &impl PublicKeyData,
    ) -> Result<Certificate> {
        Certificate::from_der(params.signed_by(public_key, &self.issuer)?.der())
    }
}

fn load_key(dir: &Path) -> Result<PrivateKey> {
    let path = dir.join(CA_KEY_FILE);
    PrivateKey::from_pem(&read_secret_file(&path)?.ok_or_else(|| missing(&path))?)
}

fn root_certificate(cluster: &ClusterName, key: &KeyPair, now: Timestamp) -> Result<Certificate> {
    let mut params = CertificateParams::default();
    let not_before = now
        .as_millis()
        .saturating_sub(Timestamp(0).plus(MAX_BACKDATE).as_millis());
    set_validity(&mut params, Timestamp(not_before), now.plus(CA_VALIDITY));
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = named("Weft cluster CA");
    params
        .distinguished_name
        .push(DnType::OrganizationName, cluster.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&SpiffeId::of_cluster(cluster))?];
    Certificate::from_der(params.self_signed(key)?.der())
}

fn set_validity(params: &mut CertificateParams, not_before: Timestamp, not_after: Timestamp) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at =
        |time: Timestamp| epoch + Duration::from_secs((time.as_millis() / 1000).min(LAST_SECOND));
    params.not_before = at(not_before);
    params.not_after = at(not_after);
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn uri(id: &SpiffeId) -> Result<SanType> {
    Ok(SanType::URI(Ia5String::try_from(id.to_string())?))
}

fn server_name(name: &str) -> Result<SanType> {
    let refused = || Error::ServerName {
        name: name.chars().take(80).collect(),
    };
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    DnsName::try_from(name).map_err(|_| refused())?;
    Ok(SanType::DnsName(
        Ia5String::try_from(name).map_err(|_| refused())?,
    ))
}

/// Random, so that a renewal for the same key has another number; positive and of constant length.
fn random_serial() -> Result<SerialNumber> {
    let mut bytes = [0; SERIAL_BYTES];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    bytes[0] = bytes[0] & 0x3f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

//! What the cluster CA signs, and what it refuses to sign or to load.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use weft_pki::{
    Authority, Certificate, ClusterName, Error, Identity, IdentityFiles, NodeIdentity, PrivateKey,
    csr_public_key,
};
use weft_types::{NodeId, NodeValidity, Timestamp};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn cluster() -> ClusterName {
    "home".parse().unwrap()
}

fn node(id: &str) -> NodeId {
    id.parse().unwrap()
}

fn authority() -> (TempDir, Authority) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca"), &cluster(), NOW).unwrap();
    (dir, authority)
}

fn names(certificate: &Certificate) -> Vec<String> {
    let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
    let san = parsed.subject_alternative_name().unwrap().unwrap();
    san.value
        .general_names
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn the_ca_key_is_secret_and_the_ca_loads_again() {
    let (dir, authority) = authority();
    let path = dir.path().join("ca");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    assert_eq!(
        fs::metadata(path.join("ca.key")).unwrap().mode() & 0o777,
        0o600
    );
    assert_eq!(
        fs::read_dir(&path).unwrap().count(),
        2,
        "no temporary files are left"
    );

    let loaded = Authority::load(&path).unwrap();
    assert_eq!(loaded.fingerprint(), authority.fingerprint());
    assert_eq!(loaded.cluster(), &cluster());
    let other_name = "other".parse().unwrap();
    let kept = Authority::load_or_create(&path, &other_name, NOW).unwrap();
    assert_eq!(
        kept.cluster(),
        &cluster(),
        "a CA that is there keeps its name"
    );
    assert!(matches!(
        Authority::create(&path, &cluster(), NOW),
        Err(Error::AuthorityExists { .. })
    ));
}

#[test]
fn a_ca_key_that_others_can_read_is_refused_with_the_remedy() {
    let (dir, _) = authority();
    let key = dir.path().join("ca/ca.key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    let error = Authority::load(&dir.path().join("ca"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("chmod 600 {}", key.display())),
        "{error}"
    );
}

#[test]
fn a_creation_interrupted_after_the_key_is_completed() {
    let (dir, _) = authority();
    let path = dir.path().join("ca");
    fs::remove_file(path.join("ca.pem")).unwrap();
    let completed = Authority::load_or_create(&path, &cluster(), NOW).unwrap();
    assert_eq!(
        Authority::load(&path).unwrap().fingerprint(),
        completed.fingerprint()
    );
}

#[test]
fn the_key_of_another_ca_is_refused() {
    let (first, _) = authority();
    let (second, _) = authority();
    fs::copy(
        second.path().join("ca/ca.key"),
        first.path().join("ca/ca.key"),
    )
    .unwrap();
    assert!(matches!(
        Authority::load(&first.path().join("ca")),
        Err(Error::Certificate(_))
    ));
}

#[test]
fn a_node_gets_its_own_id_and_nothing_that_it_asked_for() {
    let (_dir, authority) = authority();
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(["weft".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    wish.subject_alt_names.push(SanType::URI(
        Ia5String::try_from("spiffe://home/user/admin").unwrap(),
    ));
    wish.distinguished_name.push(DnType::CommonName, "admin");
    wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = wish.serialize_request(&key).unwrap();

    let certificate = authority
        .sign_node_csr(request.der(), &node("n1"), DAY, NOW)
        .unwrap();
    assert_eq!(
        certificate.identity(&cluster()).unwrap(),
        Identity::Node(node("n1"))
    );
    let (_, parsed) = X509Certificate::from_der(certificate.der()).unwrap();
    let san = parsed.subject_alternative_name().unwrap().unwrap();
    assert_eq!(
        san.value.general_names,
        [GeneralName::URI("spiffe://home/node/n1")]
    );
    assert_eq!(parsed.subject().to_string(), "CN=n1");
    assert!(!parsed.is_ca());
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(
        usage.client_auth && !usage.server_auth && !usage.any,
        "{usage:?}"
    );
}

#[test]
fn a_request_whose_signature_is_wrong_is_refused() {
    let (_dir, authority) = authority();
    let mut request = PrivateKey::generate().unwrap().csr().unwrap();
    *request.last_mut().unwrap() ^= 1;
    let refused = authority.sign_node_csr(&request, &node("n1"), DAY, NOW);
    assert!(
        matches!(refused, Err(Error::SigningRequest(_))),
        "{refused:?}"
    );
    assert!(csr_public_key(&request).is_err());
}

#[test]
fn a_certificate_is_dated_back_a_little_and_has_a_serial_of_its_own() {
    let (_dir, authority) = authority();
    let request = PrivateKey::generate().unwrap().csr().unwrap();
    let sign = |validity, now| {
        authority
            .sign_node_csr(&request, &node("n1"), validity, now)
            .unwrap()
    };
    let (first, second) = (sign(DAY, NOW), sign(DAY, NOW));
    assert_ne!(first.serial(), second.serial());
    assert_eq!(first.public_key_hash(), second.public_key_hash());
    assert_eq!(first.not_before(), Timestamp(NOW.as_millis() - 300_000));
    assert_eq!(first.not_after(), NOW.plus(DAY));
    assert_eq!(first.validity(NOW), NodeValidity::Fresh);

    let short = sign(Duration::from_secs(20), NOW);
    assert!(
        short.renew_at() > NOW,
        "even a short certificate is not due for renewal at once"
    );
}

#[test]
fn no_certificate_outlives_the_ca() {
    let (_dir, authority) = authority();
    let century = DAY * 36_525;
    let admin = authority.issue_user("admin", century, NOW).unwrap();
    assert_eq!(
        admin.certificate.not_after(),
        authority.certificate().not_after()
    );
}

#[test]
fn a_server_certificate_carries_the_local_names_and_its_own_once() {
    let (_dir, authority) = authority();
    let own = ["box.lan", "192.168.1.20", "127.0.0.1"].map(str::to_owned);
    let server = authority.issue_server(&node("s1"), &own, DAY, NOW).unwrap();
    assert_eq!(server.identity().unwrap(), Identity::Server(node("s1")));
    assert_eq!(
        names(&server.certificate).len(),
        7,
        "{:?}",
        names(&server.certificate)
    );
    for bad in ["", "a b", "host:8443", "https://host", "ä.lan"] {
        let refused = authority.issue_server(&node("s1"), &[bad.to_owned()], DAY, NOW);
        assert!(matches!(refused, Err(Error::ServerName { .. })), "{bad:?}");
    }
}

#[test]
fn a_user_name_that_would_change_the_path_is_refused() {
    let (_dir, authority) = authority();
    for bad in ["", "..", "a/b", "a b", &"x".repeat(64)] {
        assert!(
            matches!(
                authority.issue_user(bad, DAY, NOW),
                Err(Error::UserName { .. })
            ),
            "{bad:?}"
        );
    }
}

#[test]
fn a_node_installs_only_a_certificate_of_its_own_key_and_ca() {
    let (dir, authority) = authority();
    let (_other_dir, other) = self::authority();
    let identity = NodeIdentity::load_or_generate_key(&dir.path().join("node")).unwrap();
    let ca = authority.certificate();
    let certificate = authority
        .sign_node_csr(&identity.csr().unwrap(), &node("n1"), DAY, NOW)
        .unwrap();

    let foreign_key = PrivateKey::generate().unwrap().csr().unwrap();
    let foreign = authority
        .sign_node_csr(&foreign_key, &node("n1"), DAY, NOW)
        .unwrap();
    assert!(identity.install(&foreign, ca).is_err());
    assert!(identity.install(&certificate, other.certificate()).is_err());
    assert!(identity.credentials().unwrap().is_none());

    identity.install(&certificate, ca).unwrap();
    let read = identity.credentials().unwrap().unwrap();
    assert_eq!(read.certificate, certificate);
    assert_eq!(read.identity().unwrap(), Identity::Node(node("n1")));
}

#[test]
fn credentials_are_read_back_only_whole() {
    let (dir, authority) = authority();
    let files = IdentityFiles::in_dir(dir.path().join("admin"));
    assert!(files.read().unwrap().is_none());
    files
        .write(&authority.issue_user("admin", DAY, NOW).unwrap())
        .unwrap();
    assert_eq!(
        files.read().unwrap().unwrap().identity().unwrap(),
        Identity::User("admin".to_owned())
    );
    fs::write(files.key(), PrivateKey::generate().unwrap().to_pem()).unwrap();
    assert!(
        matches!(files.read(), Err(Error::Certificate(_))),
        "a key of another certificate"
    );
}

#[test]
fn the_ca_certificate_is_nobodys_identity() {
    let (_dir, authority) = authority();
    assert_eq!(authority.certificate().cluster().unwrap(), cluster());
    assert!(authority.certificate().identity(&cluster()).is_err());
    let admin = authority.issue_user("admin", DAY, NOW).unwrap();
    assert!(admin.certificate.cluster().is_err());
    assert!(matches!(
        admin.certificate.identity(&"other".parse().unwrap()),
        Err(Error::OtherCluster { .. })
    ));
}

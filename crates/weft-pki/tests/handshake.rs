//! Real TLS handshakes between the configurations of this crate, over pipes in memory.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use weft_pki::{
    Authority, ClientTls, Credentials, Fingerprint, Identity, PEER_PROTOCOL, PeerTls, PrivateKey,
    ServerTls, explain_tls_error, peer_identity,
};
use weft_types::{NodeId, Timestamp};

const DAY: Duration = Duration::from_secs(86_400);
const PIPE_BYTES: usize = 64 * 1024;

/// TLS checks certificates against the real time.
fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    Timestamp(0).plus(since_epoch)
}

fn long_ago() -> Timestamp {
    Timestamp(now().as_millis() - 30 * 86_400_000)
}

fn id(text: &str) -> NodeId {
    text.parse().unwrap()
}

struct Cluster {
    authority: Authority,
    _dir: TempDir,
}

impl Cluster {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority =
            Authority::create(&dir.path().join("ca"), &name.parse().unwrap(), long_ago()).unwrap();
        Self {
            authority,
            _dir: dir,
        }
    }

    fn server(&self) -> Credentials {
        self.authority
            .issue_server(&id("s1"), &[], DAY, now())
            .unwrap()
    }

    fn node(&self, name: &str, issued: Timestamp) -> Credentials {
        let key = PrivateKey::generate().unwrap();
        let certificate = self
            .authority
            .sign_node_csr(&key.csr().unwrap(), &id(name), DAY, issued)
            .unwrap();
        Credentials {
            certificate,
            key,
            ca: self.authority.certificate().clone(),
        }
    }
}

type Ends = (
    io::Result<client::TlsStream<DuplexStream>>,
    io::Result<server::TlsStream<DuplexStream>>,
);

async fn handshake_as(name: &str, server: &ServerTls, client: Arc<rustls::ClientConfig>) -> Ends {
    let (near, far) = duplex(PIPE_BYTES);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let accept = async { TlsAcceptor::from(server.config()).accept(far).await };
    tokio::join!(TlsConnector::from(client).connect(name, near), accept)
}

async fn handshake(server: &ServerTls, client: &ClientTls) -> Ends {
    handshake_as("weft", server, client.config()).await
}

async fn identity_seen(
    server: &ServerTls,
    client: &ClientTls,
    cluster: &Cluster,
) -> Option<Identity> {
    let (client, server) = handshake(server, client).await;
    client.unwrap();
    peer_identity(
        server.unwrap().get_ref().1.peer_certificates(),
        cluster.authority.cluster(),
    )
    .unwrap()
}

#[tokio::test]
async fn a_node_is_recognised_by_its_certificate() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let client = ClientTls::with_identity(&home.node("n1", now())).unwrap();
    assert_eq!(
        identity_seen(&server, &client, &home).await,
        Some(Identity::Node(id("n1")))
    );
}

#[tokio::test]
async fn a_client_without_certificate_is_anonymous() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let client = ClientTls::ca_only(home.authority.certificate()).unwrap();
    assert_eq!(identity_seen(&server, &client, &home).await, None);
}

#[tokio::test]
async fn a_certificate_of_a_ca_of_the_same_name_is_refused() {
    let (home, impostor) = (Cluster::new("home"), Cluster::new("home"));
    let server = ServerTls::new(&home.server()).unwrap();
    let forged = Credentials {
        ca: home.authority.certificate().clone(),
        ..impostor.node("n1", now())
    };
    let (_, server) = handshake(&server, &ClientTls::with_identity(&forged).unwrap()).await;
    assert!(server.is_err());
}

#[tokio::test]
async fn an_expired_certificate_is_refused_and_the_client_learns_why() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let client = ClientTls::with_identity(&home.node("n1", long_ago())).unwrap();
    let (client, server) = handshake(&server, &client).await;
    assert!(server.is_err());
    // In TLS 1.3 the client has finished before the server refuses: it learns of it when it reads.
    let error = client.unwrap().read_u8().await.unwrap_err();
    let text = explain_tls_error(&error).unwrap_or_else(|| panic!("not explained: {error:?}"));
    assert!(text.contains("expired"), "{text}");
}

#[tokio::test]
async fn a_server_that_has_expired_or_is_of_another_cluster_is_refused_with_a_reason() {
    let (home, other) = (Cluster::new("home"), Cluster::new("other"));
    let client = ClientTls::ca_only(home.authority.certificate()).unwrap();
    let expired = home
        .authority
        .issue_server(&id("s1"), &[], DAY, long_ago())
        .unwrap();
    for (credentials, reason) in [(expired, "expired"), (other.server(), "another cluster")] {
        let (client, _) = handshake(&ServerTls::new(&credentials).unwrap(), &client).await;
        let text = explain_tls_error(&client.unwrap_err()).unwrap();
        assert!(text.contains(reason), "{text}");
    }
}

#[tokio::test]
async fn a_node_cannot_pose_as_a_server() {
    let home = Cluster::new("home");
    let posing = ServerTls::new(&home.node("n1", now())).unwrap();
    for client in [
        ClientTls::ca_only(home.authority.certificate()).unwrap(),
        ClientTls::pinned(home.authority.fingerprint()).unwrap(),
    ] {
        let (client, _) = handshake(&posing, &client).await;
        assert!(client.is_err());
    }
}

#[tokio::test]
async fn a_pinned_client_accepts_the_ca_with_that_fingerprint_at_any_address() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let client = ClientTls::pinned(home.authority.fingerprint()).unwrap();
    for address in ["weft", "203.0.113.9", "some.host.example"] {
        let (client, server) = handshake_as(address, &server, client.config()).await;
        assert!(client.is_ok() && server.is_ok(), "{address}");
    }
}

#[tokio::test]
async fn a_pinned_client_refuses_another_ca_and_says_which_it_expected() {
    let (home, other) = (Cluster::new("home"), Cluster::new("home"));
    let server = ServerTls::new(&other.server()).unwrap();
    let (client, _) = handshake(
        &server,
        &ClientTls::pinned(home.authority.fingerprint()).unwrap(),
    )
    .await;
    let text = explain_tls_error(&client.unwrap_err()).unwrap();
    assert!(
        text.contains(&home.authority.fingerprint().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn sending_the_pinned_ca_along_with_a_leaf_of_another_is_refused() {
    let (home, other) = (Cluster::new("home"), Cluster::new("home"));
    let mixed = Credentials {
        ca: home.authority.certificate().clone(),
        ..other.server()
    };
    let server = ServerTls::new(&mixed).unwrap();
    let (client, _) = handshake(
        &server,
        &ClientTls::pinned(home.authority.fingerprint()).unwrap(),
    )
    .await;
    assert!(client.is_err());
}

#[tokio::test]
async fn a_client_that_speaks_only_tls_1_2_is_refused() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(home.authority.certificate().der().to_vec().into())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = |version| {
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        Arc::new(
            builder
                .with_root_certificates(roots.clone())
                .with_no_client_auth(),
        )
    };
    // The same client with TLS 1.3 gets in, by an ordinary verifier: the version is what matters.
    for name in ["localhost", "127.0.0.1", "::1", "weft"] {
        assert!(
            handshake_as(name, &server, config(&rustls::version::TLS13))
                .await
                .0
                .is_ok(),
            "{name}"
        );
    }
    let (client, refused) =
        handshake_as("localhost", &server, config(&rustls::version::TLS12)).await;
    assert!(client.is_err() && refused.is_err());
}

#[tokio::test]
async fn renewed_certificates_are_used_by_the_next_connection_while_open_ones_stay() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let client = ClientTls::with_identity(&home.node("n1", now())).unwrap();
    let (before, before_server) = handshake(&server, &client).await;
    let (mut before, mut before_server) = (before.unwrap(), before_server.unwrap());

    let (new_server, new_node) = (home.server(), home.node("n2", now()));
    server.replace(&new_server).unwrap();
    client.replace(&new_node).unwrap();

    let (after, after_server) = handshake(&server, &client).await;
    let (after, after_server) = (after.unwrap(), after_server.unwrap());
    let presented = after.get_ref().1.peer_certificates().unwrap()[0].as_ref();
    assert_eq!(
        Fingerprint::of(presented),
        new_server.certificate.fingerprint()
    );
    let seen = after_server.get_ref().1.peer_certificates().unwrap()[0].as_ref();
    assert_eq!(Fingerprint::of(seen), new_node.certificate.fingerprint());

    before.write_all(b"still open").await.unwrap();
    before.flush().await.unwrap();
    let mut received = [0; 10];
    before_server.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"still open");
}

#[tokio::test]
async fn replacing_by_a_certificate_of_another_key_keeps_the_old_one() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let wrong = Credentials {
        key: PrivateKey::generate().unwrap(),
        ..home.server()
    };
    assert!(server.replace(&wrong).is_err());
    let client = ClientTls::ca_only(home.authority.certificate()).unwrap();
    assert!(handshake(&server, &client).await.0.is_ok());
}

#[tokio::test]
async fn both_sides_agree_on_http_2_and_never_resume_a_session() {
    let home = Cluster::new("home");
    let server = ServerTls::new(&home.server()).unwrap();
    let client = ClientTls::with_identity(&home.node("n1", now())).unwrap();
    for _ in 0..2 {
        let (client, _server) = handshake(&server, &client).await;
        let client = client.unwrap();
        assert_eq!(client.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        assert_eq!(
            client.get_ref().1.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
    }
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_is_explained() {
    let home = Cluster::new("home");
    let client = ClientTls::ca_only(home.authority.certificate()).unwrap();
    let (near, mut far) = duplex(PIPE_BYTES);
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let name = ServerName::try_from("weft").unwrap();
    let error = TlsConnector::from(client.config())
        .connect(name, near)
        .await
        .unwrap_err();
    let text = explain_tls_error(&error).unwrap_or_else(|| panic!("not explained: {error:?}"));
    assert!(text.contains("does not speak TLS"), "{text}");
}

async fn peer_handshake(accept: &PeerTls, dial: Arc<rustls::ClientConfig>) -> Ends {
    let (near, far) = duplex(PIPE_BYTES);
    let name = ServerName::try_from("weft").unwrap();
    let accept = async { TlsAcceptor::from(accept.accept_config()).accept(far).await };
    tokio::join!(TlsConnector::from(dial).connect(name, near), accept)
}

#[tokio::test]
async fn two_nodes_recognise_each_other() {
    let home = Cluster::new("home");
    let one = PeerTls::new(&home.node("n1", now())).unwrap();
    let two = PeerTls::new(&home.node("n2", now())).unwrap();
    let (client, server) = peer_handshake(&two, one.dial_config()).await;
    let (client, server) = (client.unwrap(), server.unwrap());
    let dialled = one.node(client.get_ref().1.peer_certificates()).unwrap();
    let caller = two.node(server.get_ref().1.peer_certificates()).unwrap();
    assert_eq!((dialled, caller), (id("n2"), id("n1")));
    assert_eq!(server.get_ref().1.alpn_protocol(), Some(PEER_PROTOCOL));
}

#[tokio::test]
async fn a_node_accepts_nobody_but_nodes_of_its_cluster() {
    let home = Cluster::new("home");
    let other = Cluster::new("home");
    let node = PeerTls::new(&home.node("n1", now())).unwrap();
    let user = home.authority.issue_user("admin", DAY, now()).unwrap();
    let refused = [
        ("a server", home.server()),
        ("a user", user),
        ("another CA", other.node("n2", now())),
        ("expired", home.node("n2", long_ago())),
    ];
    for (who, credentials) in refused {
        let dial = PeerTls::new(&credentials).unwrap().dial_config();
        let (_, accepted) = peer_handshake(&node, dial).await;
        assert!(accepted.is_err(), "{who}");
    }
    let anonymous = ClientTls::ca_only(home.authority.certificate()).unwrap();
    let (_, accepted) = peer_handshake(&node, anonymous.config()).await;
    assert!(accepted.is_err(), "no certificate");
}

#[tokio::test]
async fn a_node_dials_nobody_but_nodes_of_its_cluster() {
    let home = Cluster::new("home");
    let other = Cluster::new("home");
    let node = PeerTls::new(&home.node("n1", now())).unwrap();
    let refused = [
        ("a server", home.server()),
        ("another CA", other.node("n2", now())),
        ("expired", home.node("n2", long_ago())),
    ];
    for (who, credentials) in refused {
        let accept = PeerTls::new(&credentials).unwrap();
        let (dialled, _) = peer_handshake(&accept, node.dial_config()).await;
        assert!(dialled.is_err(), "{who}");
    }
}

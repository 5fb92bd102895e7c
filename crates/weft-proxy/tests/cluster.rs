//! Several nodes: replicas elsewhere, who is let in, strangers and garbage.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use futures::{SinkExt, StreamExt};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use weft_pki::{ClientTls, PeerTls};
use weft_proxy::{Limits, Options, Proxy};
use weft_types::Protocol;

/// Two nodes of which the second has the only replica, number 2.
struct Two {
    ca: Ca,
    front: Proxy,
    back: Proxy,
    port: u16,
    placed: Vec<Placed>,
}

impl Two {
    async fn new(protocol: Protocol, replica: &Replica) -> Self {
        let ca = Ca::new();
        let (front, back) = (ca.proxy("n1").await, ca.proxy("n2").await);
        let placed = vec![Placed {
            number: 2,
            node: "n2",
            peer: back.peer_port().map(loopback),
        }];
        let two = Self {
            port: free_port(),
            ca,
            front,
            back,
            placed,
        };
        two.set_members(&["n1", "n2"]);
        two.back.set_local(unit(2), ready(replica.address));
        two.front.set_table(table(two.port, protocol, &two.placed));
        two
    }

    fn set_members(&self, names: &[&str]) {
        for proxy in [&self.front, &self.back] {
            proxy.set_members(names.iter().map(|name| node(name)));
        }
    }

    fn peer_port(&self) -> u16 {
        self.back.peer_port().unwrap()
    }
}

#[tokio::test]
async fn a_request_reaches_a_replica_of_another_node_and_counts_there_once() {
    let replica = Replica::http(2).await;
    let two = Two::new(Protocol::Http, &replica).await;
    let mut client = Client::connect(two.port).await;
    for _ in 0..20 {
        let answer = client.post("hello").await.unwrap();
        assert_eq!(answer.text(), "2 POST / HTTP/1.1 5");
        assert!(
            answer
                .header("x-saw")
                .unwrap()
                .contains("x-forwarded-for: 127.0.0.1")
        );
    }
    assert_eq!(two.back.counts()[&unit(2)].requests, 20);
    assert!(two.front.counts().is_empty());
    // Connections between nodes are used again, though one that is still busy with the last answer
    // may make another necessary.
    let accepted = two.back.metrics().peers_accepted;
    assert!(accepted <= 5, "{accepted} connections for 20 requests");
}

#[tokio::test]
async fn bytes_and_their_end_pass_between_nodes() {
    let replica = Replica::echo(2).await;
    let two = Two::new(Protocol::Tcp, &replica).await;
    let mut stream = Client::connect(two.port).await.stream.into_inner();
    let text = "x".repeat(1 << 20);
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, text + " from 2");
    assert_eq!(two.back.counts()[&unit(2)].connections, 1);
}

#[tokio::test]
async fn a_websocket_passes_between_nodes() {
    let replica = Replica::start(|stream, _| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(frame)) = socket.next().await {
            if frame.is_text() && socket.send(frame).await.is_err() {
                return;
            }
        }
    })
    .await;
    let two = Two::new(Protocol::Http, &replica).await;
    let stream = Client::connect(two.port).await.stream.into_inner();
    let url = format!("ws://127.0.0.1:{}/", two.port);
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    socket.send(Frame::text("hi")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("hi"));
    // A node that is removed loses what it has open, too.
    two.set_members(&["n1"]);
    let ended = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap();
    assert!(!matches!(ended, Some(Ok(Frame::Text(_)))));
}

#[tokio::test]
async fn a_removed_node_is_not_let_in_and_not_dialled() {
    let replica = Replica::http(2).await;
    let two = Two::new(Protocol::Http, &replica).await;
    assert!(get(two.port).await.first.contains("200"));
    two.back.set_members([node("n2")]);
    let answer = get(two.port).await;
    assert!(answer.first.contains("502"), "{answer:?}");
    assert_eq!(replica.served(), 1);
    let refused = two.back.metrics().peers_refused;
    assert!(refused > 0);
    two.front.set_members([node("n1")]);
    assert!(get(two.port).await.first.contains("502"));
    assert_eq!(two.back.metrics().peers_refused, refused);
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_a_wrong_node_at_an_address_is_not() {
    let replica = Replica::http(2).await;
    let two = Two::new(Protocol::Http, &replica).await;
    let tls = two.ca.tls("n3");
    let mut options = two.ca.options("n3");
    options.peers.as_mut().unwrap().tls = tls.clone();
    let third = Proxy::start(options).await.unwrap();
    two.set_members(&["n1", "n2", "n3"]);
    third.set_members(["n1", "n2", "n3"].map(node));
    let port = free_port();
    let mut placed = two.placed.clone();
    third.set_table(table(port, Protocol::Http, &placed));
    tls.replace(&two.ca.credentials("n3")).unwrap();
    assert!(get(port).await.first.contains("200"));
    placed[0].node = "n1";
    third.set_table(table(port, Protocol::Http, &placed));
    let answer = get(port).await;
    assert!(answer.first.contains("502"), "{answer:?}");
    assert!(
        answer.text().contains("not the proxy of n1"),
        "{}",
        answer.text()
    );
}

async fn dial(
    port: u16,
    config: Arc<tokio_rustls::rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(loopback(port)).await?;
    let name = ServerName::try_from("weft").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// A well-formed hello for unit 2, and a request.
fn hello() -> Vec<u8> {
    let mut hello = b"weft\x01\x02".to_vec();
    hello.extend(WORKLOAD.0.to_be_bytes());
    hello.extend(2u32.to_be_bytes());
    hello.extend(TARGET.to_be_bytes());
    hello.extend(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    hello
}

/// What the port for nodes answers to whoever comes with this configuration.
async fn answers(port: u16, config: Arc<tokio_rustls::rustls::ClientConfig>) -> Vec<u8> {
    let mut got = Vec::new();
    if let Ok(mut stream) = dial(port, config).await {
        let _ = stream.write_all(&hello()).await;
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut got));
        let _ = read.await.unwrap();
    }
    got
}

#[tokio::test]
async fn whoever_is_no_node_of_the_cluster_gets_nothing() {
    let replica = Replica::http(2).await;
    let two = Two::new(Protocol::Http, &replica).await;
    let port = two.peer_port();
    let node_of_ours = two.ca.tls("n1").dial_config();
    assert_eq!(
        answers(port, node_of_ours).await[0],
        0,
        "a member is let in"
    );
    until("its request is served", || replica.served() == 1).await;
    let foreign = Ca::new();
    let authority = &two.ca.authority;
    let day = Duration::from_secs(86_400);
    let user = authority.issue_user("admin", day, now()).unwrap();
    let server = authority
        .issue_server(&node("n1"), &[], day, now())
        .unwrap();
    let peer = |credentials| PeerTls::new(credentials).unwrap().dial_config();
    let anonymous = ClientTls::ca_only(authority.certificate())
        .unwrap()
        .config();
    let mut other_protocol = (*two.ca.tls("n1").dial_config()).clone();
    other_protocol.alpn_protocols = Vec::new();
    for (who, config) in [
        (
            "another CA's node of the same name",
            foreign.tls("n1").dial_config(),
        ),
        ("a user", peer(&user)),
        ("a server", peer(&server)),
        ("nobody", anonymous),
        ("a node that is no member", two.ca.tls("n9").dial_config()),
        ("a member with another protocol", Arc::new(other_protocol)),
    ] {
        assert_eq!(answers(port, config).await, b"", "{who}");
    }
    assert_eq!(replica.served(), 1);
}

#[tokio::test]
async fn a_node_is_given_nothing_but_ready_replicas_of_the_node_it_asks() {
    let replica = Replica::http(2).await;
    let two = Two::new(Protocol::Http, &replica).await;
    let elsewhere = Replica::http(3).await;
    two.front.set_local(unit(3), ready(elsewhere.address));
    // The second node's table knows replica 3 of the first: it is not passed on to.
    let mut placed = two.placed.clone();
    placed[0].number = 3;
    placed[0].node = "n1";
    placed[0].peer = two.front.peer_port().map(loopback);
    two.back
        .set_table(table(free_port(), Protocol::Http, &placed));
    let asked = async |kind: u8, number: u32| {
        let config = two.ca.tls("n1").dial_config();
        let mut stream = dial(two.peer_port(), config).await.unwrap();
        let mut hello = hello();
        hello[5] = kind;
        hello[14..18].copy_from_slice(&number.to_be_bytes());
        stream.write_all(&hello[..20]).await.unwrap();
        stream.read_u8().await.unwrap()
    };
    assert_eq!(asked(2, 2).await, 0);
    assert_eq!(asked(2, 3).await, 1, "of another node");
    assert_eq!(asked(9, 2).await, 4, "malformed");
    two.back.drain(unit(2), Duration::ZERO).await;
    assert_eq!(asked(1, 2).await, 2, "draining");
    assert_eq!(elsewhere.served(), 0);
}

#[tokio::test]
async fn garbage_on_every_listener_harms_nobody() {
    let replica = Replica::http(2).await;
    let two = Two::new(Protocol::Http, &replica).await;
    let echo = Replica::echo(5).await;
    let tcp = free_port();
    let mut ports = table(two.port, Protocol::Http, &two.placed);
    let mut extra = two.placed.clone();
    extra[0].node = "n1";
    extra[0].number = 5;
    ports.extend(table(tcp, Protocol::Tcp, &extra));
    two.front.set_local(unit(5), ready(echo.address));
    two.front.set_table(ports);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..60 {
        let mut bytes: Vec<u8> = (0..round * 7)
            .map(|_| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random as u8
            })
            .collect();
        if round % 3 == 0 {
            bytes.splice(
                0..0,
                *b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n",
            );
        }
        for port in [two.port, tcp, two.peer_port()] {
            let mut stream = Client::connect(port).await.stream.into_inner();
            let _ = stream.write_all(&bytes).await;
            drop(stream);
        }
        let config = two.ca.tls("n1").dial_config();
        let mut node = dial(two.peer_port(), config).await.unwrap();
        let _ = node.write_all(&bytes).await;
    }
    let mut client = Client::connect(two.port).await;
    for smuggled in [
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : a\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        let answer = client.send(smuggled).await.unwrap();
        assert!(
            answer.first.starts_with("HTTP/1.1 4"),
            "{smuggled}: {answer:?}"
        );
        client = Client::connect(two.port).await;
    }
    assert!(client.get("/").await.unwrap().first.contains("200"));
    until("all connections have ended but the client's", || {
        two.front.metrics().connections_open <= 1
    })
    .await;
}

#[tokio::test]
async fn without_certificates_no_other_node_is_used() {
    let replica = Replica::http(2).await;
    let two = Two::new(Protocol::Http, &replica).await;
    let alone = Proxy::start(Options {
        listen: Some([127, 0, 0, 1].into()),
        limits: Limits {
            ready_wait: Duration::from_millis(50),
            ..Limits::default()
        },
        ..Options::new(node("n4"))
    })
    .await
    .unwrap();
    let port = free_port();
    alone.set_table(table(port, Protocol::Http, &two.placed));
    assert!(get(port).await.first.contains("503"));
    assert_eq!(alone.peer_port(), None);
}

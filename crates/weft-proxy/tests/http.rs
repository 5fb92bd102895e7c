//! HTTP on published ports of one node.

mod common;

use std::time::{Duration, Instant};

use common::*;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message as Frame;
use weft_proxy::{Limits, Options, Proxy};
use weft_types::Protocol;

async fn proxy() -> Proxy {
    Proxy::start(options()).await.unwrap()
}

async fn limited(limits: Limits) -> Proxy {
    let options = Options {
        limits,
        ..options()
    };
    Proxy::start(options).await.unwrap()
}

fn options() -> Options {
    Options {
        listen: Some([127, 0, 0, 1].into()),
        ..Options::new(node("n1"))
    }
}

fn here(number: u32) -> Placed {
    Placed {
        number,
        node: "n1",
        peer: None,
    }
}

/// A proxy with one port and replicas of this node.
async fn serving(replicas: &[&Replica]) -> (Proxy, u16) {
    let (proxy, port) = (proxy().await, free_port());
    let mut placed = Vec::new();
    for (replica, number) in replicas.iter().zip(1..) {
        proxy.set_local(unit(number), ready(replica.address));
        placed.push(here(number));
    }
    proxy.set_table(table(port, Protocol::Http, &placed));
    (proxy, port)
}

#[tokio::test]
async fn requests_over_one_connection_go_to_all_replicas_and_are_counted() {
    let (one, two) = (Replica::http(1).await, Replica::http(2).await);
    let (proxy, port) = serving(&[&one, &two]).await;
    let mut client = Client::connect(port).await;
    for _ in 0..60 {
        let answer = client.get("/a?b=c").await.unwrap();
        assert_eq!(answer.first, "HTTP/1.1 200 OK");
        assert!(
            answer.text().ends_with(" GET /a?b=c HTTP/1.1 0"),
            "{answer:?}"
        );
    }
    assert!(one.served() > 5 && two.served() > 5);
    let counts = proxy.counts();
    assert_eq!(counts[&unit(1)].requests, one.served());
    assert_eq!(counts[&unit(2)].requests, two.served());
    assert!(counts[&unit(1)].bytes_in > 100 && counts[&unit(1)].bytes_out > 100);
    until("nothing in flight", || {
        proxy.counts().values().all(|counts| counts.in_flight == 0)
    })
    .await;
}

#[tokio::test]
async fn a_replica_sees_who_asked_and_nothing_that_is_for_one_hop() {
    let one = Replica::http(1).await;
    let (_proxy, port) = serving(&[&one]).await;
    let request = "GET / HTTP/1.1\r\nhost: web.lan\r\nconnection: x-hop\r\nx-hop: 1\r\n\
                   x-forwarded-for: 10.9.9.9\r\n\r\n";
    let answer = Client::connect(port).await.send(request).await.unwrap();
    let saw = answer.header("x-saw").unwrap();
    assert!(saw.contains("x-forwarded-for: 127.0.0.1"), "{saw}");
    assert!(saw.contains("x-forwarded-host: web.lan"), "{saw}");
    assert!(saw.contains("x-forwarded-proto: http"), "{saw}");
    assert!(!saw.contains("x-hop") && !saw.contains("10.9.9.9"), "{saw}");
}

#[tokio::test]
async fn bodies_stream_in_both_ways_of_framing() {
    let one = Replica::http(1).await;
    let (_proxy, port) = serving(&[&one]).await;
    let mut client = Client::connect(port).await;
    let large = "x".repeat(3 << 20);
    let answer = client.post(&large).await.unwrap();
    assert_eq!(answer.text(), format!("1 POST / HTTP/1.1 {}", 3 << 20));
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n";
    let answer = client.send(chunked).await.unwrap();
    assert_eq!(answer.text(), "1 POST / HTTP/1.1 8");
}

#[tokio::test]
async fn an_answer_arrives_piece_by_piece() {
    let replica = Replica::start(|mut stream, _| async move {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        // The second piece comes only once the client has answered the first.
        std::future::pending::<()>().await;
    })
    .await;
    let (_proxy, port) = serving(&[&replica]).await;
    let mut client = Client::connect(port).await;
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.stream.write_all(request).await.unwrap();
    let mut got = String::new();
    while !got.contains("one") {
        let mut bytes = [0; 1024];
        let read = tokio::time::timeout(DEADLINE, client.stream.read(&mut bytes));
        let length = read.await.unwrap().unwrap();
        got.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
}

#[tokio::test]
async fn a_websocket_passes_and_is_a_connection_of_its_replica() {
    let replica = Replica::start(|stream, _| async move {
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        while let Some(Ok(frame)) = socket.next().await {
            if frame.is_text() && socket.send(frame).await.is_err() {
                return;
            }
        }
    })
    .await;
    let (proxy, port) = serving(&[&replica]).await;
    let stream = Client::connect(port).await.stream.into_inner();
    let url = format!("ws://127.0.0.1:{port}/chat");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    for text in ["one", "two"] {
        socket.send(Frame::text(text)).await.unwrap();
        let echoed = socket.next().await.unwrap().unwrap();
        assert_eq!(echoed, Frame::text(text));
    }
    let counts = proxy.counts()[&unit(1)];
    assert_eq!((counts.connections, counts.in_flight), (1, 1));
    let drained = proxy.drain(unit(1), Duration::from_millis(20)).await;
    assert_eq!(drained.remaining, 1);
    proxy.remove_local(unit(1));
    assert!(!matches!(socket.next().await, Some(Ok(Frame::Text(_)))));
}

#[tokio::test]
async fn without_a_ready_replica_a_request_waits_and_is_then_told_so() {
    let (proxy, port) = (
        Proxy::start(Options {
            limits: Limits {
                ready_wait: Duration::from_millis(200),
                ..Limits::default()
            },
            ..options()
        })
        .await
        .unwrap(),
        free_port(),
    );
    proxy.set_table(table(port, Protocol::Http, &[here(1)]));
    let asked = Instant::now();
    let answer = get(port).await;
    assert!(asked.elapsed() >= Duration::from_millis(200));
    assert!(answer.first.contains("503"), "{}", answer.first);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert!(answer.text().contains("service web"), "{}", answer.text());
    assert!(
        answer.text().contains("weft explain web"),
        "{}",
        answer.text()
    );
    assert_eq!(proxy.metrics().requests_unserved, 1);
}

#[tokio::test]
async fn a_request_waits_for_a_replica_that_becomes_ready() {
    let limits = Limits {
        ready_wait: DEADLINE,
        ..Limits::default()
    };
    let (proxy, port) = (limited(limits).await, free_port());
    proxy.set_table(table(port, Protocol::Http, &[here(1)]));
    let replica = Replica::http(1).await;
    let asked = tokio::spawn(get(port));
    until("the request is there", || proxy.metrics().requests == 1).await;
    proxy.set_local(unit(1), ready(replica.address));
    assert!(asked.await.unwrap().first.contains("200"));
}

#[tokio::test]
async fn a_replica_that_breaks_off_loses_no_idempotent_request_and_runs_no_other_twice() {
    let bad = Replica::start(|mut stream, served| async move {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    })
    .await;
    let good = Replica::http(2).await;
    let (proxy, port) = serving(&[&bad, &good]).await;
    while bad.served() == 0 {
        assert!(get(port).await.first.contains("200"));
    }
    proxy.set_local(unit(2), Default::default());
    let before = bad.served();
    let mut client = Client::connect(port).await;
    let answer = client.post("pay").await.unwrap();
    assert!(answer.first.contains("502"), "{}", answer.first);
    assert_eq!(bad.served(), before + 1);
}

#[tokio::test]
async fn a_slow_client_blocks_nobody() {
    let one = Replica::http(1).await;
    let (_proxy, port) = serving(&[&one]).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(port).await;
        let half = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhal";
        client.stream.write_all(half).await.unwrap();
        slow.push(client);
    }
    assert!(get(port).await.first.contains("200"));
}

#[tokio::test]
async fn heads_and_pauses_are_bounded() {
    let one = Replica::http(1).await;
    let limits = Limits {
        body_pause: Duration::from_millis(100),
        answer: Duration::from_millis(300),
        ..Limits::default()
    };
    let (proxy, port) = (limited(limits).await, free_port());
    proxy.set_local(unit(1), ready(one.address));
    proxy.set_table(table(port, Protocol::Http, &[here(1)]));
    let mut client = Client::connect(port).await;
    let huge = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "y".repeat(70_000)
    );
    assert!(client.send(&huge).await.unwrap().first.contains("431"));
    let mut client = Client::connect(port).await;
    let paused = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhal";
    assert!(client.send(paused).await.unwrap().first.contains("408"));
    let slow = Replica::http_after(1, Duration::from_secs(60)).await;
    proxy.set_local(unit(1), ready(slow.address));
    assert!(get(port).await.first.contains("504"));
}

#[tokio::test]
async fn half_a_head_is_not_waited_for() {
    let limits = Limits {
        head: Duration::from_millis(100),
        ..Limits::default()
    };
    let (proxy, port) = (limited(limits).await, free_port());
    proxy.set_table(table(port, Protocol::Http, &[here(1)]));
    let mut client = Client::connect(port).await;
    client.stream.write_all(b"GET / HT").await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(DEADLINE, client.stream.read_to_end(&mut rest));
    closed.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_leaves_the_table_ends_after_the_request_that_runs() {
    let one = Replica::http_after(1, Duration::from_secs(2)).await;
    let (proxy, port) = serving(&[&one]).await;
    let mut client = Client::connect(port).await;
    let running = tokio::spawn(async move { client.get("/").await });
    until("the request is there", || proxy.metrics().requests == 1).await;
    until("it is in flight", || {
        proxy.counts()[&unit(1)].in_flight == 1
    })
    .await;
    proxy.set_table(Vec::new());
    assert!(running.await.unwrap().unwrap().first.contains("200"));
    until("the port is free", || {
        std::net::TcpListener::bind(loopback(port)).is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_port_answers_over_ipv4_and_ipv6_and_names_the_client_plainly() {
    let one = Replica::http(1).await;
    let proxy = Proxy::start(Options::new(node("n1"))).await.unwrap();
    let port = free_port();
    proxy.set_local(unit(1), ready(one.address));
    proxy.set_table(table(port, Protocol::Http, &[here(1)]));
    let answer = get(port).await;
    let saw = answer.header("x-saw").unwrap();
    assert!(saw.contains("x-forwarded-for: 127.0.0.1"), "{saw}");
    let Ok(stream) = tokio::net::TcpStream::connect(("::1", port)).await else {
        return println!("skipped: needs IPv6");
    };
    let stream = tokio::io::BufReader::new(stream);
    let answer = Client { stream }.get("/").await.unwrap();
    assert!(
        answer
            .header("x-saw")
            .unwrap()
            .contains("x-forwarded-for: ::1")
    );
}

#[tokio::test]
async fn an_answer_without_a_body_keeps_its_length_and_its_connection() {
    let replica = Replica::start(|mut stream, served| async move {
        let mut head = [0; 1024];
        while stream.read(&mut head).await.is_ok_and(|read| read > 0) {
            served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nweft-refused: unsent\r\n\r\n";
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    let (_proxy, port) = serving(&[&replica]).await;
    let mut client = Client::connect(port).await;
    for _ in 0..3 {
        let request = b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n";
        client.stream.write_all(request).await.unwrap();
        let mut got = String::new();
        while !got.ends_with("\r\n\r\n") {
            let mut bytes = [0; 1024];
            let read = tokio::time::timeout(DEADLINE, client.stream.read(&mut bytes));
            let length = read.await.unwrap().unwrap();
            assert!(length > 0, "{got}");
            got.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
        }
        assert!(got.contains("content-length: 5"), "{got}");
        // What nodes say to each other is nothing that a replica can say.
        assert!(!got.contains("weft-refused"), "{got}");
    }
    assert_eq!(replica.served(), 3);
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_send_its_body() {
    let one = Replica::http(1).await;
    let (_proxy, port) = serving(&[&one]).await;
    let mut client = Client::connect(port).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n";
    assert!(client.send(head).await.unwrap().first.contains("100"));
    let answer = client.send("hi").await.unwrap();
    assert_eq!(answer.text(), "1 POST / HTTP/1.1 2");
}

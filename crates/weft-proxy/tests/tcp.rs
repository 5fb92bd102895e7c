//! TCP on published ports of one node, and the ports themselves.

mod common;

use std::time::Duration;

use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use weft_proxy::{Error, Limits, Options, Proxy};
use weft_types::Protocol;

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

async fn serving(options: Options, replicas: &[&Replica]) -> (Proxy, u16) {
    let (proxy, port) = (Proxy::start(options).await.unwrap(), free_port());
    let mut placed = Vec::new();
    for (replica, number) in replicas.iter().zip(1..) {
        proxy.set_local(unit(number), ready(replica.address));
        placed.push(here(number));
    }
    proxy.set_table(table(port, Protocol::Tcp, &placed));
    (proxy, port)
}

async fn connect(port: u16) -> TcpStream {
    Client::connect(port).await.stream.into_inner()
}

/// Says something, ends, and reads the rest.
async fn converse(mut stream: TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await??;
    Ok(answer)
}

#[tokio::test]
async fn the_end_of_one_direction_passes_while_the_other_goes_on() {
    let replica = Replica::echo(1).await;
    let (proxy, port) = serving(options(), &[&replica]).await;
    let answer = converse(connect(port).await, "hello").await.unwrap();
    assert_eq!(answer, "hello from 1");
    let large = "x".repeat(2 << 20);
    let answer = converse(connect(port).await, &large).await.unwrap();
    assert_eq!(answer.len(), large.len() + " from 1".len());
    let counts = proxy.counts()[&unit(1)];
    assert_eq!(counts.connections, 2);
    assert_eq!(counts.bytes_in, 5 + (2 << 20));
    assert_eq!(counts.bytes_out, counts.bytes_in + 14);
}

#[tokio::test]
async fn a_replica_that_refuses_is_passed_over() {
    let (one, two) = (Replica::echo(1).await, Replica::echo(2).await);
    one.kill();
    until("it refuses", || {
        std::net::TcpStream::connect(one.address).is_err()
    })
    .await;
    let (proxy, port) = serving(options(), &[&one, &two]).await;
    for _ in 0..10 {
        let answer = converse(connect(port).await, "a").await.unwrap();
        assert_eq!(answer, "a from 2");
    }
    assert_eq!(proxy.metrics().connections_failed, 0);
}

#[tokio::test]
async fn a_replica_that_does_not_listen_yet_is_tried_again() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(loopback(0)).unwrap();
    let limits = Limits {
        ready_wait: DEADLINE,
        ..Limits::default()
    };
    let proxy = Proxy::start(Options {
        limits,
        ..options()
    });
    let (proxy, port) = (proxy.await.unwrap(), free_port());
    proxy.set_local(unit(1), ready(socket.local_addr().unwrap()));
    proxy.set_table(table(port, Protocol::Tcp, &[here(1)]));
    let client = tokio::spawn(async move { converse(connect(port).await, "a").await });
    until("it was refused", || proxy.metrics().retries > 0).await;
    let listener = socket.listen(1).unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    stream.write_all(b"late").await.unwrap();
    drop(stream);
    assert_eq!(
        (said.as_str(), client.await.unwrap().unwrap().as_str()),
        ("a", "late")
    );
}

#[tokio::test]
async fn connections_go_where_the_fewest_are_and_a_drain_waits_for_them() {
    let (one, two) = (Replica::echo(1).await, Replica::echo(2).await);
    let (proxy, port) = serving(options(), &[&one, &two]).await;
    let (held, _other) = (connect(port).await, connect(port).await);
    until("both have one", || one.served() == 1 && two.served() == 1).await;
    let bound = Duration::from_millis(30);
    assert_eq!(proxy.drain(unit(1), bound).await.remaining, 1);
    for _ in 0..5 {
        let answer = converse(connect(port).await, "a").await.unwrap();
        assert_eq!(answer, "a from 2");
    }
    assert!(converse(held, "bye").await.is_ok());
    let ends = |unit| proxy.drain(unit, DEADLINE);
    // Which of the two was first is up to chance.
    let first = tokio::time::timeout(DEADLINE, ends(unit(1)));
    drop(_other);
    assert_eq!(first.await.unwrap().remaining, 0);
}

#[tokio::test]
async fn a_client_beyond_the_bound_is_closed_and_counted() {
    let replica = Replica::echo(1).await;
    let limits = Limits {
        port_connections: 1,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..options()
    };
    let (proxy, port) = serving(options, &[&replica]).await;
    let first = connect(port).await;
    until("it is through", || replica.served() == 1).await;
    let second = converse(connect(port).await, "a").await;
    assert!(second.is_err() || second.unwrap().is_empty());
    assert_eq!(proxy.metrics().connections_refused, 1);
    assert_eq!(converse(first, "a").await.unwrap(), "a from 1");
}

#[tokio::test]
async fn a_broken_connection_does_not_look_like_one_that_ended() {
    let broke = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = broke.clone();
    let replica = Replica::start(move |mut stream, served| {
        let seen = seen.clone();
        async move {
            let mut got = Vec::new();
            let _ = stream.read_buf(&mut got).await;
            served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let end = stream.read_to_end(&mut got).await;
            seen.store(end.is_err(), std::sync::atomic::Ordering::SeqCst);
            served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    })
    .await;
    let (_proxy, port) = serving(options(), &[&replica]).await;
    let mut stream = connect(port).await;
    stream.write_all(b"half a mess").await.unwrap();
    until("it has something", || replica.served() == 1).await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    until("it has ended", || replica.served() == 2).await;
    assert!(broke.load(std::sync::atomic::Ordering::SeqCst));
}

#[tokio::test]
async fn a_port_of_another_process_is_told_and_taken_when_it_is_free() {
    // Held also once the foreign listener is gone, so that nobody else is given it.
    let port = free_port();
    let foreign = std::net::TcpListener::bind(loopback(port)).unwrap();
    let replica = Replica::echo(1).await;
    let proxy = Proxy::start(options()).await.unwrap();
    let mut errors = proxy.errors();
    proxy.set_local(unit(1), ready(replica.address));
    proxy.set_table(table(port, Protocol::Tcp, &[here(1)]));
    let told = tokio::time::timeout(DEADLINE, errors.wait_for(|errors| !errors.is_empty()));
    let told = told.await.unwrap().unwrap()[0].clone();
    assert_eq!((told.port, told.workload), (port, WORKLOAD));
    assert!(told.text.contains("another process"), "{}", told.text);
    drop(foreign);
    let free = tokio::time::timeout(DEADLINE, errors.wait_for(Vec::is_empty));
    free.await.unwrap().unwrap();
    let answer = converse(connect(port).await, "a").await.unwrap();
    assert_eq!(answer, "a from 1");
}

#[tokio::test]
async fn two_proxies_of_one_machine_share_a_port_and_two_services_do_not() {
    let replica = Replica::echo(1).await;
    let (one, port) = serving(options(), &[&replica]).await;
    let two = Proxy::start(options()).await.unwrap();
    two.set_local(unit(1), ready(replica.address));
    let mut ports = table(port, Protocol::Tcp, &[here(1)]);
    ports.extend(table(port, Protocol::Tcp, &[here(1)]));
    ports[1].name = "other".to_owned();
    two.set_table(ports);
    until("both listen", || {
        one.metrics().ports_listening + two.metrics().ports_listening == 2
    })
    .await;
    assert!(one.errors().borrow().is_empty());
    let told = two.errors().borrow().clone();
    assert_eq!(told.len(), 1);
    assert!(
        told[0]
            .text
            .contains("service other belongs to service web")
    );
}

#[tokio::test]
async fn a_port_can_be_forwarded_published_or_not_ready_or_not() {
    let replica = Replica::echo(1).await;
    let proxy = Proxy::start(options()).await.unwrap();
    let mut local = ready(replica.address);
    local.ready = false;
    proxy.set_local(unit(1), local);
    let mut stream = proxy.connect(unit(1), TARGET).await.unwrap();
    stream.write_all(b"hi").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "hi from 1");
    let refused = proxy.connect(unit(1), 1).await.unwrap_err();
    assert!(matches!(refused, Error::NoSuchTarget { .. }), "{refused}");
    let refused = proxy.connect(unit(2), TARGET).await.unwrap_err();
    assert!(matches!(refused, Error::NoSuchUnit { .. }), "{refused}");
}

#[tokio::test]
async fn a_shutdown_closes_everything() {
    let replica = Replica::echo(1).await;
    let (proxy, port) = serving(options(), &[&replica]).await;
    let mut open = connect(port).await;
    until("it is through", || replica.served() == 1).await;
    proxy.shutdown().await;
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, open.read_to_end(&mut rest));
    let _ = ended.await.unwrap();
    assert!(std::net::TcpListener::bind(loopback(port)).is_ok());
}

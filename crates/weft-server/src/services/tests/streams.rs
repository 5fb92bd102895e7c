//! Commands, ports and output of units, over a real WebSocket.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::{Method, StatusCode};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use weft_proto::v1;

use super::agent::client;
use super::{Agent, apply, call, show, start, until, web};
use crate::listener::{Security, serve};
use crate::rest;
use crate::state::Server as State;

/// A door without TLS for the WebSockets of a test.
async fn door(state: &Arc<State>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let router = rest::router(Arc::clone(state));
    let stopping = state.stopping.clone();
    tokio::spawn(serve(
        listener,
        Security::InsecureLoopback,
        router,
        stopping,
    ));
    address
}

async fn socket(address: SocketAddr, path: &str) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    let url = format!("ws://{address}/v1/workloads/{path}");
    let (socket, _) = tokio_tungstenite::client_async(url, stream)
        .await
        .expect("a WebSocket");
    socket
}

async fn next(socket: &mut WebSocketStream<TcpStream>) -> Option<Vec<u8>> {
    while let Some(Ok(message)) = socket.next().await {
        match message {
            Message::Binary(bytes) => return Some(bytes.to_vec()),
            Message::Close(_) => return None,
            _ => {}
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_ports_reach_into_units() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let _one = Agent::join(state, "one").await;
    apply(state, &web("web:1", 1)).await;
    show(state, "web?wait=120s&for=healthy").await;
    let address = door(state).await;

    let mut exec = socket(address, "web/exec?command=sh&command=-c&tty=true").await;
    let send = |bytes: &[u8]| Message::binary(bytes.to_vec());
    exec.send(send(b"\x00ls")).await.expect("sent");
    assert_eq!(next(&mut exec).await.as_deref(), Some(b"\x01LS".as_slice()));
    exec.send(send(b"\x04{\"width\":80,\"height\":24}"))
        .await
        .expect("sent");
    assert_eq!(
        next(&mut exec).await.as_deref(),
        Some(b"\x0280x24".as_slice())
    );
    exec.send(send(b"\x00")).await.expect("sent");
    let end = next(&mut exec).await.expect("the end");
    assert_eq!(end[0], 3);
    let end: Value = serde_json::from_slice(&end[1..]).expect("JSON");
    assert_eq!(end, json!({ "exit_code": 7 }));
    assert_eq!(next(&mut exec).await, None);

    let mut port = socket(address, "web/port-forward?port=80").await;
    for size in [1, 70_000, 1_000_000] {
        let data = vec![42; size];
        port.send(send(&data)).await.expect("sent");
        assert_eq!(next(&mut port).await, Some(data));
    }
    drop(port);
    for (path, field) in [
        ("web/exec", "command"),
        ("web/port-forward?port=0", "port"),
        ("web/port-forward?port=80&unit=99", ""),
        ("web/exec?command=a&colour=b", "colour"),
    ] {
        let stream = TcpStream::connect(address).await.expect("a connection");
        let url = format!("ws://{address}/v1/workloads/{path}");
        let error = tokio_tungstenite::client_async(url, stream).await;
        let Err(tokio_tungstenite::tungstenite::Error::Http(refused)) = error else {
            panic!("{path} was not refused");
        };
        assert!(refused.status().is_client_error());
        let body = refused.body().clone().unwrap_or_default();
        let problem: Value = serde_json::from_slice(&body).expect("a problem");
        let named = problem["errors"][0]["path"].as_str().unwrap_or_default();
        assert_eq!(named, field, "{path}: {problem}");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_all_units_is_merged_by_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let _one = Agent::join(state, "one").await;
    apply(state, &web("web:1", 3)).await;
    show(state, "web?wait=120s&for=healthy").await;
    let text = call(state, Method::GET, "/v1/logs/workloads/web", "")
        .await
        .text;
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 6, "{text}");
    let times: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["at"].as_str())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    let first = call(state, Method::GET, "/v1/logs/workloads/web?unit=2", "")
        .await
        .text;
    assert_eq!(first.lines().count(), 2, "{first}");
    let refused = call(state, Method::GET, "/v1/logs/workloads/web?since=soon", "").await;
    assert_eq!(refused.body["errors"][0]["path"], "since");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_nobody_asked_for_are_refused_and_lost_nodes_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join(state, "one").await;
    apply(state, &web("web:1", 1)).await;
    show(state, "web?wait=120s&for=healthy").await;
    let forged = v1::TunnelFrame {
        id: "0".repeat(32),
        frame: None,
    };
    let refused = client(state, &one.node)
        .tunnel(tokio_stream::iter([forged]))
        .await;
    assert_eq!(refused.expect_err("refused").code(), tonic::Code::NotFound);
    drop(one);
    until("the session is over", || {
        let node = "one".parse().ok()?;
        state.services.sessions.of(&node).is_none().then_some(())
    })
    .await;
    let refused = call(state, Method::GET, "/v1/logs/workloads/web", "").await;
    assert_eq!(
        refused.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "{}",
        refused.text
    );
    assert_eq!(refused.body["reason"], "node-lost");
    assert!(
        refused.text.contains("weft node show one"),
        "{}",
        refused.text
    );
    server.shutdown().await;
}

//! Services on a real server over a real store, with agents that do what a script says.

mod agent;
mod life;
mod offers;
mod refusals;
mod restarts;
mod sessions;
mod streams;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use crate::listener::Peer;
use crate::state::Server as State;
use crate::{Config, Server, rest};

pub(super) use agent::Agent;

/// How long anything may take.
pub(super) const SOON: Duration = Duration::from_secs(120);

/// A server on loopback. Its leases last longer than a loaded machine may stand still: an agent here
/// does not come back once it was taken for lost.
pub(super) async fn start(dir: &Path) -> Server {
    start_leasing(dir, Duration::from_secs(15)).await
}

/// The same with short leases, for tests of nodes that are lost.
pub(super) async fn start_losing(dir: &Path) -> Server {
    start_leasing(dir, Duration::from_millis(1_500)).await
}

async fn start_leasing(dir: &Path, lease_ttl: Duration) -> Server {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        lease_ttl,
        mdns: false,
        allow_privileged: vec!["trusted".to_owned()],
        ..Config::new(dir.to_path_buf())
    };
    // A server that was dropped lets go of its files a moment later.
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        match Server::start(config.clone()).await {
            Ok(server) => return server,
            Err(error) if tokio::time::Instant::now() < deadline => {
                tracing::debug!(%error, "again");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("the server does not start: {error}"),
        }
    }
}

/// Waits until something is so.
pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "in {SOON:?} not so: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An answer of the REST interface.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
    pub(super) text: String,
}

/// A request to the REST interface by an administrator.
pub(super) async fn call(state: &Arc<State>, method: Method, path: &str, body: &str) -> Answer {
    call_with(state, method, path, body, &[]).await
}

/// The same with headers.
pub(super) async fn call_with(
    state: &Arc<State>,
    method: Method,
    path: &str,
    body: &str,
    headers: &[(&str, &str)],
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request
        .body(Body::from(body.to_owned()))
        .expect("a request");
    request.extensions_mut().insert(Peer {
        identity: None,
        address: ([127, 0, 0, 1], 1).into(),
        insecure: true,
    });
    let answer = rest::router(Arc::clone(state)).oneshot(request).await;
    let answer = answer.expect("an answer");
    let status = answer.status();
    let bytes = answer.into_body().collect().await.expect("a body");
    let text = String::from_utf8_lossy(&bytes.to_bytes()).into_owned();
    Answer {
        status,
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}

/// A service with replicas of an image.
pub(super) fn web(image: &str, replicas: u32) -> String {
    format!(
        r#"{{"name":"web","run":"service","runtime":"container",
            "container":{{"image":"{image}","ports":["8080:80/http"]}},
            "resources":{{"cpu":"100m","memory":"32Mi","disk":"0"}},
            "update":{{"deadline":"120s"}},
            "replicas":{{"target":{replicas}}}}}"#
    )
}

/// Applies a service, which must be taken.
pub(super) async fn apply(state: &Arc<State>, spec: &str) -> Value {
    let answer = call(state, Method::POST, "/v1/workloads", spec).await;
    assert!(answer.status.is_success(), "{}", answer.text);
    answer.body
}

/// A service as the API shows it.
pub(super) async fn show(state: &Arc<State>, path: &str) -> Answer {
    call(state, Method::GET, &format!("/v1/workloads/{path}"), "").await
}

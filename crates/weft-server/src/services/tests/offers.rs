//! Nodes that find out what they can run after they have greeted.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use serde_json::Value;

use super::{Agent, SOON, call, show, start, until, web};
use crate::state::Server as State;

/// Waits until what the API shows at a path has a word; what it shows then.
async fn says(state: &Arc<State>, path: &str, word: &str) -> String {
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let shown = call(state, Method::GET, path, "").await.text;
        if shown.contains(word) {
            return shown;
        }
        let is_late = tokio::time::Instant::now() >= deadline;
        assert!(!is_late, "{path} does not say {word}: {shown}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_placed_when_a_node_comes_to_offer_what_it_needs() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join_offering(state, "one", &["op"]).await;
    super::apply(state, &web("web:1", 1)).await;
    // It waits, and says what for; that is no end.
    says(state, "/v1/workloads/web", "\"reason\":").await;
    assert!(one.images().is_empty());

    one.offer(&["op", "container"], &["vm: QEMU (none); install it"])
        .await;
    until("it runs", || (one.images() == ["web:1"]).then_some(())).await;
    let shown = show(state, "web?wait=120s&for=healthy").await;
    assert_eq!(shown.body["state"], "running", "{}", shown.text);
    let node = call(state, Method::GET, "/v1/nodes/one", "").await;
    assert!(node.text.contains("install it"), "{}", node.text);
    assert!(node.text.contains("\"container\""), "{}", node.text);

    // The engine goes away for longer: what runs there stays, what is new waits.
    one.offer(&["op"], &["container: Docker (gone); start it"])
        .await;
    until("it is told as missing", || {
        let record = state.nodes.all().into_iter().next()?;
        (record.capacity.runtimes.len() == 1).then_some(())
    })
    .await;
    assert_eq!(one.images(), ["web:1"]);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_that_is_none_writes_nothing_and_one_of_an_older_session_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join_offering(state, "one", &["op"]).await;
    let revision = async || {
        let record = state.records.get::<Value>("nodes/one").await;
        record.expect("a store").expect("a record").1
    };
    let offered = |count: usize| {
        until("it offers what it said", move || {
            let record = state.nodes.all().into_iter().next()?;
            (record.capacity.runtimes.len() == count).then_some(())
        })
    };
    let greeted = revision().await;
    one.offer(&["op", "container"], &["first"]).await;
    says(state, "/v1/nodes/one", "first").await;
    let deadline = tokio::time::Instant::now() + SOON;
    while revision().await == greeted {
        assert!(tokio::time::Instant::now() < deadline, "it is not written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let before = revision().await;
    one.offer(&["op", "container"], &["second"]).await;
    says(state, "/v1/nodes/one", "second").await;
    assert_eq!(
        revision().await,
        before,
        "nothing of the record has changed"
    );

    let again = Agent::connect(state, one.node.clone(), Arc::default()).await;
    offered(4).await;
    one.offer(&["op"], &["old"]).await;
    again.offer(&["op", "vm"], &["new"]).await;
    offered(2).await;
    let shown = says(state, "/v1/nodes/one", "new").await;
    assert!(!shown.contains("old"), "{shown}");
    server.shutdown().await;
}

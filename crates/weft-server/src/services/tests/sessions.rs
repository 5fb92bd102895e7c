//! What a session carries beside the life of units: lists of any size, and what a node cannot do.

use std::sync::Arc;

use axum::http::Method;
use serde_json::{Value, json};
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;

use super::{Agent, SOON, apply, call, show, start, until, web};

/// More than this has no message with units, beyond a unit.
const MAX_LIST_BYTES: usize = 9 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_too_large_for_a_message_comes_in_several() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let agent = Agent::join(state, "one").await;
    let mut spec: Value = serde_json::from_str(&web("web:1", 30)).expect("JSON");
    spec["container"]["env"] = json!({"LARGE": "x".repeat(400 << 10)});
    apply(state, &spec.to_string()).await;
    let healthy = show(state, "web?wait=120s&for=healthy").await.body;
    assert_eq!(healthy["replicas"]["ready"], 30, "{}", healthy["replicas"]);

    // Another session of the same machine is told everything again.
    let (node, machine) = (agent.node.clone(), Arc::clone(&agent.machine));
    let before = machine.lock().lists.len();
    drop(agent);
    let agent = Agent::connect(state, node, machine).await;
    let lists = until("the complete list", || {
        let lists = agent.machine.lock().lists[before..].to_vec();
        lists.iter().any(|(_, complete)| *complete).then_some(lists)
    })
    .await;
    assert!(lists.len() > 1, "{lists:?}");
    assert!(
        lists.iter().all(|(bytes, _)| *bytes < MAX_LIST_BYTES),
        "{lists:?}"
    );
    let sum: usize = lists.iter().map(|(bytes, _)| bytes).sum();
    assert!(sum > 30 * (400 << 10), "{lists:?}");
    let machine = agent.machine.lock();
    assert_eq!(machine.units.len(), 30);
    assert!(machine.doubles.is_empty(), "{:?}", machine.doubles);
}

fn complaint(workload: &str, detail: &str) -> v1::AgentMessage {
    let error = v1::PortError {
        port: 8080,
        workload: workload.to_owned(),
        detail: detail.to_owned(),
    };
    let errors = if detail.is_empty() {
        Vec::new()
    } else {
        vec![error]
    };
    v1::AgentMessage {
        message: Some(Message::Ports(v1::PortErrors { errors })),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_node_cannot_have_is_shown_and_told_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let agent = Agent::join(state, "one").await;
    apply(state, &web("web:1", 1)).await;
    let healthy = show(state, "web?wait=120s&for=healthy").await.body;
    let id = healthy["id"].as_str().expect("an id").to_owned();
    assert!(healthy["reason"].is_null(), "{healthy}");

    let shows = async |wanted: &str| {
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let view = show(state, "web").await.body;
            if view["detail"].as_str().unwrap_or_default() == wanted {
                return view;
            }
            assert!(tokio::time::Instant::now() < deadline, "{view}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    for detail in ["port 8080 is taken", "port 8080 is taken by somebody else"] {
        let said = agent.to_server.send(complaint(&id, detail)).await;
        said.expect("a session");
        let view = shows(&format!("on one {detail}")).await;
        assert_eq!(view["reason"], "network-error", "{view}");
        assert_eq!(view["state"], "running", "{view}");
    }
    let explained = show(state, "web/explain").await.body;
    let summary = explained["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("on one port 8080 is taken"), "{explained}");
    let said = agent.to_server.send(complaint(&id, "")).await;
    said.expect("a session");
    shows("").await;

    // Events are written behind.
    let deadline = tokio::time::Instant::now() + SOON;
    let told = loop {
        let path = "/v1/events?follow=false";
        let told = call(state, Method::GET, path, "").await.text;
        if told.contains("weft.service.port-served") {
            break told;
        }
        assert!(tokio::time::Instant::now() < deadline, "{told}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    let refused = told.matches("weft.service.port-refused").count();
    assert_eq!(refused, 1, "{told}");

    // What a node says ends with its session.
    let said = agent
        .to_server
        .send(complaint(&id, "port 8080 is taken"))
        .await;
    said.expect("a session");
    shows("on one port 8080 is taken").await;
    drop(agent);
    shows("").await;
}

//! What is refused, and what is never told.

use std::collections::BTreeMap;

use axum::http::{Method, StatusCode};
use ring::hmac;
use serde_json::json;
use weft_core::service::record::{UnitStatus, WorkloadRecord};
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_types::{Namespace, UnitId, WorkloadId, WorkloadState};

use super::{Agent, apply, call, call_with, show, start, until, web};

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_field_and_the_next_step() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let service = |inside: &str| {
        format!(
            r#"{{"name":"a","run":"service","runtime":"container","container":{{"image":"a",{inside}}}}}"#
        )
    };
    let cases = [
        (service(r#""privileged":true"#), 403, "container.privileged"),
        (service(r#""network":"host""#), 403, "container.network"),
        (
            service(r#""volumes":[{"target":"/x","host":"/etc"}]"#),
            403,
            "container.volumes[0].host",
        ),
        (
            service(r#""env_from":[{"secret":"none"}]"#),
            400,
            "container.env_from[0].secret",
        ),
        (
            service(r#""registry_secret":"none""#),
            400,
            "container.registry_secret",
        ),
        (service(r#""imagee":"a""#), 400, "container.imagee"),
        (
            r#"{"runtime":"op","op":{"op":"crc32c"}}"#.to_owned(),
            400,
            "run",
        ),
        (
            r#"{"run":"service","runtime":"container","container":{"image":"a"}}"#.to_owned(),
            400,
            "name",
        ),
    ];
    for (body, status, path) in cases {
        let refused = call(state, Method::POST, "/v1/workloads", &body).await;
        assert_eq!(refused.status.as_u16(), status, "{body}: {}", refused.text);
        assert_eq!(refused.body["errors"][0]["path"], path, "{}", refused.text);
        assert!(refused.body["next"].is_string(), "{}", refused.text);
    }
    let refused = call(state, Method::POST, "/v1/jobs", &web("web:1", 1)).await;
    assert_eq!(refused.body["errors"][0]["path"], "run", "{}", refused.text);
    assert!(refused.text.contains("/v1/workloads"), "{}", refused.text);
    let trusted =
        service(r#""privileged":true"#).replace(r#""name""#, r#""namespace":"trusted","name""#);
    apply(state, &trusted).await;

    apply(state, &web("web:1", 1)).await;
    let cases = [
        (r#"{}"#, ""),
        (r#"{"scale":99999}"#, "scale"),
        (r#"{"scales":1}"#, "scales"),
    ];
    for (body, path) in cases {
        let refused = call(state, Method::PATCH, "/v1/workloads/web", body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
        assert_eq!(refused.body["errors"][0]["path"], path, "{}", refused.text);
    }
    for path in [
        "/v1/workloads/none",
        "/v1/workloads/wl-none",
        "/v1/secrets/none",
    ] {
        let refused = call(state, Method::GET, path, "").await;
        assert_eq!(refused.status, StatusCode::NOT_FOUND, "{path}");
    }
    let headers = [("if-match", "old")];
    let refused = call_with(state, Method::DELETE, "/v1/workloads/web", "", &headers).await;
    assert_eq!(refused.body["errors"][0]["path"], "if-match");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_found_by_id_prefix_and_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let applied = apply(state, &web("web:1", 1)).await;
    let id = applied["workload"]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    for path in [id.as_str(), &id[..8], "web", "web?namespace=default"] {
        assert_eq!(show(state, path).await.body["id"], id.as_str(), "{path}");
    }
    let other = show(state, "web?namespace=other").await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    for number in 0..5 {
        let spec = web("web:1", 1).replace("\"web\"", &format!("\"w{number}\""));
        apply(state, &spec.replace("8080", &format!("90{number}0"))).await;
    }
    let mut names = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/workloads?limit=2&state=pending&cursor={cursor}");
        let placing = path.replace("pending", "placing");
        let page = call(state, Method::GET, &path, "").await.body;
        let second = call(state, Method::GET, &placing, "").await.body;
        for item in page["items"]
            .as_array()
            .into_iter()
            .chain(second["items"].as_array())
            .flatten()
        {
            names.push(item["name"].as_str().unwrap_or_default().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    names.sort();
    names.dedup();
    assert_eq!(names, ["w0", "w1", "w2", "w3", "w4", "web"]);
    server.shutdown().await;
}

/// Every file of a directory.
fn files(dir: &std::path::Path, found: &mut Vec<(std::path::PathBuf, Vec<u8>)>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((path, bytes));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_reach_their_units_and_nothing_else() {
    const CLEAR: &str = "correct-horse-battery-staple";
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join(state, "one").await;
    let body = json!({ "values": { "PASSWORD": CLEAR } }).to_string();
    let set = call(state, Method::PUT, "/v1/secrets/db", &body).await;
    assert_eq!(set.status, StatusCode::CREATED, "{}", set.text);
    assert_eq!(set.body["keys"], json!(["PASSWORD"]));
    let malformed = format!(r#"{{"values": {{"PASSWORD": ["{CLEAR}"]}}}}"#);
    let refused = call(state, Method::PUT, "/v1/secrets/db", &malformed).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let unknown = format!(r#"{{"values": {{}}, "{CLEAR}": 1}}"#);
    let unknown = call(state, Method::PUT, "/v1/secrets/db", &unknown).await;

    let spec = web("web:1", 1).replace(
        r#""image""#,
        r#""env_from":[{"secret":"db","prefix":"DB_"}],"image""#,
    );
    apply(state, &spec).await;
    until("the unit has its secret", || {
        let machine = one.machine.lock();
        let given = machine.secrets.values().next()?;
        (given.env.get("DB_PASSWORD").map(String::as_str) == Some(CLEAR)).then_some(())
    })
    .await;
    let in_use = call(state, Method::DELETE, "/v1/secrets/db", "").await;
    assert_eq!(in_use.status, StatusCode::CONFLICT, "{}", in_use.text);
    let shown = [
        refused.text,
        unknown.text,
        set.text,
        in_use.text,
        call(state, Method::GET, "/v1/secrets", "").await.text,
        call(state, Method::GET, "/v1/secrets/db", "").await.text,
        call(state, Method::GET, "/v1/workloads/web", "").await.text,
        call(state, Method::GET, "/v1/events?follow=false", "")
            .await
            .text,
    ];
    for text in shown {
        assert!(!text.contains(CLEAR), "{text}");
    }
    drop(one);
    server.shutdown().await;
    let mut found = Vec::new();
    files(dir.path(), &mut found);
    assert!(
        found
            .iter()
            .any(|(path, _)| path.ends_with("store/store.redb"))
    );
    for (path, bytes) in found {
        let contains = |needle: &[u8]| bytes.windows(needle.len()).any(|part| part == needle);
        assert!(
            !contains(CLEAR.as_bytes()),
            "{} has it in clear",
            path.display()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_need_the_signature_of_their_body() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let body = json!({ "values": { "webhook_secret": "shared" } }).to_string();
    call(state, Method::PUT, "/v1/secrets/hook", &body).await;
    let spec = r#"{"name":"app","run":"service","runtime":"compose","compose":
        {"git":{"url":"https://git.example/app.git","ref":"main","webhook":"hook"}}}"#;
    apply(state, spec).await;
    let push = r#"{"ref":"refs/heads/main"}"#;
    let sign = |secret: &str, body: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("sha256={}", hex::encode(hmac::sign(&key, body.as_bytes())))
    };
    let restarts = || {
        state.services.workloads.read(|tables| {
            let kept = tables.by_name(&Namespace::default(), "app");
            kept.map_or(0, |kept| kept.value.restarts)
        })
    };
    let mut refusals = Vec::new();
    for (path, signature) in [
        ("app", sign("guessed", push)),
        ("app", sign("shared", "other")),
        ("app", sign("", push)),
        ("app", "sha256=zz".to_owned()),
        ("none", sign("shared", push)),
        ("none", sign("", push)),
    ] {
        let path = format!("/v1/hooks/default/{path}");
        let headers = [("x-hub-signature-256", signature.as_str())];
        let refused = call_with(state, Method::POST, &path, push, &headers).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);
        refusals.push(refused.text);
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "refusals look alike: {refusals:?}");
    let bare = call(state, Method::POST, "/v1/hooks/default/app", push).await;
    assert_eq!(bare.status, StatusCode::FORBIDDEN);
    assert_eq!(restarts(), 0);

    let good = sign("shared", push);
    let headers = [("x-hub-signature-256", good.as_str())];
    let taken = call_with(state, Method::POST, "/v1/hooks/default/app", push, &headers).await;
    assert_eq!(taken.status, StatusCode::ACCEPTED, "{}", taken.text);
    assert_eq!(restarts(), 1);
    let other = r#"{"ref":"refs/heads/other"}"#;
    let signed = sign("shared", other);
    let headers = [("x-gitea-signature", signed.trim_start_matches("sha256="))];
    let ignored = call_with(
        state,
        Method::POST,
        "/v1/hooks/default/app",
        other,
        &headers,
    )
    .await;
    assert_eq!(ignored.body["outcome"], "ignored", "{}", ignored.text);
    assert_eq!(restarts(), 1);
    let gitlab = |token: &str, event: &str| {
        let headers = [
            ("x-gitlab-token", token.to_owned()),
            ("x-gitlab-event", event.to_owned()),
        ];
        async move {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            call_with(state, Method::POST, "/v1/hooks/default/app", push, &headers).await
        }
    };
    for token in ["", "share", "shared ", good.as_str()] {
        let refused = gitlab(token, "Push Hook").await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{token:?}");
    }
    let ignored = gitlab("shared", "Merge Request Hook").await;
    assert_eq!(ignored.body["outcome"], "ignored", "{}", ignored.text);
    let taken = gitlab("shared", "Push Hook").await;
    assert_eq!(taken.body["outcome"], "restarted", "{}", taken.text);
    assert_eq!(restarts(), 2);
    let huge = "x".repeat((1 << 20) + 1);
    let refused = call_with(
        state,
        Method::POST,
        "/v1/hooks/default/app",
        &huge,
        &headers,
    )
    .await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_compose_files_are_vetted_before_they_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let spec = |namespace: &str, text: &str| {
        json!({"name": "app", "namespace": namespace, "run": "service", "runtime": "compose",
            "compose": {"inline": text}})
        .to_string()
    };
    let send = |namespace: &'static str, text: &'static str| {
        let body = spec(namespace, text);
        async move { call(state, Method::POST, "/v1/workloads", &body).await }
    };
    for (text, path) in [
        (
            "services: {a: {image: a, privileged: true}}",
            "services.a.privileged",
        ),
        ("services: {a: {image: a, pid: host}}", "services.a.pid"),
        (
            "services: {a: {image: a, volumes: ['/etc:/e:ro']}}",
            "services.a.volumes[0]",
        ),
    ] {
        let refused = send("default", text).await;
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "{}", refused.text);
        assert_eq!(refused.body["reason"], "permission-denied");
        let expected = format!("compose.inline.{path}");
        assert_eq!(
            refused.body["errors"][0]["path"], expected,
            "{}",
            refused.text
        );
        let allowed = send("trusted", text).await;
        assert!(allowed.status.is_success(), "{}", allowed.text);
    }
    for (text, path) in [
        (
            "services: {a: {image: a, imagee: b}}",
            "compose.inline.services.a.imagee",
        ),
        (
            "services: {a: {image: a, env_file: x}}",
            "compose.inline.services.a.env_file",
        ),
        ("services: [", "compose.inline"),
    ] {
        let refused = send("trusted", text).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text);
        assert_eq!(refused.body["errors"][0]["path"], path, "{}", refused.text);
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_speak_for_their_own_units_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join(state, "one").await;
    apply(state, &web("web:1", 1)).await;
    show(state, "web?wait=120s&for=healthy").await;
    let unit = *one.machine.lock().units.keys().next().expect("a unit");
    let two = Agent::join(state, "two").await;
    let gone = |unit: UnitId, node: &weft_types::NodeId| {
        let mut status = UnitStatus::new(unit, node.clone(), WorkloadState::Stopped, 1);
        status.gone = true;
        let json = serde_json::to_vec(&status).expect("JSON");
        v1::AgentMessage {
            message: Some(Message::Units(v1::UnitReports {
                complete: false,
                statuses: vec![json.into()],
            })),
        }
    };
    // As itself about a unit of another, and about one that nobody has: neither is written.
    let nobody = UnitId {
        workload: WorkloadId(1),
        number: 1,
    };
    for about in [unit, nobody] {
        let sent = two.to_server.send(gone(about, &two.node)).await;
        sent.expect("the session lasts");
    }
    // In the name of the other: its session ends.
    two.to_server
        .send(gone(unit, &one.node))
        .await
        .expect("room");
    until("the session of the liar has ended", || {
        state
            .services
            .sessions
            .of(&two.node)
            .is_none()
            .then_some(())
    })
    .await;
    let status = state
        .services
        .workloads
        .read(|tables| (tables.status(unit).cloned(), tables.status(nobody).cloned()));
    assert!(
        status
            .0
            .is_some_and(|kept| !kept.value.gone && kept.value.ready)
    );
    assert!(status.1.is_none());
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_publish_the_same_port_at_once_do_not_both_get_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let specs: Vec<String> = (0..8)
        .map(|number| web("web:1", 1).replace("\"web\"", &format!("\"w{number}\"")))
        .collect();
    let all = specs
        .iter()
        .map(|spec| call(state, Method::POST, "/v1/workloads", spec));
    let answers = futures::future::join_all(all).await;
    let taken = answers.iter().filter(|answer| answer.status.is_success());
    assert_eq!(taken.count(), 1);
    let (kept, _) = state.records.list_raw("workloads/").await.expect("a list");
    let kept: BTreeMap<String, WorkloadRecord> = kept
        .iter()
        .map(|kv| {
            (
                kv.key.clone(),
                serde_json::from_slice(&kv.value).expect("a record"),
            )
        })
        .collect();
    assert_eq!(kept.len(), 1, "{:?}", kept.keys());
    server.shutdown().await;
}

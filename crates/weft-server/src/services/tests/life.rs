//! From an apply to the last unit that is gone.

use axum::http::{Method, StatusCode};
use serde_json::json;
use weft_types::NodeState;

use super::{Agent, apply, call, call_with, show, start, start_losing, until, web};

fn total(agents: &[&Agent]) -> usize {
    agents.iter().map(|agent| agent.images().len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_applied_runs_is_updated_and_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join(state, "one").await;
    let two = Agent::join(state, "two").await;

    let applied = apply(state, &web("web:1", 3)).await;
    assert_eq!(applied["outcome"], "created");
    let healthy = show(state, "web?wait=120s&for=healthy").await.body;
    assert_eq!(healthy["replicas"]["ready"], 3, "{healthy}");
    assert_eq!(healthy["state"], "running", "{healthy}");
    assert_eq!(healthy["rollout"]["state"], "complete", "{healthy}");
    assert_eq!(total(&[&one, &two]), 3);
    until("both nodes know three replicas", || {
        let knows = |agent: &Agent| {
            let machine = agent.machine.lock();
            let ports = &machine.endpoints.ports;
            ports.first().is_some_and(|port| {
                port.port == 8080
                    && port.endpoints.len() == 3
                    && port
                        .endpoints
                        .iter()
                        .all(|end| end.peer == "127.0.0.1:7701")
            })
        };
        (knows(&one) && knows(&two)).then_some(())
    })
    .await;

    let again = apply(state, &web("web:1", 3)).await;
    assert_eq!(again["outcome"], "unchanged");
    assert_eq!(again["workload"]["revision"], 1);

    let changed = apply(state, &web("web:2", 3)).await;
    assert_eq!(changed["outcome"], "changed");
    assert_eq!(changed["changes"][0]["path"], "container.image");
    let updated = show(state, "web?wait=120s&for=healthy").await.body;
    assert_eq!(updated["replicas"]["updated"], 3, "{updated}");
    until("only the new image runs", || {
        let images = [one.images(), two.images()].concat();
        (images == ["web:2"; 3]).then_some(())
    })
    .await;

    let gone = call(state, Method::DELETE, "/v1/workloads/web?wait=120s", "").await;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.text);
    assert_eq!(show(state, "web").await.status, StatusCode::NOT_FOUND);
    assert_eq!(total(&[&one, &two]), 0);
    for prefix in [
        "workloads/",
        "rollouts/",
        "assignments/",
        "statuses/",
        "retries/",
    ] {
        let (left, _) = state.records.list_raw(prefix).await.expect("a list");
        assert!(left.is_empty(), "{prefix}: {left:?}");
    }
    assert!(one.machine.lock().beats > 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_update_goes_back_to_what_worked() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join(state, "one").await;
    apply(state, &web("web:1", 2)).await;
    show(state, "web?wait=120s&for=healthy").await;

    apply(state, &web("bad:2", 2)).await;
    let failed = show(state, "web?wait=120s&for=healthy").await.body;
    assert_eq!(failed["rollout"]["state"], "rolled-back", "{failed}");
    until("the good image runs", || {
        (one.images() == ["web:1"; 2]).then_some(())
    })
    .await;
    let metrics = call(state, Method::GET, "/metrics", "").await.text;
    assert!(
        metrics.contains("weft_service_rollouts_failed_total 1"),
        "{metrics}"
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_scale_stop_start_and_leave_a_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let one = Agent::join(state, "one").await;
    let two = Agent::join(state, "two").await;
    apply(state, &web("web:1", 1)).await;
    show(state, "web?wait=120s&for=healthy").await;

    let patch = |body: &'static str| call(state, Method::PATCH, "/v1/workloads/web", body);
    assert_eq!(patch(r#"{"scale":4}"#).await.body["replicas"]["wanted"], 4);
    until("four run", || (total(&[&one, &two]) == 4).then_some(())).await;

    let drained = call(
        state,
        Method::PATCH,
        "/v1/nodes/one",
        r#"{"draining":true}"#,
    )
    .await;
    assert_eq!(drained.status, StatusCode::OK, "{}", drained.text);
    until("all are on the other node", || {
        (one.images().is_empty() && two.images().len() == 4).then_some(())
    })
    .await;

    patch(r#"{"stopped":true}"#).await;
    until("nothing runs", || (total(&[&one, &two]) == 0).then_some(())).await;
    patch(r#"{"stopped":false}"#).await;
    until("four run again", || (two.images().len() == 4).then_some(())).await;
    let before: Vec<_> = two.machine.lock().units.keys().copied().collect();
    patch(r#"{"restart":true}"#).await;
    until("every unit is another", || {
        let machine = two.machine.lock();
        let other = machine.units.keys().all(|unit| !before.contains(unit));
        (other && machine.units.len() == 4).then_some(())
    })
    .await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn units_of_a_lost_node_come_up_elsewhere_and_jobs_get_what_units_leave() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start_losing(dir.path()).await;
    let state = server.state();
    let one = Agent::join(state, "one").await;
    apply(state, &web("web:1", 2)).await;
    until("two run", || (one.images().len() == 2).then_some(())).await;
    let two = Agent::join(state, "two").await;
    let node = one.node.clone();
    let deadline = tokio::time::Instant::now() + super::SOON;
    loop {
        let asked = state.dispatcher.ask({
            let node = node.clone();
            move |shell| {
                let room = shell.machine().node_room(&node);
                room.map(|(candidate, _)| candidate.capacity.cpu.0)
            }
        });
        if asked.await.expect("an answer") == Some(3_800) {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "jobs get all of the node"
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    drop(one);
    until("the node is lost", || {
        (state.liveness.state(&node) == Some(NodeState::Offline)).then_some(())
    })
    .await;
    until("two run on the other", || {
        (two.images().len() == 2).then_some(())
    })
    .await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_changes_nothing_and_conflicts_name_the_revision() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = start(dir.path()).await;
    let state = server.state();
    let _one = Agent::join(state, "one").await;
    // The scheduler knows the node a moment later.
    let deadline = tokio::time::Instant::now() + super::SOON;
    loop {
        let plan = call(
            state,
            Method::POST,
            "/v1/workloads?dry_run=true",
            &web("web:1", 2),
        )
        .await;
        assert_eq!(plan.status, StatusCode::OK, "{}", plan.text);
        if plan.body["placements"] != json!([]) && plan.body["placements"][1]["node"] == "one" {
            assert_eq!(plan.body["outcome"], "created");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", plan.text);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(show(state, "web").await.status, StatusCode::NOT_FOUND);

    let huge = web("web:1", 1).replace("100m", "64");
    let plan = call(state, Method::POST, "/v1/workloads?dry_run=true", &huge).await;
    assert_eq!(
        plan.body["reason"], "insufficient-resources",
        "{}",
        plan.text
    );
    assert!(plan.body["placements"][0]["node"].is_null());

    apply(state, &web("web:1", 1)).await;
    let headers = [("if-match", "\"7\"")];
    let spec = web("web:2", 1);
    let refused = call_with(state, Method::POST, "/v1/workloads", &spec, &headers).await;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text);
    assert_eq!(refused.body["revision"], 1);
    let headers = [("if-match", "\"1\"")];
    let taken = call_with(state, Method::POST, "/v1/workloads", &spec, &headers).await;
    assert_eq!(taken.body["workload"]["revision"], 2, "{}", taken.text);

    let other = web("web:1", 1).replace("\"web\"", "\"shop\"");
    let refused = call(state, Method::POST, "/v1/workloads", &other).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert_eq!(refused.body["errors"][0]["path"], "container.ports[0]");
    assert!(refused.text.contains("web"), "{}", refused.text);
    server.shutdown().await;
}

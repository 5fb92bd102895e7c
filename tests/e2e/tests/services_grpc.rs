//! Services over gRPC on three nodes: each method does and refuses what REST does.

use std::time::Duration;

use serde_json::{Value, json};
use tonic::{Code, Status};
use weft_e2e::doors::{Who, channel, problem, rest};
use weft_e2e::{Fleet, web_image};
use weft_proto::api;
use weft_proto::api::weft_client::WeftClient;

type Weft = WeftClient<tonic::transport::Channel>;

/// A stream of requests that stays open after these.
fn requests<T: Send + 'static>(first: Vec<T>) -> impl futures::Stream<Item = T> + Send + 'static {
    use futures::StreamExt;
    futures::stream::iter(first).chain(futures::stream::pending())
}

/// The body of an apply: a service of two replicas as JSON.
fn body(image: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut json = json!({
        "name": "web", "run": "service", "runtime": "container",
        "container": {"image": image, "ports": ["8080:80/http"]},
        "resources": {"cpu": "50m", "memory": "64Mi", "disk": "0"},
        "replicas": {"max": 4, "target": 2},
    });
    change(&mut json);
    json.to_string()
}

fn apply_request(workload: String) -> api::ApplyRequest {
    api::ApplyRequest {
        workload,
        revision: None,
    }
}

fn get_request(name: &str, wait_ms: u64) -> api::GetWorkloadRequest {
    api::GetWorkloadRequest {
        workload: name.to_owned(),
        wait_ms,
        ..Default::default()
    }
}

fn patch_request(change: impl FnOnce(&mut api::PatchWorkloadRequest)) -> api::PatchWorkloadRequest {
    let mut request = api::PatchWorkloadRequest {
        workload: "web".to_owned(),
        ..Default::default()
    };
    change(&mut request);
    request
}

/// REST's answer to a body, whatever its status.
fn over_rest(fleet: &Fleet, method: &str, path: &str, body: &str) -> Value {
    let mut args = vec!["-X", method, "-H", "content-type: application/json"];
    if !body.is_empty() {
        args.extend(["--data-raw", body]);
    }
    rest(&fleet.cluster, &args, path).remove(0)
}

/// Checks that gRPC refused as REST did: the reason, the fields below `within`, what to do next.
fn assert_same_refusal(status: &Status, code: Code, refused: &Value, within: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    let problem = problem(status);
    assert_eq!(problem["reason"], refused["reason"], "{problem} {refused}");
    assert_eq!(problem["type"], refused["type"], "{problem} {refused}");
    assert_eq!(problem["next"], refused["next"], "{problem} {refused}");
    let paths = |problem: &Value, prefix: &str| -> Vec<String> {
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let path = |error: &Value| {
            error["path"].as_str().map(|path| {
                let path = format!("{prefix}{path}");
                path.trim_end_matches('.').to_owned()
            })
        };
        errors.iter().filter_map(path).collect()
    };
    assert_eq!(
        paths(&problem, ""),
        paths(refused, within),
        "{problem} {refused}"
    );
}

/// What of a service does not depend on when it was looked at.
fn essence(view: &api::ServiceView) -> Value {
    let replicas = view.replicas.unwrap_or_default();
    let spec: Value = view.spec.as_ref().map_or(Value::Null, |spec| {
        serde_json::from_str(spec).expect("JSON")
    });
    let units: Vec<Value> = view
        .units
        .iter()
        .map(|unit| {
            json!([
                unit.id,
                unit.number,
                unit.node,
                unit.revision,
                unit.state,
                unit.ready
            ])
        })
        .collect();
    json!({
        "id": view.id, "name": view.name, "namespace": view.namespace, "runtime": view.runtime,
        "state": view.state, "revision": view.revision, "ports": view.ports, "spec": spec,
        "replicas": [replicas.wanted, replicas.existing, replicas.running, replicas.ready, replicas.updated],
        "rollout": view.rollout.clone().unwrap_or_default().state, "units": units,
        "created_at": view.created_at, "changed_at": view.changed_at,
    })
}

fn essence_of_rest(view: &Value) -> Value {
    let replicas = &view["replicas"];
    let units: Vec<Value> = view["units"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|unit| {
            json!([
                unit["id"],
                unit["number"],
                unit["node"],
                unit["revision"],
                unit["state"],
                unit["ready"]
            ])
        })
        .collect();
    json!({
        "id": view["id"], "name": view["name"], "namespace": view["namespace"],
        "runtime": view["runtime"], "state": view["state"], "revision": view["revision"],
        "ports": view["ports"], "spec": view["spec"],
        "replicas": [replicas["wanted"], replicas["existing"], replicas["running"], replicas["ready"], replicas["updated"]],
        "rollout": view["rollout"]["state"], "units": units,
        "created_at": view["created_at"], "changed_at": view["changed_at"],
    })
}

async fn healthy(weft: &mut Weft) -> api::ServiceView {
    let found = weft.get_workload(get_request("web", 60_000)).await;
    let view = found.expect("the service").into_inner();
    let replicas = view.replicas.unwrap_or_default();
    assert_eq!(replicas.ready, replicas.wanted, "{view:?}");
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_applied_shown_changed_and_deleted_as_over_rest() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let mut weft = WeftClient::new(channel(&fleet.cluster, Who::Admin).await);

    // A plan, and nothing of it happens.
    let wanted = body(&image, |_| {});
    let planned = weft.plan_workload(apply_request(wanted.clone())).await;
    let planned = planned.expect("a plan").into_inner();
    let by_rest = over_rest(&fleet, "POST", "/v1/workloads?dry_run=true", &wanted);
    assert_eq!(json!(planned.outcome), by_rest["outcome"]);
    assert_eq!(planned.placements.len(), 2, "{planned:?}");
    for (unit, same) in planned
        .placements
        .iter()
        .zip(by_rest["placements"].as_array().expect("a list"))
    {
        assert_eq!(json!(unit.node), same["node"]);
        let nodes: Vec<&String> = unit.considered.iter().map(|it| &it.node).collect();
        assert_eq!(nodes.len(), 3, "{unit:?}");
    }
    assert_eq!(json!(planned.price_per_hour), by_rest["price_per_hour"]);
    let list = || api::ListWorkloadsRequest::default();
    let none = weft
        .list_workloads(list())
        .await
        .expect("a list")
        .into_inner();
    assert!(none.workloads.is_empty(), "{none:?}");

    // Applied, and the same again.
    let applied = weft.apply(apply_request(wanted.clone())).await;
    let applied = applied.expect("it is applied").into_inner();
    assert_eq!(applied.outcome, "created");
    let view = healthy(&mut weft).await;
    let shown = over_rest(&fleet, "GET", "/v1/workloads/web", "");
    assert_eq!(essence(&view), essence_of_rest(&shown));
    let again = weft.apply(apply_request(wanted.clone())).await;
    assert_eq!(again.expect("the same").into_inner().outcome, "unchanged");
    let listed = weft
        .list_workloads(list())
        .await
        .expect("a list")
        .into_inner();
    assert_eq!(listed.workloads.len(), 1);
    assert_eq!(listed.workloads[0].id, view.id);
    let stopped_ones = api::ListWorkloadsRequest {
        state: "stopped".to_owned(),
        ..Default::default()
    };
    let others = weft
        .list_workloads(stopped_ones)
        .await
        .expect("a list")
        .into_inner();
    assert!(others.workloads.is_empty(), "{others:?}");
    let explained = api::ExplainWorkloadRequest {
        workload: view.id.clone(),
        ..Default::default()
    };
    let explained = weft
        .explain_workload(explained)
        .await
        .expect("a reason")
        .into_inner();
    let by_rest = over_rest(&fleet, "GET", "/v1/workloads/web/explain", "");
    assert_eq!(json!(explained.summary), by_rest["summary"]);
    let considered = by_rest["considered"].as_array().map_or(0, Vec::len);
    assert_eq!(explained.considered.len(), considered);

    // Another environment makes another revision; only of the revision that was read.
    let changed = body(&image, |json| json["container"]["env"] = json!({"A": "b"}));
    let request = api::ApplyRequest {
        workload: changed.clone(),
        revision: Some(1),
    };
    let applied = weft
        .apply(request.clone())
        .await
        .expect("it is applied")
        .into_inner();
    assert_eq!(applied.outcome, "changed");
    assert_eq!(applied.changes[0].path, "container.env", "{applied:?}");
    assert_eq!(healthy(&mut weft).await.revision, 2);
    let late = weft.apply(request).await.expect_err("another revision");
    assert_eq!(late.code(), Code::FailedPrecondition, "{late:?}");
    assert_eq!(problem(&late)["revision"], 2);

    // Paused, resumed, scaled, given back, restarted, stopped, started, deleted.
    for paused in [true, false] {
        let request = api::PauseWorkloadRequest {
            workload: "web".to_owned(),
            paused,
            ..Default::default()
        };
        weft.pause_workload(request).await.expect("units are told");
    }
    healthy(&mut weft).await;
    let scaled = patch_request(|patch| patch.scale = Some(3));
    weft.patch_workload(scaled).await.expect("it is scaled");
    assert_eq!(healthy(&mut weft).await.units.len(), 3);
    let given_back = patch_request(|patch| patch.unscale = true);
    weft.patch_workload(given_back)
        .await
        .expect("it is given back");
    let before = healthy(&mut weft).await;
    assert_eq!(before.replicas.map(|it| it.wanted), Some(2));
    let restarted = patch_request(|patch| patch.restart = true);
    weft.patch_workload(restarted)
        .await
        .expect("it is restarted");
    let after = healthy(&mut weft).await;
    let numbers = |view: &api::ServiceView| view.units.iter().map(|unit| unit.number).max();
    assert!(numbers(&after) > numbers(&before), "{after:?}");
    let stopped = patch_request(|patch| patch.stopped = Some(true));
    weft.patch_workload(stopped).await.expect("it is stopped");
    let started = patch_request(|patch| patch.stopped = Some(false));
    weft.patch_workload(started).await.expect("it is started");
    healthy(&mut weft).await;
    let delete = api::DeleteWorkloadRequest {
        workload: "web".to_owned(),
        wait_ms: 60_000,
        ..Default::default()
    };
    let deleted = weft
        .delete_workload(delete.clone())
        .await
        .expect("it is deleted");
    assert!(deleted.into_inner().gone);
    let gone = weft.delete_workload(delete).await.expect_err("it is gone");
    let by_rest = over_rest(&fleet, "DELETE", "/v1/workloads/web", "");
    assert_same_refusal(&gone, Code::NotFound, &by_rest, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_into_units_carry_output_commands_and_ports() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let mut weft = WeftClient::new(channel(&fleet.cluster, Who::Admin).await);
    let wanted = body(&image, |_| {});
    weft.apply(apply_request(wanted))
        .await
        .expect("it is applied");
    healthy(&mut weft).await;

    let logs = api::WorkloadLogsRequest {
        workload: "web".to_owned(),
        follow: true,
        ..Default::default()
    };
    let mut lines = weft.workload_logs(logs).await.expect("lines").into_inner();
    let mut units = Vec::new();
    while units.len() < 2 {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.message()).await;
        let line = line
            .expect("in time")
            .expect("a line")
            .expect("not the end");
        assert_eq!(
            (line.line.as_str(), line.stream.as_str()),
            ("serving", "stdout")
        );
        units.push(line.unit);
    }
    units.sort_unstable();
    assert_eq!(units, [1, 2]);
    drop(lines);

    use api::exec_request::Message as Ask;
    use api::exec_response::Message as Answer;
    let ask = |message| api::ExecRequest {
        message: Some(message),
    };
    let start = api::ExecStart {
        workload: "web".to_owned(),
        unit: "2".to_owned(),
        command: ["sh", "-c", "cat; echo to stderr >&2; exit 7"]
            .map(str::to_owned)
            .to_vec(),
        ..Default::default()
    };
    let sent = vec![
        ask(Ask::Start(start.clone())),
        ask(Ask::Stdin("there and back".into())),
        ask(Ask::Eof(true)),
    ];
    let mut answers = weft
        .exec(requests(sent))
        .await
        .expect("a stream")
        .into_inner();
    let (mut stdout, mut stderr, mut code) = (Vec::new(), Vec::new(), None);
    while let Some(answer) = answers.message().await.expect("an answer") {
        match answer.message {
            Some(Answer::Stdout(bytes)) => stdout.extend_from_slice(&bytes),
            Some(Answer::Stderr(bytes)) => stderr.extend_from_slice(&bytes),
            Some(Answer::ExitCode(exit)) => code = Some(exit),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(String::from_utf8_lossy(&stdout), "there and back");
    assert_eq!(String::from_utf8_lossy(&stderr), "to stderr\n");
    assert_eq!(code, Some(7));
    let missing = api::ExecStart {
        command: vec!["no-such-program".to_owned()],
        ..start
    };
    let mut answers = weft
        .exec(requests(vec![ask(Ask::Start(missing))]))
        .await
        .expect("a stream")
        .into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await.expect("an answer") {
        last = answer.message;
    }
    match last {
        Some(Answer::Error(why)) => assert!(!why.reason.is_empty(), "{why:?}"),
        Some(Answer::ExitCode(code)) => assert!(code == 126 || code == 127, "{code}"),
        other => panic!("{other:?}"),
    }

    use api::port_forward_request::Message as Piece;
    let piece = |message| api::PortForwardRequest {
        message: Some(message),
    };
    let start = api::PortForwardStart {
        workload: "web".to_owned(),
        port: 80,
        ..Default::default()
    };
    let sent = vec![
        piece(Piece::Start(start)),
        piece(Piece::Data("GET / HTTP/1.0\r\n\r\n".into())),
    ];
    let mut pieces = weft
        .port_forward(requests(sent))
        .await
        .expect("a stream")
        .into_inner();
    let mut answer = Vec::new();
    while let Some(piece) = pieces.message().await.expect("a piece") {
        if piece.data.is_empty() {
            break;
        }
        answer.extend_from_slice(&piece.data);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.starts_with("HTTP/1.") && answer.ends_with("one"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_with_the_field_and_the_reason_of_rest() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let mut weft = WeftClient::new(channel(&fleet.cluster, Who::Admin).await);
    let wrong: Vec<(String, Code)> = vec![
        ("{".to_owned(), Code::InvalidArgument),
        (
            body(&image, |json| json["replicas"]["max"] = json!(0)),
            Code::InvalidArgument,
        ),
        (
            body(&image, |json| json["container"]["imgae"] = json!("x")),
            Code::InvalidArgument,
        ),
        (
            body(&image, |json| json["run"] = json!("job")),
            Code::InvalidArgument,
        ),
        (
            body(&image, |json| json["container"]["privileged"] = json!(true)),
            Code::PermissionDenied,
        ),
        (
            body(&image, |json| {
                json["container"]["env_from"] = json!([{"secret": "none"}])
            }),
            Code::InvalidArgument,
        ),
    ];
    for (wrong, code) in wrong {
        let refused = over_rest(&fleet, "POST", "/v1/workloads", &wrong);
        let status = weft.apply(apply_request(wrong.clone())).await;
        assert_same_refusal(&status.expect_err(&wrong), code, &refused, "workload.");
        let status = weft.plan_workload(apply_request(wrong.clone())).await;
        assert_same_refusal(&status.expect_err(&wrong), code, &refused, "workload.");
    }

    let wanted = body(&image, |_| {});
    weft.apply(apply_request(wanted))
        .await
        .expect("it is applied");
    let other = body(&image, |json| json["name"] = json!("other"));
    let refused = over_rest(&fleet, "POST", "/v1/workloads", &other);
    assert_eq!(refused["reason"], "invalid-spec", "{refused}");
    let status = weft
        .apply(apply_request(other))
        .await
        .expect_err("the port is taken");
    assert_same_refusal(&status, Code::FailedPrecondition, &refused, "workload.");

    type Change = fn(&mut api::PatchWorkloadRequest);
    let patches: [(Change, &str); 4] = [
        (|_| (), "{}"),
        (|patch| patch.scale = Some(5), r#"{"scale": 5}"#),
        (
            |patch| {
                patch.scale = Some(3);
                patch.unscale = true;
            },
            r#"{"scale": 3, "unscale": true}"#,
        ),
        (|patch| patch.revision = Some(9), ""),
    ];
    for (change, json) in patches {
        let mut request = patch_request(change);
        let (refused, code) = if json.is_empty() {
            request.restart = true;
            let args = [
                "-X",
                "PATCH",
                "-H",
                "if-match: \"9\"",
                "-H",
                "content-type: application/json",
                "-d",
                r#"{"restart":true}"#,
            ];
            let refused = rest(&fleet.cluster, &args, "/v1/workloads/web").remove(0);
            (refused, Code::FailedPrecondition)
        } else {
            (
                over_rest(&fleet, "PATCH", "/v1/workloads/web", json),
                Code::InvalidArgument,
            )
        };
        let status = weft.patch_workload(request).await.expect_err(json);
        assert_same_refusal(&status, code, &refused, "");
    }

    let refused = over_rest(&fleet, "POST", "/v1/workloads/web/pause?unit=99", "");
    let nobody = api::PauseWorkloadRequest {
        workload: "web".to_owned(),
        unit: "99".to_owned(),
        paused: true,
        ..Default::default()
    };
    let status = weft.pause_workload(nobody).await;
    assert_same_refusal(&status.expect_err("no such"), Code::NotFound, &refused, "");
    let refused = over_rest(&fleet, "GET", "/v1/workloads/nobody", "");
    let status = weft.get_workload(get_request("nobody", 0)).await;
    assert_same_refusal(&status.expect_err("no such"), Code::NotFound, &refused, "");
    let refused = over_rest(&fleet, "GET", "/v1/workloads/nobody/explain", "");
    let nobody = api::ExplainWorkloadRequest {
        workload: "nobody".to_owned(),
        ..Default::default()
    };
    let status = weft.explain_workload(nobody).await;
    assert_same_refusal(&status.expect_err("no such"), Code::NotFound, &refused, "");
    let request = api::GetWorkloadRequest {
        condition: "perfect".to_owned(),
        ..get_request("web", 0)
    };
    let status = weft
        .get_workload(request)
        .await
        .expect_err("no such condition");
    assert_eq!(problem(&status)["errors"][0]["path"], "condition");
    let request = api::ListWorkloadsRequest {
        state: "perfect".to_owned(),
        ..Default::default()
    };
    let status = weft
        .list_workloads(request)
        .await
        .expect_err("no such state");
    assert_eq!(problem(&status)["errors"][0]["path"], "state");
    let refused = over_rest(&fleet, "GET", "/v1/logs/workloads/web?since=yesterday", "");
    let logs = api::WorkloadLogsRequest {
        workload: "web".to_owned(),
        since: "yesterday".to_owned(),
        ..Default::default()
    };
    let status = weft.workload_logs(logs).await.expect_err("no such time");
    assert_same_refusal(&status, Code::InvalidArgument, &refused, "");

    // Streams that do not begin as they must.
    let eof = api::ExecRequest {
        message: Some(api::exec_request::Message::Eof(true)),
    };
    let status = weft.exec(requests(vec![eof])).await.expect_err("no start");
    assert_eq!(problem(&status)["errors"][0]["path"], "start");
    let empty = api::ExecRequest {
        message: Some(api::exec_request::Message::Start(api::ExecStart {
            workload: "web".to_owned(),
            ..Default::default()
        })),
    };
    let status = weft
        .exec(requests(vec![empty]))
        .await
        .expect_err("no command");
    assert_eq!(problem(&status)["errors"][0]["path"], "command");
    let zero = api::PortForwardRequest {
        message: Some(api::port_forward_request::Message::Start(
            api::PortForwardStart {
                workload: "web".to_owned(),
                ..Default::default()
            },
        )),
    };
    let status = weft
        .port_forward(requests(vec![zero]))
        .await
        .expect_err("no port");
    assert_eq!(problem(&status)["errors"][0]["path"], "port");

    let mut nobody = WeftClient::new(channel(&fleet.cluster, Who::Nobody).await);
    let status = nobody
        .list_workloads(api::ListWorkloadsRequest::default())
        .await;
    assert_eq!(
        status.expect_err("no certificate").code(),
        Code::Unauthenticated
    );
}

//! The doors beside REST: gRPC and WebSocket give the same answers, to those who may ask.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use weft_e2e::doors::{Who, Ws, channel, problem, rest, submit_over_rest, subscriptions};
use weft_e2e::{Cluster, eventually};
use weft_proto::api;
use weft_proto::api::weft_client::WeftClient;

#[path = "../../../examples/grpc/client.rs"]
mod client;

const SOON: Duration = Duration::from_secs(30);

/// Five tasks: three that find something, one with a program of its own, one that fails.
const JOB: &str = r#"{"runtime":"op","op":{"op":"counteq","imm":42},"tasks":[{"data":"KioqYQ=="},
    {"data":"Kg=="},{},{"data":"Zm9vYmFy","op":{"op":"fnv64"}},{"data":"Kg==","offset":99}]}"#;

fn workload() -> Value {
    serde_json::from_str(JOB).expect("JSON")
}

/// What of a result does not depend on where and how fast it was made.
fn essence(result: &Value) -> (u64, Value) {
    let mut fields = BTreeMap::new();
    for name in ["state", "result", "reason", "class", "detail", "attempts"] {
        fields.insert(name, result.get(name).cloned().unwrap_or_default());
    }
    (result["task"].as_u64().unwrap_or(u64::MAX), json!(fields))
}

fn of_json(results: &[Value]) -> BTreeMap<u64, Value> {
    results.iter().map(essence).collect()
}

fn of_grpc(results: &[api::TaskResult]) -> BTreeMap<u64, Value> {
    let results = results.iter().map(|result| {
        let found = result.result.as_ref();
        let found = found.map(|json| serde_json::from_str::<Value>(json).expect("JSON"));
        let why = result.why.clone();
        essence(&json!({
            "task": result.task,
            "state": result.state,
            "result": found,
            "reason": why.as_ref().map(|why| &why.reason),
            "class": why.as_ref().map(|why| &why.class),
            "detail": why.as_ref().map(|why| &why.detail),
            "attempts": result.attempts,
        }))
    });
    results.collect()
}

async fn results_over_grpc(
    weft: &mut WeftClient<tonic::transport::Channel>,
    job: &str,
) -> Vec<api::TaskResult> {
    let wanted = api::ResultsRequest {
        job: job.to_owned(),
        ..Default::default()
    };
    let mut stream = weft.results(wanted).await.expect("a stream").into_inner();
    let mut results = Vec::new();
    while let Some(result) = stream.message().await.expect("a result") {
        results.push(result);
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn every_door_gives_the_same_answers() {
    let cluster = Cluster::up(1);
    let job = submit_over_rest(&cluster, JOB);
    let path = format!("/v1/jobs/{job}/results?wait=60s");
    let expected = of_json(&rest(&cluster, &[], &path));
    assert_eq!(expected.len(), 5, "{expected:?}");
    assert_eq!(expected[&0]["result"]["count"], 3);
    assert_eq!(expected[&4]["state"], "failed", "{expected:?}");

    let mut ws = Ws::open(&cluster).await;
    let submit =
        json!({"id": "s", "type": "submit", "workload": workload(), "idempotency_key": "k"});
    let submitted = ws.ask(&submit).await;
    assert_eq!(submitted["type"], "submitted", "{submitted}");
    let again = ws.ask(&submit).await;
    assert_eq!(
        again["job"]["id"], submitted["job"]["id"],
        "the key is the same"
    );
    let by_ws = submitted["job"]["id"].as_str().expect("an id").to_owned();
    let results = json!({"id": "r", "type": "results", "job": by_ws});
    assert_eq!(of_json(&ws.follow(&results).await), expected);
    let watched = ws
        .follow(&json!({"id": "w", "type": "watch", "job": by_ws}))
        .await;
    let shown = rest(&cluster, &[], &format!("/v1/jobs/{by_ws}")).remove(0);
    assert_eq!(
        watched.last(),
        Some(&shown),
        "watching ends with what REST shows"
    );
    let rest_of_it = json!({"id": "r", "type": "results", "job": by_ws, "order": "task", "seen": [[0, 1], [3, 3]]});
    let tasks: Vec<u64> = ws
        .follow(&rest_of_it)
        .await
        .iter()
        .map(|result| essence(result).0)
        .collect();
    assert_eq!(tasks, [2, 4], "what was seen does not come again");

    let mut weft = WeftClient::new(channel(&cluster, Who::Admin).await);
    let request = api::SubmitRequest {
        workload: JOB.to_owned(),
        wait_ms: 60_000,
        ..Default::default()
    };
    let ended = weft.submit(request).await.expect("a job").into_inner();
    assert_eq!(ended.state, "failed", "{ended:?}");
    assert_eq!(
        of_grpc(&results_over_grpc(&mut weft, &ended.id).await),
        expected
    );
    let shown = rest(&cluster, &[], &format!("/v1/jobs/{}", ended.id)).remove(0);
    let why = ended.why.clone().expect("a reason");
    assert_eq!(
        (json!(why.reason), json!(why.detail)),
        (shown["reason"].clone(), shown["detail"].clone())
    );
    let counts = ended.tasks.expect("counts");
    assert_eq!(
        json!([counts.completed, counts.failed]),
        json!([shown["tasks"]["completed"], shown["tasks"]["failed"]])
    );

    let streamed = stream_over_grpc(&mut weft).await;
    assert_eq!(
        of_grpc(&results_over_grpc(&mut weft, &streamed).await),
        expected
    );
    let listed = weft
        .list_jobs(api::ListJobsRequest::default())
        .await
        .expect("jobs")
        .into_inner();
    let listed: Vec<&str> = listed.jobs.iter().map(|job| job.id.as_str()).collect();
    assert_eq!(
        listed,
        [streamed.as_str(), &ended.id, &by_ws, &job],
        "newest first"
    );
    let nodes = weft
        .list_nodes(api::ListNodesRequest::default())
        .await
        .expect("nodes")
        .into_inner();
    assert_eq!(nodes.nodes.len(), 1);
    assert_eq!(json!(nodes.nodes[0].id), cluster.nodes()[0]["id"]);
    let seen = events_over_grpc(&mut weft).await;
    assert!(
        seen.iter().any(|event| event.subject == ended.id),
        "{seen:?}"
    );
}

/// The same job as a stream, its bytes as bytes.
async fn stream_over_grpc(weft: &mut WeftClient<tonic::transport::Channel>) -> String {
    use api::submit_stream_request::Message;
    let task = |data: &'static [u8]| api::Task {
        input: Some(api::task::Input::Data(Bytes::from_static(data))),
        ..Default::default()
    };
    let head = r#"{"runtime":"op","op":{"op":"counteq","imm":42}}"#;
    let fnv = api::Task {
        op: Some(r#"{"op":"fnv64"}"#.to_owned()),
        ..task(b"foobar")
    };
    let beyond = api::Task {
        offset: Some(99),
        ..task(b"*")
    };
    let batches = [
        vec![task(b"***a"), task(b"*")],
        vec![],
        vec![api::Task::default(), fnv, beyond],
    ];
    let messages = std::iter::once(Message::Workload(head.to_owned()))
        .chain(
            batches
                .into_iter()
                .map(|tasks| Message::Tasks(api::TaskBatch { tasks })),
        )
        .map(|message| api::SubmitStreamRequest {
            message: Some(message),
        })
        .collect::<Vec<_>>();
    let job = weft
        .submit_stream(futures::stream::iter(messages))
        .await
        .expect("a job")
        .into_inner();
    assert_eq!(job.tasks.expect("counts").total, 5);
    job.id
}

async fn events_over_grpc(weft: &mut WeftClient<tonic::transport::Channel>) -> Vec<api::Event> {
    let wanted = api::EventsRequest {
        r#type: "job.".to_owned(),
        ..Default::default()
    };
    let mut events = weft.events(wanted).await.expect("a stream").into_inner();
    let mut seen = Vec::new();
    while let Some(event) = events.message().await.expect("an event") {
        seen.push(event);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_docs_works() {
    let cluster = Cluster::up(1);
    let admin: Value =
        serde_json::from_slice(&std::fs::read(cluster.admin_file()).expect("a file"))
            .expect("JSON");
    let token = admin["token"].as_str().expect("a token");
    let channel = channel(&cluster, Who::Nobody).await;
    let results = client::count_asterisks(channel, token, &["a*b", "", "***"])
        .await
        .expect("results");
    let counts: Vec<Value> = results
        .iter()
        .map(|result| {
            serde_json::from_str::<Value>(result.result()).expect("JSON")["count"].clone()
        })
        .collect();
    assert_eq!(counts, [json!(1), json!(0), json!(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_cancelled_and_tried_again_at_every_door() {
    let cluster = Cluster::up(0);
    let mut ws = Ws::open(&cluster).await;
    let job = submit_over_rest(&cluster, JOB);
    ws.send(&json!({"id": "w", "type": "watch", "job": job}))
        .await;
    let first = ws.answer("w").await;
    assert_eq!(first["job"]["state"], "queued", "{first}");
    assert_eq!(
        first["job"]["reason"],
        rest(&cluster, &[], &format!("/v1/jobs/{job}"))[0]["reason"]
    );
    let cancelled = ws
        .ask(&json!({"id": "c", "type": "cancel", "job": job}))
        .await;
    assert_eq!(cancelled["type"], "cancelled", "{cancelled}");
    assert_eq!(cancelled["job"]["state"], "cancelled", "{cancelled}");
    let mut weft = WeftClient::new(channel(&cluster, Who::Admin).await);
    let again = weft
        .cancel(api::CancelRequest { job: job.clone() })
        .await
        .expect("a job")
        .into_inner();
    assert_eq!(again.state, "cancelled", "cancelling twice is no error");
    let second = submit_over_rest(&cluster, JOB);
    let waited = api::WaitRequest {
        job: second.clone(),
        timeout_ms: 200,
    };
    assert_eq!(
        weft.wait(waited).await.expect("a job").into_inner().state,
        "queued"
    );
    let subscribed = json!({"id": "r", "type": "results", "job": second});
    ws.send(&subscribed).await;
    let stopped = ws
        .ask(&json!({"id": "x", "type": "stop", "subscription": "r"}))
        .await;
    assert_eq!(stopped["type"], "stopped", "{stopped}");
    // The id of the stopped subscription is free after its `end`, which may come before or after
    // `stopped`.
    ws.send(&json!({"id": "s", "type": "results", "job": second, "wait": "0s"}))
        .await;
    let end = ws.answer("s").await;
    assert_eq!(
        (&end["type"], &end["complete"]),
        (&json!("end"), &json!(false)),
        "{end}"
    );
    weft.retry(api::RetryRequest {
        job: second.clone(),
    })
    .await
    .expect("a job");
    let ended = weft
        .cancel(api::CancelRequest { job: second })
        .await
        .expect("a job")
        .into_inner();
    assert_eq!(ended.tasks.expect("counts").cancelled, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_go_away_leave_nothing() {
    let cluster = Cluster::up(0);
    // Nothing runs it: whoever follows it does so until he leaves.
    let job = submit_over_rest(&cluster, JOB);
    let total = || {
        subscriptions(&cluster)
            .iter()
            .map(|(_, count)| count)
            .sum::<u64>()
    };
    assert_eq!(
        (subscriptions(&cluster).len(), total()),
        (4, 0),
        "{:?}",
        subscriptions(&cluster)
    );

    let mut ws = Ws::open(&cluster).await;
    ws.send(&json!({"id": "w", "type": "watch", "job": job}))
        .await;
    ws.send(&json!({"id": "r", "type": "results", "job": job}))
        .await;
    ws.answer("w").await;
    let mut weft = WeftClient::new(channel(&cluster, Who::Admin).await);
    let watched = weft
        .watch(api::WatchRequest { job: job.clone() })
        .await
        .expect("a stream");
    let wanted = api::ResultsRequest {
        job: job.clone(),
        ..Default::default()
    };
    let results = weft.results(wanted).await.expect("a stream");
    let wanted = api::EventsRequest {
        follow: true,
        ..Default::default()
    };
    let events = weft.events(wanted).await.expect("a stream");
    let path = format!(
        "https://weft:{}/v1/jobs/{job}/results?wait=10m",
        cluster.port()
    );
    let pki = cluster.data_dir().join("pki/admin");
    let mut curl = std::process::Command::new("curl")
        .args([
            "-sS",
            "--resolve",
            &format!("weft:{}:127.0.0.1", cluster.port()),
            &path,
            "--cacert",
        ])
        .arg(pki.join("ca.pem"))
        .arg("--cert")
        .arg(pki.join("cert.pem"))
        .arg("--key")
        .arg(pki.join("key.pem"))
        .spawn()
        .expect("curl runs");
    // Two of the WebSocket and itself, three of gRPC, one of REST.
    eventually("everybody follows", SOON, || total() == 7);

    // A job of which only a part comes.
    let (sender, receiver) = futures::channel::mpsc::unbounded();
    let half = tokio::spawn({
        let mut weft = weft.clone();
        async move { weft.submit_stream(receiver).await }
    });
    let head = api::submit_stream_request::Message::Workload(
        r#"{"runtime":"op","op":{"op":"crc32c"}}"#.to_owned(),
    );
    sender
        .unbounded_send(api::SubmitStreamRequest {
            message: Some(head),
        })
        .expect("it is sent");
    half.abort();

    drop((ws, watched, results, events, weft));
    curl.kill().expect("it can be killed");
    curl.wait().expect("it can be waited for");
    eventually("nobody follows any more", SOON, || total() == 0);
    let jobs = rest(&cluster, &[], "/v1/jobs").remove(0);
    assert_eq!(jobs["items"].as_array().map(Vec::len), Some(1), "{jobs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_open_only_their_own_doors() {
    let cluster = Cluster::up(0);
    let agent = cluster.agent("node-a", None, &[]);
    let node = Who::Node(agent.data_dir.clone());
    let admin: Value =
        serde_json::from_slice(&std::fs::read(cluster.admin_file()).expect("a file"))
            .expect("JSON");
    let token = admin["token"].as_str();
    for (who, code, http) in [
        (Who::Nobody, Code::Unauthenticated, 401),
        (node.clone(), Code::PermissionDenied, 403),
    ] {
        let channel = channel(&cluster, who.clone()).await;
        let mut weft = WeftClient::new(channel.clone());
        let status = weft
            .list_nodes(api::ListNodesRequest::default())
            .await
            .expect_err("refused");
        assert_eq!(status.code(), code, "{status:?}");
        assert_eq!(problem(&status)["reason"], "permission-denied");
        match Ws::try_open(&cluster, who, None).await {
            Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), http),
            other => panic!("{:?}", other.map(|_| ())),
        }
        // Whether it lives is told to everybody.
        let check = HealthCheckRequest {
            service: "weft.v1.Weft".to_owned(),
        };
        let mut health = HealthClient::new(channel);
        assert_eq!(
            health
                .check(check.clone())
                .await
                .expect("health")
                .into_inner()
                .status,
            1
        );
        assert_eq!(health.watch(check).await.expect_err("refused").code(), code);
    }
    assert!(
        Ws::try_open(&cluster, Who::Nobody, token).await.is_ok(),
        "a token opens it"
    );
    let forged = Some("weft-api-00000000-nonsense");
    assert!(Ws::try_open(&cluster, Who::Nobody, forged).await.is_err());

    let mut agents =
        weft_proto::v1::agent_client::AgentClient::new(channel(&cluster, Who::Admin).await);
    let status = agents
        .session(futures::stream::pending())
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let status = agents
        .get_blob(weft_proto::v1::GetBlobRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_describes_itself_and_nothing_of_the_agents() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServiceResponse};
    let cluster = Cluster::up(0);
    let mut client = ServerReflectionClient::new(channel(&cluster, Who::Admin).await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client
        .server_reflection_info(futures::stream::iter([request]))
        .await;
    let answer = answers
        .expect("answers")
        .into_inner()
        .message()
        .await
        .expect("an answer");
    let Some(MessageResponse::ListServicesResponse(list)) =
        answer.and_then(|answer| answer.message_response)
    else {
        panic!("not a list of services");
    };
    let names: Vec<String> = list
        .service
        .into_iter()
        .map(|ServiceResponse { name }| name)
        .collect();
    assert!(names.contains(&"weft.v1.Weft".to_owned()), "{names:?}");
    assert!(!names.contains(&"weft.v1.Agent".to_owned()), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_slowed_and_loses_nothing() {
    const TASKS: usize = 60_000;
    let cluster = Cluster::up(1);
    let body =
        json!({"runtime": "op", "op": {"op": "crc32c"}, "inputs": {"array": TASKS}}).to_string();
    let job = submit_over_rest(&cluster, &body);
    let mut slow = Ws::open(&cluster).await;
    slow.send(&json!({"id": "r", "type": "results", "job": job}))
        .await;
    let mut other = Ws::open(&cluster).await;
    let told = other
        .follow(&json!({"id": "w", "type": "watch", "job": job}))
        .await;
    assert_eq!(
        told.last().map(|job| job["state"].clone()),
        Some(json!("succeeded"))
    );
    let created = told
        .first()
        .and_then(|job| job["created_at"].as_str())
        .is_some();
    assert!(
        created && told.len() < 600,
        "changes are told together: {}",
        told.len()
    );
    let mut tasks = vec![false; TASKS];
    loop {
        let message = slow.answer("r").await;
        if message["type"] == "end" {
            break;
        }
        for result in message["results"].as_array().into_iter().flatten() {
            let task = result["task"]
                .as_u64()
                .and_then(|task| usize::try_from(task).ok());
            let known = task
                .and_then(|task| tasks.get_mut(task))
                .expect("a task of the job");
            assert!(!std::mem::replace(known, true), "{result} came twice");
        }
    }
    assert!(tasks.iter().all(|known| *known), "every result came");
}

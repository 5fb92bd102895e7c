//! The doors beside REST: gRPC and WebSocket give the same answers, and withstand what is thrown
//! at them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use weft_e2e::doors::{Who, Ws, channel, problem, raw_call, tls};
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

fn rest(cluster: &Cluster, args: &[&str], path: &str) -> Vec<Value> {
    let output = cluster.curl(args, path).stdout;
    let text = String::from_utf8_lossy(&output);
    let lines = text.lines().map(|line| serde_json::from_str(line));
    lines
        .collect::<Result<_, _>>()
        .unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn submit_over_rest(cluster: &Cluster, body: &str) -> String {
    let json = ["-H", "content-type: application/json", "-d", body];
    let job = rest(cluster, &json, "/v1/jobs").remove(0);
    job["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{job}"))
        .to_owned()
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
    // Its `end` may have come before `stopped`; the id is free in any case.
    ws.send(&json!({"id": "r", "type": "results", "job": second, "wait": "0s"}))
        .await;
    let end = ws.answer("r").await;
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

/// How many clients follow something, over all doors.
fn subscriptions(cluster: &Cluster) -> Vec<(String, u64)> {
    let text = String::from_utf8_lossy(&cluster.curl(&[], "/metrics").stdout).into_owned();
    let lines = text.lines().filter(|line| {
        line.starts_with("weft_subscriptions{") || line.starts_with("weft_websocket_connections ")
    });
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(name, count)| (name.to_owned(), count.parse().unwrap_or(u64::MAX)))
        .collect()
}

fn open_files(cluster: &Cluster) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", cluster.server_pid())).map_or(0, Iterator::count)
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
async fn garbage_at_the_websocket_is_refused_by_the_name_of_its_field() {
    let cluster = Cluster::up(1);
    let mut ws = Ws::open(&cluster).await;
    for (message, path) in [
        (r#"{"id":"x","type":"subm"#, ""),
        ("", ""),
        ("null", ""),
        (r#"["x"]"#, ""),
        (r#"{"id":1,"type":"ping"}"#, "id"),
        (r#"{"id":"x","type":"shout"}"#, "type"),
        (r#"{"id":"x","type":"ping","volume":11}"#, ""),
        (r#"{"id":"x","type":"watch","job":7}"#, "job"),
        (
            r#"{"id":"x","type":"results","job":"j","seen":[[-1,0]]}"#,
            "seen[0][0]",
        ),
        (
            r#"{"id":"x","type":"submit","workload":{"runtime":"op"}}"#,
            "workload.op",
        ),
        (
            r#"{"id":"x","type":"submit","workload":{"runtime":"op","op":{"op":"sum"}}}"#,
            "workload.op",
        ),
        (
            r#"{"id":"x","type":"submit","workload":{"runtime":"op","op":{"op":"crc32c"},"tasks":[{},{"length":-1}]}}"#,
            "workload.tasks[1].length",
        ),
        (
            r#"{"id":"x","type":"submit","workload":{"runtime":"op","op":{"op":"crc32c"},"tasks":[{"data":"*"}]}}"#,
            "workload.tasks[0].data",
        ),
    ] {
        ws.text(message).await;
        let answer = ws.next().await.expect("an answer");
        assert_eq!(answer["type"], "error", "{message}: {answer}");
        assert_eq!(answer["problem"]["reason"], "invalid-spec", "{answer}");
        let found = answer["problem"]["errors"][0]["path"]
            .as_str()
            .unwrap_or_default();
        assert!(found.starts_with(path), "{message}: {answer}");
        assert_eq!(
            ws.ask(&json!({"id": "p", "type": "ping"})).await["type"],
            "pong"
        );
    }
    ws.socket
        .send(Message::binary(vec![0xff; 9]))
        .await
        .expect("it is sent");
    let answer = ws.next().await.expect("an answer");
    assert_eq!(
        answer["problem"]["errors"][0]["path"], "message",
        "{answer}"
    );
    let missing = ws
        .ask(&json!({"id": "w", "type": "watch", "job": "job-0000000000000"}))
        .await;
    assert_eq!(missing["problem"]["status"], 404, "{missing}");

    let job = submit_over_rest(
        &cluster,
        r#"{"runtime":"op","op":{"op":"crc32c"},"resources":{"cpu":"9999"}}"#,
    );
    let watch = |id: String| json!({"id": id, "type": "watch", "job": job});
    ws.ask(&watch("same".to_owned())).await;
    ws.send(&watch("same".to_owned())).await;
    let refused = loop {
        let message = ws.answer("same").await;
        if message["type"] == "error" {
            break message;
        }
    };
    assert_eq!(refused["problem"]["errors"][0]["path"], "id", "{refused}");
    for number in 1..32 {
        assert_eq!(
            ws.ask(&watch(number.to_string())).await["type"],
            "job",
            "{number}"
        );
    }
    let full = ws.ask(&watch("more".to_owned())).await;
    assert_eq!(full["problem"]["status"], 429, "{full}");

    // What makes a stream of frames unreadable ends its connection, and says why.
    let masked = |first: u8, length: u64, payload: &[u8]| {
        let mut frame = vec![first, 0x80 | 127];
        frame.extend_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(payload);
        frame
    };
    for (frame, field) in [
        (masked(0x81, 1 << 30, b"{"), "larger than"),
        (masked(0x81, u64::MAX >> 1, b"{"), "larger than"),
        (masked(0x81, 2, &[0xff, 0xfe]), "message"),
        (masked(0xf1, 2, b"{}"), "message"),
        (vec![0x81, 2, b'{', b'}'], "message"),
    ] {
        let mut ws = Ws::open(&cluster).await;
        ws.socket
            .get_mut()
            .write_all(&frame)
            .await
            .expect("it is sent");
        let answer = ws
            .next()
            .await
            .unwrap_or_else(|| panic!("no answer to {frame:?}"));
        assert_eq!(answer["type"], "error", "{frame:?}: {answer}");
        assert!(
            answer["problem"]["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(field)),
            "{answer}"
        );
        assert_eq!(ws.next().await, None, "the connection is closed");
    }
    let mut fragment = Ws::open(&cluster).await;
    let frame = Frame::message(&b"{\"id\":\"p\","[..], OpCode::Data(Data::Text), false);
    fragment
        .socket
        .send(Message::Frame(frame))
        .await
        .expect("it is sent");
    let frame = Frame::message(
        &b"\"type\":\"ping\"}"[..],
        OpCode::Data(Data::Continue),
        true,
    );
    fragment
        .socket
        .send(Message::Frame(frame))
        .await
        .expect("it is sent");
    assert_eq!(
        fragment.answer("p").await["type"],
        "pong",
        "fragments are one message"
    );
    assert_eq!(
        ws.ask(&json!({"id": "p", "type": "ping"})).await["type"],
        "pong"
    );
    let plain = rest(&cluster, &[], "/v1/ws").remove(0);
    assert_eq!(
        plain["type"], "urn:weft:problem:upgrade-required",
        "{plain}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_at_grpc_is_refused_by_the_name_of_its_field() {
    let cluster = Cluster::up(0);
    let channel = channel(&cluster, Who::Admin).await;
    const SUBMIT: &str = "/weft.v1.Weft/Submit";
    for (bytes, path) in [
        (
            &b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            "message",
        ),
        // The workload: longer than the message, as a number, not UTF-8.
        (b"\x0a\x7f{", "workload"),
        (b"\x08\x01", "workload"),
        (b"\x0a\x02\xff\xfe", "workload"),
        // A second task that is cut off.
        (b"\x12\x00\x12\x04\x0a\x07ab", "tasks"),
    ] {
        let status = raw_call(&channel, SUBMIT, Bytes::from_static(bytes))
            .await
            .expect_err("garbage");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let found = problem(&status)["errors"][0]["path"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            found == path || found == "message",
            "{found} of {bytes:?}: {status:?}"
        );
        assert_eq!(problem(&status)["reason"], "invalid-spec");
    }
    let huge = Bytes::from(vec![0; 33 << 20]);
    let status = raw_call(&channel, SUBMIT, huge)
        .await
        .expect_err("too large");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert_eq!(problem(&status)["type"], "urn:weft:problem:body-too-large");
    let status = raw_call(&channel, "/weft.v1.Weft/Fly", Bytes::new())
        .await
        .expect_err("unknown");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(problem(&status)["type"], "urn:weft:problem:no-such-method");

    let mut weft = WeftClient::new(channel);
    for (workload, path) in [
        ("", "workload"),
        ("{\"runtime\":", "workload"),
        ("[]", "workload"),
        (r#"{"runtime":"op"}"#, "workload.op"),
        (r#"{"runtime":"op","op":{"op":"sum"}}"#, "workload.op"),
        (
            r#"{"runtime":"op","op":{"op":"crc32c"},"priority":"high"}"#,
            "workload.priority",
        ),
        (
            r#"{"runtime":"op","op":{"op":"crc32c"},"tasks":[{"offset":-1}]}"#,
            "workload.tasks[0].offset",
        ),
        (
            r#"{"runtime":"op","runtime":"op","op":{"op":"crc32c"}}"#,
            "workload",
        ),
    ] {
        let request = api::SubmitRequest {
            workload: workload.to_owned(),
            ..Default::default()
        };
        let status = weft.submit(request).await.expect_err("garbage");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let found = problem(&status)["errors"][0]["path"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(found.starts_with(path), "{found} of {workload}: {status:?}");
    }
    let task = api::Task {
        op: Some(r#"{"op":"counteq","imm":-1}"#.to_owned()),
        ..Default::default()
    };
    let request = api::SubmitRequest {
        workload: r#"{"runtime":"op","op":{"op":"crc32c"}}"#.to_owned(),
        tasks: vec![api::Task::default(), task],
        ..Default::default()
    };
    let status = weft.submit(request).await.expect_err("a negative number");
    assert!(status.message().starts_with("tasks[1].op"), "{status:?}");
    let status = weft
        .get_job(api::GetJobRequest {
            job: "x".repeat(100_000),
        })
        .await
        .expect_err("no id");
    assert_eq!(status.code(), Code::NotFound, "{status:?}");
    let wanted = api::ResultsRequest {
        job: "job-0000000000000".to_owned(),
        order: "random".to_owned(),
        ..Default::default()
    };
    let status = weft.results(wanted).await.expect_err("an unknown order");
    assert!(status.message().starts_with("order"), "{status:?}");
    let request = api::SubmitRequest {
        workload: JOB.to_owned(),
        ..Default::default()
    };
    assert_eq!(
        weft.submit(request)
            .await
            .expect("a job")
            .into_inner()
            .state,
        "queued",
        "the door goes on working"
    );
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

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_that_come_and_go_leave_the_server_as_it_was() {
    let cluster = Cluster::up(0);
    let job = submit_over_rest(&cluster, JOB);
    let before = open_files(&cluster);
    for number in 0..1_000 {
        match number % 4 {
            0 => drop(std::net::TcpStream::connect(format!(
                "127.0.0.1:{}",
                cluster.port()
            ))),
            1 => {
                let stream =
                    tokio::net::TcpStream::connect(format!("127.0.0.1:{}", cluster.port())).await;
                let _ = stream
                    .expect("a connection")
                    .write_all(b"\x16\x03\x01\x02\x00\x01")
                    .await;
            }
            2 => drop(
                tls(&cluster, &Who::Admin, "h2")
                    .await
                    .expect("a connection"),
            ),
            _ => {
                let mut ws = Ws::open(&cluster).await;
                ws.send(&json!({"id": "r", "type": "results", "job": job}))
                    .await;
            }
        }
    }
    eventually("nobody follows any more", SOON, || {
        subscriptions(&cluster).iter().all(|(_, count)| *count == 0)
    });
    eventually("the sockets are closed", SOON, || {
        open_files(&cluster) <= before + 8
    });
    let mut ws = Ws::open(&cluster).await;
    assert_eq!(
        ws.ask(&json!({"id": "p", "type": "ping"})).await["type"],
        "pong"
    );
}

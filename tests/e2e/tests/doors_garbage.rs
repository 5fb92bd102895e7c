//! What is thrown at the doors beside REST is refused by the name of its field, and they go on
//! working.

use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tonic::Code;
use weft_e2e::doors::{
    Who, Ws, channel, problem, raw_call, rest, submit_over_rest, subscriptions, tls,
};
use weft_e2e::{Cluster, eventually};
use weft_proto::api;
use weft_proto::api::weft_client::WeftClient;

const SOON: Duration = Duration::from_secs(30);
const JOB: &str = r#"{"runtime":"op","op":{"op":"crc32c"}}"#;

fn open_files(cluster: &Cluster) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", cluster.server_pid())).map_or(0, Iterator::count)
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
        (b"\x12\x00\x12\x04\x0a\x07ab", "tasks.input"),
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

use std::time::Duration;

use tonic::Status;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_proto::v1::server_message::Message as Answer;
use weft_types::BlobHash;

use crate::identity::now;
use crate::testing::{
    Node, Server, dispatch, held, is_cancelled, numbers, op_job, slow_job, until,
};

async fn joined() -> (Server, Node, tempfile::TempDir) {
    let server = Server::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path(), Some(server.token())).await;
    (server, node, dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_greets_with_what_it_offers_and_beats() {
    let (mut server, mut node, _dir) = joined().await;
    let (mut session, hello) = server.welcomed(7).await;
    let capacity = hello.capacity.unwrap();
    assert_eq!(capacity.cpu_millicores, 2_000);
    assert!(capacity.max_held_tasks > 0 && hello.held.is_empty() && hello.last_epoch == 0);
    (&mut node.first).await.unwrap().unwrap();
    let beat = loop {
        match session.any().await {
            Message::Heartbeat(beat) => break beat,
            // How its units are is told at once as well.
            Message::Units(_) => {}
            other => panic!("{other:?} came before a heartbeat"),
        }
    };
    assert_eq!(beat.epoch, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_held_and_sent_again_until_they_are_acknowledged() {
    let (mut server, _node, _dir) = joined().await;
    let (mut session, _) = server.welcomed(1).await;
    session
        .send(Answer::Dispatch(dispatch(5, &op_job(), 0..100)))
        .await;
    let results = session.results(100).await;
    assert!(results.values().all(|result| *result == (1, 0)));

    server.break_off();
    let (mut session, hello) = server.welcomed(2).await;
    assert_eq!(hello.last_epoch, 1);
    assert_eq!(numbers(&hello.held, 5), (0..100).collect::<Vec<_>>());
    assert_eq!(session.results(100).await, results);
    let tasks: Vec<u32> = (0..99).collect();
    let ack = v1::ResultAck {
        tasks: held(5, &tasks),
    };
    session.send(Answer::Ack(ack)).await;
    // What is dispatched after the acknowledgement shows that it was read.
    session
        .send(Answer::Dispatch(dispatch(6, &op_job(), 0..1)))
        .await;
    session.results(1).await;

    server.break_off();
    let (_session, hello) = server.welcomed(3).await;
    assert_eq!(numbers(&hello.held, 5), [99]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_goes_on_while_the_server_is_away() {
    let (mut server, node, _dir) = joined().await;
    let (session, _) = server.welcomed(1).await;
    session
        .send(Answer::Dispatch(dispatch(5, &slow_job(1_000), 0..3)))
        .await;
    until("two tasks fit", || node.executor.load() == (2, 3)).await;
    server.break_off();
    node.gate.0.add_permits(1);
    until("the third has its room", || {
        node.executor.control((5, 2)).is_some()
    })
    .await;
    let (mut session, hello) = server.welcomed(2).await;
    assert_eq!(numbers(&hello.held, 5), [0, 1, 2]);
    assert_eq!(session.results(1).await.len(), 1);
    node.gate.0.add_permits(2);
    assert_eq!(session.results(2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_tasks_are_stopped_when_the_server_says_so_in_its_welcome() {
    let (mut server, node, _dir) = joined().await;
    let (session, _) = server.welcomed(1).await;
    session
        .send(Answer::Dispatch(dispatch(5, &slow_job(1_000), 0..2)))
        .await;
    until("both run", || node.executor.load() == (2, 2)).await;
    let control = node.executor.control((5, 0));
    server.break_off();
    let mut session = server.session().await;
    session.welcome(2, held(5, &[0])).await;
    until("one is stopped", || node.executor.load() == (1, 1)).await;
    assert!(is_cancelled(&control));
    assert!(!is_cancelled(&node.executor.control((5, 1))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_job_is_stopped_forgotten_and_has_no_results() {
    let (mut server, node, _dir) = joined().await;
    let (mut session, _) = server.welcomed(1).await;
    session
        .send(Answer::Dispatch(dispatch(5, &slow_job(1_000), 0..4)))
        .await;
    until("two run and two wait", || node.executor.load() == (2, 4)).await;
    let cancel = v1::Cancel {
        tasks: held(5, &[]),
        reason: "cancelled".to_owned(),
    };
    session.send(Answer::Cancel(cancel)).await;
    until("nothing is left", || node.executor.load() == (0, 0)).await;
    session
        .send(Answer::Dispatch(dispatch(6, &op_job(), 0..1)))
        .await;
    loop {
        if let Message::Results(batch) = session.next().await {
            assert_eq!(batch.groups[0].job, 6);
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recalled_tasks_are_given_back_unless_they_run() {
    let (mut server, node, _dir) = joined().await;
    let (mut session, _) = server.welcomed(1).await;
    session
        .send(Answer::Dispatch(dispatch(5, &slow_job(2_000), 0..3)))
        .await;
    until("one runs", || node.executor.load() == (1, 3)).await;
    let recall = v1::Recall {
        tasks: held(5, &[0, 1, 2]),
    };
    session.send(Answer::Recall(recall)).await;
    let handback = loop {
        if let Message::Handback(handback) = session.next().await {
            break handback;
        }
    };
    assert_eq!(numbers(&handback.tasks, 5), [1, 2]);
    assert_eq!(handback.reason, 0);
    assert_eq!(node.executor.load(), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_stops_everything_and_does_not_come_back() {
    let (mut server, mut node, _dir) = joined().await;
    let (session, _) = server.welcomed(1).await;
    session
        .send(Answer::Dispatch(dispatch(5, &slow_job(1_000), 0..1)))
        .await;
    until("it runs", || node.executor.load() == (1, 1)).await;
    let control = node.executor.control((5, 0));
    let goodbye = v1::Goodbye {
        code: "removed".to_owned(),
        detail: String::new(),
    };
    session.send(Answer::Goodbye(goodbye)).await;
    node.removed().await;
    until("it is stopped", || node.executor.load() == (0, 0)).await;
    assert!(is_cancelled(&control));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_removed_while_it_was_away_learns_it_from_the_refusal() {
    let (server, dir) = (Server::start().await, tempfile::tempdir().unwrap());
    let refusal = Status::permission_denied("node n1 was removed");
    server.state.refusals.lock().push_back(refusal);
    let mut node = Node::start(dir.path(), Some(server.token())).await;
    node.removed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_comes_back_by_its_identity_without_a_token() {
    let (mut server, node, dir) = joined().await;
    let (_session, _) = server.welcomed(1).await;
    node.shutdown().await;
    server
        .state
        .refusals
        .lock()
        .push_back(Status::unavailable("not yet"));
    let _node = Node::start(dir.path(), None).await;
    let (_session, hello) = server.welcomed(2).await;
    assert_eq!(hello.last_epoch, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_at_its_half_life_within_the_session() {
    let server = Server::start().await;
    *server.state.joined_valid.lock() = (now(), Duration::from_secs(12));
    let dir = tempfile::tempdir().unwrap();
    let mut server = server;
    let node = Node::start(dir.path(), Some(server.token())).await;
    let (mut session, _) = server.welcomed(1).await;
    let Message::Renew(request) = session.next().await else {
        panic!("it does not ask for a certificate");
    };
    let id = "n1".parse().unwrap();
    let day = Duration::from_secs(86_400);
    let certificate = server
        .state
        .authority
        .sign_node_csr(&request.csr, &id, day, now())
        .unwrap();
    let renewed = v1::RenewResponse {
        certificate: certificate.der().to_vec().into(),
        error: String::new(),
    };
    session.send(Answer::Renewed(renewed)).await;
    session
        .send(Answer::Dispatch(dispatch(5, &op_job(), 0..1)))
        .await;
    assert_eq!(session.results(1).await.len(), 1);
    let installed = std::fs::read_to_string(dir.path().join("identity/cert.pem")).unwrap();
    assert_eq!(installed.trim(), certificate.to_pem().trim());
    drop(node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_an_expired_certificate_asks_until_it_is_let_back() {
    let mut server = Server::start().await;
    let hour = Duration::from_secs(3_600).as_millis() as u64;
    let long_ago = weft_types::Timestamp(now().as_millis() - hour);
    *server.state.joined_valid.lock() = (long_ago, Duration::from_secs(60));
    *server.state.asks_before_return.lock() = 1;
    let dir = tempfile::tempdir().unwrap();
    let _node = Node::start(dir.path(), Some(server.token())).await;
    server.welcomed(1).await;
    assert_eq!(*server.state.asks_before_return.lock(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_is_fetched_once_although_the_transfer_breaks_off() {
    let (mut server, _node, _dir) = joined().await;
    let data = bytes::Bytes::from_static(b"123456789");
    let hash = BlobHash(*blake3::hash(&data).as_bytes());
    server.state.blobs.lock().insert(hash, data);
    for _ in 0..2 {
        let refusal = Status::unavailable("the server stops");
        server.state.blob_refusals.lock().push_back(refusal);
    }
    let (mut session, _) = server.welcomed(1).await;
    let payload = v1::TaskPayload {
        input: Some(v1::task_payload::Input::Blob(
            hash.as_bytes().to_vec().into(),
        )),
        ..v1::TaskPayload::default()
    };
    let mut message = dispatch(5, &op_job(), 0..4);
    for item in &mut message.groups[0].tasks {
        item.payload = prost::Message::encode_to_vec(&payload).into();
    }
    session.send(Answer::Dispatch(message)).await;
    let results = session.results(4).await;
    assert!(results.values().all(|(_, reason)| *reason == 0));
    assert!(server.state.blob_refusals.lock().is_empty());
}

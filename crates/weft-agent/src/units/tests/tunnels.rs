//! Commands, ports and logs over tunnels.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_proto::v1::tunnel_frame::Frame;

use super::*;

fn open(id: &str, unit: UnitId, what: v1::open_tunnel::What) -> Answer {
    Answer::Open(v1::OpenTunnel {
        id: id.to_owned(),
        unit: unit.to_string(),
        what: Some(what),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_inside_has_its_input_its_terminal_and_its_exit_code() {
    let (mut bench, talk) = Bench::serving().await;
    let exec = || {
        v1::open_tunnel::What::Exec(v1::ExecStart {
            command: vec!["sh".to_owned(), "-i".to_owned()],
            tty: true,
            columns: 80,
            rows: 24,
            ..v1::ExecStart::default()
        })
    };
    talk.session.send(open("t1", unit(1), exec())).await;
    let mut tunnel = bench.server.tunnel().await;
    assert_eq!(tunnel.id, "t1");
    let first = Frame::Stdout("sh -i Some((80, 24))\n".into());
    assert_eq!(tunnel.next().await, Some(first));
    tunnel.send(Frame::Stdin("ls\n".into())).await;
    assert_eq!(tunnel.next().await, Some(Frame::Stdout("ls\n".into())));
    let size = v1::Resize {
        columns: 100,
        rows: 30,
    };
    tunnel.send(Frame::Resize(size)).await;
    assert_eq!(tunnel.next().await, Some(Frame::Stderr("100x30".into())));
    tunnel.send(Frame::Eof(true)).await;
    assert_eq!(tunnel.next().await, Some(Frame::Exit(7)));
    assert_eq!(tunnel.next().await, None);
    talk.session.send(open("t2", unit(5), exec())).await;
    let mut tunnel = bench.server.tunnel().await;
    let Some(Frame::Error(error)) = tunnel.next().await else {
        panic!("a command in a unit that is not there");
    };
    assert!(error.detail.contains("not on node n1"), "{}", error.detail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_forwarded_both_ways_until_both_directions_end() {
    let mut bench = Bench::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bench.engine.publish(80, listener.local_addr().unwrap());
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
    let what = v1::open_tunnel::What::Port(80);
    talk.session.send(open("t1", unit(1), what)).await;
    let mut tunnel = bench.server.tunnel().await;
    let (mut stream, _) = listener.accept().await.unwrap();
    tunnel.send(Frame::Data("GET".into())).await;
    tunnel.send(Frame::Data(bytes::Bytes::new())).await;
    let mut asked = String::new();
    stream.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "GET");
    stream.write_all(&vec![7; 200_000]).await.unwrap();
    drop(stream);
    let mut answered = 0;
    while let Some(Frame::Data(bytes)) = tunnel.next().await {
        answered += bytes.len();
        if bytes.is_empty() {
            break;
        }
    }
    assert_eq!(answered, 200_000);
}

async fn lines(tunnel: &mut crate::testing::TunnelEnd, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        let Some(Frame::Lines(lines)) = tunnel.next().await else {
            break;
        };
        let text = |line: v1::UnitLogLine| String::from_utf8(line.line.to_vec()).unwrap();
        all.extend(lines.lines.into_iter().map(text));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_outlive_instances_and_agents_without_a_line_lost_or_doubled() {
    let (mut bench, mut talk) = Bench::serving().await;
    let engine = Arc::clone(&bench.engine);
    for number in 0..50 {
        engine.print(unit(1), &format!("a{number}"));
    }
    engine.exit(unit(1), 1);
    talk.until(unit(1), |status| status.ready && status.restarts == 1)
        .await;
    engine.print(unit(1), "b0");
    bench.crash().await;
    engine.print(unit(1), "b1");
    bench.agent(None).await;
    let mut talk = bench.session().await;
    talk.ready(unit(1)).await;
    let logs = |start: v1::LogsStart| v1::open_tunnel::What::Logs(start);
    let follow = v1::LogsStart {
        follow: true,
        ..v1::LogsStart::default()
    };
    talk.session.send(open("all", unit(1), logs(follow))).await;
    let mut all = bench.server.tunnel().await;
    let expected: Vec<String> = (0..50).map(|number| format!("a{number}")).collect();
    let mut told = lines(&mut all, 52).await;
    assert_eq!(told.split_off(50), ["b0", "b1"]);
    assert_eq!(told, expected);
    engine.print(unit(1), "b2");
    assert_eq!(lines(&mut all, 1).await, ["b2"]);
    let tail = v1::LogsStart {
        tail: 2,
        tail_set: true,
        ..v1::LogsStart::default()
    };
    talk.session.send(open("tail", unit(1), logs(tail))).await;
    let mut tail = bench.server.tunnel().await;
    assert_eq!(lines(&mut tail, 3).await, ["b1", "b2"]);
    let previous = v1::LogsStart {
        previous: true,
        ..v1::LogsStart::default()
    };
    talk.session
        .send(open("previous", unit(1), logs(previous)))
        .await;
    let mut previous = bench.server.tunnel().await;
    assert_eq!(lines(&mut previous, 51).await, expected);
    talk.apply(true, &[]).await;
    talk.gone(unit(1)).await;
    let what = logs(v1::LogsStart::default());
    talk.session.send(open("gone", unit(1), what)).await;
    let mut gone = bench.server.tunnel().await;
    assert_eq!(lines(&mut gone, 60).await.len(), 53);
}

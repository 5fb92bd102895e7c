//! Units over a scripted server and a runtime that outlives the agents.

mod engines;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_core::service::record::{Assignment, Intent, RECORD_VERSION, UnitStatus};
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_proto::v1::server_message::Message as Answer;
use weft_proto::v1::tunnel_frame::Frame;
use weft_types::{
    ContainerSpec, Millicores, Reason, Resources, Run, RuntimeKind, UnitId, Workload, WorkloadId,
    WorkloadState,
};
use weft_unit::Step;

use crate::testing::{DEADLINE, Engine, Node, Server, Session, dispatch, slow_job, until};

/// A server, a node with units, and what outlives its agent.
struct Bench {
    server: Server,
    engine: Arc<Engine>,
    dir: tempfile::TempDir,
    node: Option<Node>,
    epoch: u64,
}

impl Bench {
    async fn start() -> Self {
        let server = Server::start().await;
        let mut bench = Self {
            engine: Engine::new(),
            dir: tempfile::tempdir().unwrap(),
            node: None,
            epoch: 0,
            server,
        };
        let token = bench.server.token();
        bench.agent(Some(token)).await;
        bench
    }

    async fn agent(&mut self, token: Option<String>) {
        let engine = Some(Arc::clone(&self.engine));
        self.node = Some(Node::start_with(self.dir.path(), token, engine).await);
    }

    fn node(&self) -> &Node {
        self.node.as_ref().expect("an agent")
    }

    /// The next session, with what the server knows of the node from before.
    async fn session(&mut self) -> Talk {
        self.epoch += 1;
        let (session, _) = self.server.welcomed(self.epoch).await;
        Talk {
            session,
            statuses: BTreeMap::new(),
            loads: BTreeMap::new(),
            completes: 0,
        }
    }

    /// The agent is killed, and another one starts over the same disk and the same engine.
    async fn restart(&mut self) {
        self.crash().await;
        self.agent(None).await;
    }

    async fn crash(&mut self) {
        self.node.take().expect("an agent").crash().await;
    }

    fn records(&self) -> usize {
        files(&self.dir.path().join("units"))
    }
}

fn files(dir: &Path) -> usize {
    let files = std::fs::read_dir(dir).unwrap().flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|it| it == "json"))
        .count()
}

/// A session, and what the server would have in its store.
struct Talk {
    session: Session,
    statuses: BTreeMap<UnitId, UnitStatus>,
    loads: BTreeMap<String, v1::UnitLoad>,
    completes: usize,
}

impl Talk {
    async fn apply(&self, complete: bool, assignments: &[Assignment]) {
        let apply = assignments.iter().map(|assignment| v1::UnitAssignment {
            assignment: serde_json::to_vec(assignment).unwrap().into(),
            secrets: None,
            may_be_privileged: false,
        });
        self.units(complete, apply.collect()).await;
    }

    async fn units(&self, complete: bool, apply: Vec<v1::UnitAssignment>) {
        let units = v1::Units {
            complete,
            apply,
            ..v1::Units::default()
        };
        self.session.send(Answer::Units(units)).await;
    }

    async fn remove(&self, unit: UnitId) {
        let units = v1::Units {
            remove: vec![unit.to_string()],
            ..v1::Units::default()
        };
        self.session.send(Answer::Units(units)).await;
    }

    async fn hear(&mut self) {
        match self.session.of_units().await {
            Message::Units(reports) => {
                if reports.complete {
                    self.statuses.clear();
                    self.completes += 1;
                }
                for status in reports.statuses {
                    let status: UnitStatus = serde_json::from_slice(&status).unwrap();
                    self.statuses.insert(status.unit, status);
                }
            }
            Message::Loads(loads) => {
                let loads = loads.loads.into_iter();
                self.loads = loads.map(|load| (load.unit.clone(), load)).collect();
            }
            _ => {}
        }
    }

    /// Listens until a unit is reported like this.
    async fn until(&mut self, unit: UnitId, is_so: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        let heard = async {
            loop {
                if let Some(status) = self.statuses.get(&unit).filter(|status| is_so(status)) {
                    return status.clone();
                }
                self.hear().await;
            }
        };
        match tokio::time::timeout(DEADLINE, heard).await {
            Ok(status) => status,
            Err(_) => panic!("never so: {:?}", self.statuses.get(&unit)),
        }
    }

    async fn ready(&mut self, unit: UnitId) -> UnitStatus {
        self.until(unit, |status| status.ready).await
    }

    async fn gone(&mut self, unit: UnitId) {
        self.until(unit, |status| status.gone).await;
    }
}

fn unit(number: u32) -> UnitId {
    UnitId {
        workload: WorkloadId(9),
        number,
    }
}

fn service(number: u32) -> Assignment {
    let mut spec = Workload::new(RuntimeKind::Container);
    spec.run = Run::Service;
    spec.name = Some("web".parse().unwrap());
    spec.resources = Some(Resources {
        cpu: Millicores(100),
        ..Resources::default()
    });
    spec.container = Some(Box::new(ContainerSpec {
        image: "web:1".to_owned(),
        ..ContainerSpec::default()
    }));
    Assignment {
        v: RECORD_VERSION,
        unit: unit(number),
        node: "n1".parse().unwrap(),
        revision: 1,
        restarts: 0,
        epoch: number.into(),
        spec,
        intent: Intent::Run,
        why: String::new(),
        created_ms: 0,
        stopping_ms: None,
        keep_volumes: false,
        explanation: None,
    }
}

fn needs_cpu(number: u32, cpu: u64) -> Assignment {
    let mut assignment = service(number);
    assignment.spec.resources = Some(Resources {
        cpu: Millicores(cpu),
        ..Resources::default()
    });
    assignment
}

fn exclusive(number: u32) -> Assignment {
    let mut assignment = service(number);
    assignment.spec.exclusive = true;
    assignment
}

fn stop(assignment: Assignment) -> Assignment {
    Assignment {
        intent: Intent::Stop,
        why: "scaled down".to_owned(),
        ..assignment
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_runs_is_reported_and_leaves_nothing_when_it_is_to_end() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    let status = talk.ready(unit(1)).await;
    assert_eq!(status.state, WorkloadState::Running);
    assert_eq!(status.source.as_deref(), Some("sha256:1"));
    assert_eq!(bench.records(), 1);
    // The same again, and what it does not change.
    talk.apply(true, &[service(1)]).await;
    talk.apply(false, &[stop(service(1))]).await;
    let status = talk.until(unit(1), |status| status.gone).await;
    assert_eq!(status.state, WorkloadState::Stopped);
    until("its record is gone", || {
        bench.engine.starts(unit(1)) == 0 && bench.records() == 0
    })
    .await;
    assert_eq!(bench.engine.calls("start"), 1);
    assert!(bench.engine.is_empty());
    talk.remove(unit(1)).await;
    until("it is forgotten", || {
        bench.node().units.shared.view(unit(1)).is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_that_are_kept_go_when_the_server_says_so() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
    let kept = Assignment {
        keep_volumes: true,
        ..stop(service(1))
    };
    talk.apply(false, std::slice::from_ref(&kept)).await;
    let status = talk.until(unit(1), |status| status.gone).await;
    assert!(status.kept);
    assert_eq!(bench.engine.calls("remove"), 0);
    talk.apply(false, &[stop(service(1))]).await;
    talk.until(unit(1), |status| status.gone && !status.kept)
        .await;
    assert_eq!(bench.engine.calls("remove"), 1);
    talk.remove(unit(1)).await;
    until("it is forgotten", || {
        bench.node().units.shared.view(unit(1)).is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_set_replaces_what_is_there() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1), service(2)]).await;
    talk.ready(unit(1)).await;
    talk.ready(unit(2)).await;
    talk.apply(true, &[service(2), service(3)]).await;
    talk.ready(unit(3)).await;
    talk.gone(unit(1)).await;
    assert!(bench.engine.is_running(unit(2)) && bench.engine.starts(unit(2)) == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_again_without_a_server_adopts_and_restarts() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1), service(2)]).await;
    talk.ready(unit(1)).await;
    talk.ready(unit(2)).await;
    let refusal = || tonic::Status::unavailable("away");
    let away = (0..1_000).map(|_| refusal());
    bench.server.state.refusals.lock().extend(away);
    bench.crash().await;
    bench.engine.exit(unit(2), 1);
    bench.agent(None).await;
    let engine = Arc::clone(&bench.engine);
    until("what ended runs again", || engine.starts(unit(2)) == 2).await;
    assert_eq!(engine.starts(unit(1)), 1);
    bench.server.state.refusals.lock().clear();
    let mut talk = bench.session().await;
    let status = talk.ready(unit(2)).await;
    assert_eq!((status.restarts, talk.completes), (1, 1));
    assert!(talk.statuses[&unit(1)].ready, "known in the first report");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_wants_is_removed_also_when_it_is_half_made() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
    bench.engine.plant(unit(77));
    bench.restart().await;
    let engine = Arc::clone(&bench.engine);
    until("the ghost is gone", || engine.phase(unit(77)).is_none()).await;
    assert!(engine.is_running(unit(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_during_an_outage_are_reported_after_it() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
    bench.server.break_off();
    let engine = Arc::clone(&bench.engine);
    engine.exit(unit(1), 3);
    until("it runs again", || engine.starts(unit(1)) == 2).await;
    let mut talk = bench.session().await;
    let status = talk.ready(unit(1)).await;
    assert_eq!((status.restarts, status.exit_code), (1, Some(3)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_names_its_step_reason_evidence_and_next_try() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    bench
        .engine
        .fail("prepare", Step::Prepare, Reason::ImagePullFailed);
    talk.apply(true, &[service(1)]).await;
    let status = talk.until(unit(1), |status| status.reason.is_some()).await;
    assert_eq!(status.reason, Some(Reason::ImagePullFailed));
    assert!(status.step == "prepare" && status.next_try_ms.is_some());
    talk.ready(unit(1)).await;
    bench.engine.print(unit(1), "listening on 80");
    bench.engine.print(unit(1), "panic: no disk");
    bench.engine.exit(unit(1), 2);
    let status = talk.until(unit(1), |status| status.reason.is_some()).await;
    assert_eq!(status.reason, Some(Reason::NonzeroExit));
    assert_eq!(status.evidence, ["listening on 80", "panic: no disk"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_wait_for_tasks_to_end_and_tasks_do_not_take_their_room() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    let tasks = dispatch(5, &slow_job(1_000), 0..3);
    talk.session.send(Answer::Dispatch(tasks)).await;
    until("two tasks fit", || bench.node().executor.load() == (2, 3)).await;
    talk.apply(true, &[needs_cpu(1, 1_500)]).await;
    let reason = Some(Reason::InsufficientResources);
    talk.until(unit(1), |status| status.reason == reason).await;
    bench.node().gate.0.add_permits(2);
    talk.ready(unit(1)).await;
    assert_eq!(bench.node().executor.load().0, 0, "a task took the room");
    talk.apply(true, &[]).await;
    until("the third task has room again", || {
        bench.node().executor.load().0 == 1
    })
    .await;
    talk.apply(true, &[needs_cpu(2, 9_000)]).await;
    let status = talk.until(unit(2), |status| status.given_up).await;
    assert_eq!(status.reason, reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_stay_in_memory_and_are_waited_for_after_a_restart() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    let with_secrets = || {
        let secrets = v1::UnitSecrets {
            env: [("KEY".to_owned(), "hunter2".to_owned())].into(),
            ..v1::UnitSecrets::default()
        };
        vec![v1::UnitAssignment {
            assignment: serde_json::to_vec(&service(1)).unwrap().into(),
            secrets: Some(secrets),
            may_be_privileged: false,
        }]
    };
    talk.units(true, with_secrets()).await;
    talk.ready(unit(1)).await;
    assert_eq!(bench.engine.env(unit(1), "KEY").as_deref(), Some("hunter2"));
    let record = bench.dir.path().join(format!("units/{}.json", unit(1)));
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(!text.contains("hunter2") && text.contains("has_secrets"));
    bench.restart().await;
    let mut talk = bench.session().await;
    talk.ready(unit(1)).await;
    assert_eq!(bench.engine.starts(unit(1)), 1);
    bench.engine.exit(unit(1), 1);
    let waits = |status: &UnitStatus| status.detail.contains("secrets");
    talk.until(unit(1), waits).await;
    talk.units(true, with_secrets()).await;
    talk.until(unit(1), |status| status.ready && status.restarts == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exclusive_units_stop_when_the_lease_ends_and_come_back_when_a_server_says_so() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    let shared = service(2);
    talk.apply(true, &[exclusive(1), shared.clone()]).await;
    talk.ready(unit(1)).await;
    talk.ready(unit(2)).await;
    bench.server.state.beats.store(false, Ordering::Relaxed);
    let engine = Arc::clone(&bench.engine);
    until("it is stopped", || !engine.is_running(unit(1))).await;
    assert!(engine.is_running(unit(2)), "what is not exclusive runs on");
    bench.server.state.beats.store(true, Ordering::Relaxed);
    let mut talk = bench.session().await;
    let lost = |status: &UnitStatus| status.reason == Some(Reason::NodeLost);
    talk.until(unit(1), lost).await;
    assert!(
        !engine.is_running(unit(1)),
        "no server has said that it may"
    );
    talk.apply(true, &[exclusive(1), shared]).await;
    talk.ready(unit(1)).await;
    assert_eq!(engine.starts(unit(2)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greater_epoch_of_an_exclusive_workload_fences_the_smaller() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[exclusive(1)]).await;
    talk.ready(unit(1)).await;
    bench.engine.hang(Some("stop"));
    talk.apply(false, &[exclusive(2)]).await;
    let waits = |status: &UnitStatus| status.detail.contains("earlier unit");
    talk.until(unit(2), waits).await;
    assert_eq!(bench.engine.starts(unit(2)), 0);
    bench.engine.hang(None);
    // The call that hangs ends with its bound; the order to go is a new one.
    talk.apply(true, &[exclusive(2)]).await;
    bench.restart().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[exclusive(2)]).await;
    talk.ready(unit(2)).await;
    assert!(!bench.engine.is_running(unit(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_hangs_stalls_neither_the_session_nor_other_figures() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
    while talk.loads.is_empty() {
        talk.hear().await;
    }
    let load = &talk.loads[&unit(1).to_string()];
    assert_eq!(load.memory_bytes, 1 << 20);
    bench.engine.hang(Some("observe"));
    talk.session
        .send(Answer::Dispatch(dispatch(5, &slow_job(100), 0..1)))
        .await;
    until("the session goes on", || {
        bench.node().executor.load().0 == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_agent_is_made_good_for_wherever_it_was() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[]).await;
    let mut number = 0;
    for is_done in [false, true] {
        for call in 1..=6 {
            number += 1;
            let engine = Arc::clone(&bench.engine);
            engine.halt_at(call, is_done);
            talk.apply(true, &[service(number)]).await;
            let ready = tokio::time::sleep(Duration::from_millis(300));
            tokio::select! {
                () = until("it stands still", || engine.is_halted()) => {}
                () = ready => {}
            }
            if !engine.is_halted() {
                // It came that far without so many calls: the next ones are of its end.
                talk.apply(true, &[]).await;
                until("it stands still at its end", || engine.is_halted()).await;
            }
            bench.crash().await;
            engine.resume();
            bench.agent(None).await;
            talk = bench.session().await;
            talk.apply(true, &[service(number)]).await;
            talk.ready(unit(number)).await;
            assert!(engine.starts(unit(number)) <= 2);
            talk.apply(true, &[]).await;
            until("nothing is left", || engine.is_empty()).await;
            until("no record is left", || bench.records() == 0).await;
        }
    }
}

fn open(id: &str, unit: UnitId, what: v1::open_tunnel::What) -> Answer {
    Answer::Open(v1::OpenTunnel {
        id: id.to_owned(),
        unit: unit.to_string(),
        what: Some(what),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_inside_has_its_input_its_terminal_and_its_exit_code() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
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
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_leaves_no_units() {
    let mut bench = Bench::start().await;
    let mut talk = bench.session().await;
    talk.apply(true, &[service(1)]).await;
    talk.ready(unit(1)).await;
    let goodbye = v1::Goodbye {
        code: "removed".to_owned(),
        detail: String::new(),
    };
    talk.session.send(Answer::Goodbye(goodbye)).await;
    bench.node.as_mut().expect("an agent").removed().await;
    assert!(bench.engine.is_empty());
}

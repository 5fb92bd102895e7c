//! Units over a scripted server and a runtime that outlives the agents.

mod engines;
mod exclusive;
mod life;
mod limits;
mod restarts;
mod tunnels;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weft_core::service::record::{Assignment, Intent, RECORD_VERSION, UnitStatus};
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_proto::v1::server_message::Message as Answer;
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
        Self::over(Engine::new()).await
    }

    /// With an engine that the test has set up before there is an agent.
    async fn over(engine: Arc<Engine>) -> Self {
        let server = Server::start().await;
        let mut bench = Self {
            engine,
            dir: tempfile::tempdir().unwrap(),
            node: None,
            epoch: 0,
            server,
        };
        let token = bench.server.token();
        bench.agent(Some(token)).await;
        bench
    }

    /// With a session, in which unit 1 is ready.
    async fn serving() -> (Self, Talk) {
        let mut bench = Self::start().await;
        let mut talk = bench.session().await;
        talk.apply(true, &[service(1)]).await;
        talk.ready(unit(1)).await;
        (bench, talk)
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
        Talk::new(self.welcomed().await.0)
    }

    async fn welcomed(&mut self) -> (Session, v1::Hello) {
        self.epoch += 1;
        self.server.welcomed(self.epoch).await
    }

    /// The agent is killed, and another one starts over the same disk and the same engine.
    async fn restart(&mut self) {
        self.crash().await;
        self.agent(None).await;
    }

    async fn crash(&mut self) {
        self.node.take().expect("an agent").crash().await;
    }

    async fn forgotten(&self, unit: UnitId) {
        let units = &self.node().units;
        until("it is forgotten", || units.shared.view(unit).is_none()).await;
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
    fn new(session: Session) -> Self {
        Self {
            session,
            statuses: BTreeMap::new(),
            loads: BTreeMap::new(),
            completes: 0,
        }
    }

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

fn stop(assignment: Assignment) -> Assignment {
    Assignment {
        intent: Intent::Stop,
        why: "scaled down".to_owned(),
        ..assignment
    }
}

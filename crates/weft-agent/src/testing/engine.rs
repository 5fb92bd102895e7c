//! A runtime in memory that outlives the agents of a test, does what the test says, and can stand
//! still at any of its calls, as when an agent is killed there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use weft_types::{Reason, RuntimeKind, UnitId};
use weft_unit::{
    CleanPolicy, Cleaned, Error, ExecInput, ExecOutput, ExecSession, ExecWanted, LogLine,
    LogStream, LogsWanted, Missing, Observed, Owned, Phase, Probe, Progress, Step, Unit,
    UnitRuntime, Usage,
};

use crate::identity::now;

/// The engine; share it by `Arc`.
pub(crate) struct Engine {
    state: Arc<Mutex<State>>,
    changed: Notify,
    printed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    instances: BTreeMap<UnitId, Instance>,
    /// Answers to the next calls of a name, instead of doing them.
    faults: VecDeque<(&'static str, Error)>,
    /// What the machine would need for it.
    lacks: Option<Missing>,
    /// Calls of this name never end.
    hung: Option<&'static str>,
    calls: Vec<(&'static str, UnitId)>,
    /// The call at which everything stands still, and whether it has done its work then.
    halt_at: Option<(usize, bool)>,
    is_halted: bool,
    ports: BTreeMap<u16, std::net::SocketAddr>,
    /// What instances were last given to end, also those that are gone.
    graces: BTreeMap<UnitId, Duration>,
}

#[derive(Clone, Debug)]
struct Instance {
    revision: u64,
    phase: Phase,
    lines: Vec<LogLine>,
    starts: u32,
    env: BTreeMap<String, String>,
    /// What it has written to its layer.
    disk_bytes: u64,
}

impl Engine {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Arc::default(),
            changed: Notify::new(),
            printed: watch::Sender::new(0),
        })
    }

    /// The next call of this name fails like this.
    pub(crate) fn fail(&self, call: &'static str, step: Step, reason: Reason) {
        let error = Error::new(step, reason, "the engine was told to fail");
        self.state.lock().faults.push_back((call, error));
    }

    /// From now on the engine is not there, or is there again.
    pub(crate) fn lack(&self, is_missing: bool) {
        self.state.lock().lacks = is_missing.then(|| Missing {
            what: "an engine".to_owned(),
            why: "it is down".to_owned(),
            fix: "start it".to_owned(),
        });
    }

    /// Calls of this name do not end until there is another name.
    pub(crate) fn hang(&self, call: Option<&'static str>) {
        self.state.lock().hung = call;
    }

    /// Everything stands still at the call of this number from now on.
    pub(crate) fn halt_at(&self, call: usize, is_done: bool) {
        let mut state = self.state.lock();
        state.halt_at = Some((state.calls.len() + call, is_done));
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.state.lock().is_halted
    }

    /// The agent that stood still is gone.
    pub(crate) fn resume(&self) {
        let mut state = self.state.lock();
        state.halt_at = None;
        state.is_halted = false;
    }

    pub(crate) fn calls(&self, name: &str) -> usize {
        let state = self.state.lock();
        state.calls.iter().filter(|(call, _)| *call == name).count()
    }

    pub(crate) fn phase(&self, unit: UnitId) -> Option<Phase> {
        let state = self.state.lock();
        state.instances.get(&unit).map(|it| it.phase.clone())
    }

    pub(crate) fn is_running(&self, unit: UnitId) -> bool {
        matches!(self.phase(unit), Some(Phase::Running { .. }))
    }

    pub(crate) fn starts(&self, unit: UnitId) -> u32 {
        let state = self.state.lock();
        state.instances.get(&unit).map_or(0, |it| it.starts)
    }

    pub(crate) fn env(&self, unit: UnitId, name: &str) -> Option<String> {
        let state = self.state.lock();
        state.instances.get(&unit)?.env.get(name).cloned()
    }

    /// What an instance was last given to end.
    pub(crate) fn grace(&self, unit: UnitId) -> Option<Duration> {
        self.state.lock().graces.get(&unit).copied()
    }

    /// The instance has this much in its layer.
    pub(crate) fn write(&self, unit: UnitId, bytes: u64) {
        if let Some(instance) = self.state.lock().instances.get_mut(&unit) {
            instance.disk_bytes = bytes;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.state.lock().instances.is_empty()
    }

    /// Something that no agent of the test made.
    pub(crate) fn plant(&self, unit: UnitId) {
        let instance = Instance {
            revision: 1,
            phase: Phase::Created,
            lines: Vec::new(),
            starts: 0,
            env: BTreeMap::new(),
            disk_bytes: 0,
        };
        self.state.lock().instances.insert(unit, instance);
    }

    /// Ports of every instance answer there.
    pub(crate) fn publish(&self, port: u16, address: std::net::SocketAddr) {
        self.state.lock().ports.insert(port, address);
    }

    /// The instance ends by itself.
    pub(crate) fn exit(&self, unit: UnitId, code: i32) {
        if let Some(instance) = self.state.lock().instances.get_mut(&unit) {
            instance.phase = exited(Some(code));
        }
        self.changed.notify_one();
        self.printed.send_modify(|printed| *printed += 1);
    }

    /// The instance prints a line.
    pub(crate) fn print(&self, unit: UnitId, line: &str) {
        let at_ms = now().as_millis();
        let line = LogLine {
            at_ms,
            is_stderr: false,
            part: String::new(),
            line: Bytes::copy_from_slice(line.as_bytes()),
        };
        if let Some(instance) = self.state.lock().instances.get_mut(&unit) {
            instance.lines.push(line);
        }
        self.printed.send_modify(|printed| *printed += 1);
    }

    /// One call: stands still where the test says, fails when it says, else does its work.
    async fn call<T>(
        &self,
        name: &'static str,
        unit: UnitId,
        work: impl FnOnce(&mut State) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (is_hung, halts) = {
            let mut state = self.state.lock();
            if let Some(missing) = &state.lacks {
                let detail = missing.to_string();
                return Err(Error::new(Step::Run, Reason::RuntimeUnavailable, detail));
            }
            state.calls.push((name, unit));
            let count = state.calls.len();
            let halts = match state.halt_at {
                Some((at, is_done)) if count >= at => Some(is_done && count == at),
                _ => None,
            };
            (state.hung == Some(name), halts)
        };
        if is_hung || halts == Some(false) {
            self.state.lock().is_halted |= halts.is_some();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
        let done = {
            let mut state = self.state.lock();
            match state.faults.iter().position(|(call, _)| *call == name) {
                Some(fault) => Err(state.faults.remove(fault).expect("it is there").1),
                None => work(&mut state),
            }
        };
        if halts == Some(true) {
            self.state.lock().is_halted = true;
            std::future::pending::<()>().await;
        }
        done
    }
}

fn exited(exit_code: Option<i32>) -> Phase {
    Phase::Exited {
        exit_code,
        signal: None,
        reason: None,
        detail: String::new(),
        at_ms: now().as_millis(),
    }
}

fn none() -> Error {
    Error::new(Step::Run, Reason::RuntimeError, "there is no such instance")
}

#[tonic::async_trait]
impl UnitRuntime for Engine {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Container
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    async fn probe(&self) -> Result<Probe, Missing> {
        if self.state.lock().hung == Some("probe") {
            std::future::pending::<()>().await;
        }
        if let Some(missing) = &self.state.lock().lacks {
            return Err(missing.clone());
        }
        Ok(Probe {
            version: "1".to_owned(),
            capabilities: vec!["memory".to_owned()],
            missing: Vec::new(),
        })
    }

    async fn prepare(&self, unit: &Unit, progress: &Progress) -> Result<(), Error> {
        progress.send_replace("pulling 1 of 2 layers".to_owned());
        self.call("prepare", unit.id, |_| Ok(())).await
    }

    async fn start(&self, unit: &Unit) -> Result<(), Error> {
        self.call("start", unit.id, |state| {
            let instance = state.instances.entry(unit.id).or_insert(Instance {
                revision: unit.revision,
                phase: Phase::Created,
                lines: Vec::new(),
                starts: 0,
                env: unit.secrets.env.clone(),
                disk_bytes: 0,
            });
            if !matches!(instance.phase, Phase::Running { .. }) {
                instance.starts += 1;
                instance.disk_bytes = 0;
                instance.phase = Phase::Running {
                    since_ms: now().as_millis(),
                };
            }
            Ok(())
        })
        .await
    }

    async fn observe(&self, id: UnitId) -> Result<Observed, Error> {
        self.call("observe", id, |state| {
            let Some(instance) = state.instances.get(&id) else {
                return Ok(Observed::absent());
            };
            Ok(Observed {
                phase: instance.phase.clone(),
                address: Some([127, 0, 0, 1].into()),
                published: state.ports.clone(),
                source: Some("sha256:1".to_owned()),
                ..Observed::absent()
            })
        })
        .await
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn logs(&self, id: UnitId, wanted: LogsWanted) -> Result<LogStream, Error> {
        let (lines, stream) = mpsc::channel(16);
        let since_ms = wanted.since_ms.unwrap_or(0);
        let mut printed = self.printed.subscribe();
        let read = {
            let state = self.state.lock();
            state.instances.get(&id).ok_or_else(none)?.lines.clone()
        };
        let rest = read.into_iter().filter(move |line| line.at_ms > since_ms);
        let rest: VecDeque<LogLine> = rest.collect();
        if !wanted.follow {
            tokio::spawn(async move {
                for line in rest {
                    if lines.send(line).await.is_err() {
                        return;
                    }
                }
            });
            return Ok(stream);
        }
        let state = Arc::clone(&self.state);
        tokio::spawn(async move {
            let mut told = 0;
            loop {
                printed.mark_unchanged();
                let (all, is_over) = {
                    let state = state.lock();
                    let Some(instance) = state.instances.get(&id) else {
                        return;
                    };
                    let all: Vec<LogLine> = instance.lines[told..].to_vec();
                    (all, !matches!(instance.phase, Phase::Running { .. }))
                };
                told += all.len();
                for line in all.into_iter().filter(|line| line.at_ms > since_ms) {
                    if lines.send(line).await.is_err() {
                        return;
                    }
                }
                if is_over || printed.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(stream)
    }

    async fn exec(&self, id: UnitId, wanted: ExecWanted) -> Result<ExecSession, Error> {
        if !self.is_running(id) {
            return Err(none());
        }
        let (input, mut inputs) = mpsc::channel(4);
        let (outputs, output) = mpsc::channel(4);
        let (exits, exit) = oneshot::channel();
        tokio::spawn(async move {
            let first = format!("{} {:?}\n", wanted.command.join(" "), wanted.tty);
            let _ = outputs.send(ExecOutput::Stdout(first.into())).await;
            while let Some(told) = inputs.recv().await {
                let printed = match told {
                    ExecInput::Stdin(bytes) => ExecOutput::Stdout(bytes),
                    ExecInput::Resize(columns, rows) => {
                        ExecOutput::Stderr(format!("{columns}x{rows}").into())
                    }
                    ExecInput::Eof => break,
                };
                let _ = outputs.send(printed).await;
            }
            let _ = exits.send(Ok(7));
        });
        Ok(ExecSession {
            input,
            output,
            exit,
        })
    }

    async fn stats(&self, id: UnitId) -> Result<Usage, Error> {
        self.call("stats", id, |state| {
            let instance = state.instances.get(&id).ok_or_else(none)?;
            Ok(Usage {
                disk_bytes: instance.disk_bytes,
                cpu_us: now().as_millis() * 250,
                memory_bytes: 1 << 20,
                ..Usage::default()
            })
        })
        .await
    }

    async fn set_paused(&self, id: UnitId, is_paused: bool) -> Result<(), Error> {
        self.call("pause", id, |state| {
            let instance = state.instances.get_mut(&id).ok_or_else(none)?;
            instance.phase = match is_paused {
                true => Phase::Paused,
                false => Phase::Running {
                    since_ms: now().as_millis(),
                },
            };
            Ok(())
        })
        .await
    }

    async fn stop(&self, id: UnitId, grace: Duration) -> Result<(), Error> {
        assert!(grace <= Duration::from_secs(10), "{grace:?}");
        self.call("stop", id, |state| {
            if let Some(instance) = state.instances.get_mut(&id)
                && matches!(instance.phase, Phase::Running { .. })
            {
                instance.phase = exited(Some(143));
                state.graces.insert(id, grace);
            }
            Ok(())
        })
        .await?;
        self.printed.send_modify(|printed| *printed += 1);
        Ok(())
    }

    async fn remove(&self, id: UnitId, keep_volumes: bool) -> Result<(), Error> {
        let call = if keep_volumes {
            "remove, keep"
        } else {
            "remove"
        };
        self.call(call, id, |state| {
            state.instances.remove(&id);
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Owned>, Error> {
        let state = self.state.lock();
        let owned = state.instances.iter().map(|(unit, instance)| Owned {
            unit: *unit,
            revision: instance.revision,
        });
        Ok(owned.collect())
    }

    async fn clean(&self, _policy: CleanPolicy) -> Result<Cleaned, Error> {
        Ok(Cleaned::default())
    }
}

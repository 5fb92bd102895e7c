//! Calls to the runtimes, each with a bound of its time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use weft_core::unit::{self as core, Action, Failure, Input, Lease, Observation};
use weft_types::{Reason, UnitId};
use weft_unit::{Error, Observed, Phase, UnitRuntime};

use super::Shared;
use super::backend::Backend;
use super::desired::Desired;
use super::disk::Record;
use super::logs::{Book, Follower};
use super::observed::{failure, observation};
use crate::executor::Claim;
use crate::guard::Guarded;
use crate::identity::now;

/// How long an engine may take to say how an instance is.
pub(super) const OBSERVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Large images over slow lines.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Making and starting an instance.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// Beyond the grace that an instance has.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
const REMOVE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long requests may take that are under way when a unit is to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last lines of an instance may take to arrive.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(2);
/// Lines that explain a failure.
const MAX_EVIDENCE_LINES: usize = 20;
/// How often it is tried again to write a record.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// How often a unit looks whether the older one of its exclusive workload is gone.
const FENCE_INTERVAL: Duration = Duration::from_millis(100);

/// What calls for one unit need; cloning shares it.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) shared: Arc<Shared>,
    pub(super) unit: UnitId,
    pub(super) backend: Backend,
    /// Its place on the list of the guard, when it is exclusive.
    pub(super) guarded: Arc<Mutex<Option<Guarded>>>,
    pub(super) wanted: watch::Receiver<Desired>,
    pub(super) book: Arc<Book>,
    pub(super) notes: mpsc::Sender<Input>,
    pub(super) progress: watch::Sender<String>,
    /// Its room on the node.
    pub(super) room: Arc<Mutex<Option<Claim>>>,
    pub(super) follower: Arc<Mutex<Option<Follower>>>,
    /// How the instance was when it was last looked at.
    pub(super) observed: Arc<Mutex<Option<Observed>>>,
    /// Whether the disk has its record.
    pub(super) is_saved: watch::Sender<bool>,
}

impl Calls {
    pub(super) async fn carry_out(self, call: u64, action: Action) -> Input {
        let result = match action {
            Action::Observe => {
                let result = self.observe().await;
                return Input::Seen { call, result };
            }
            Action::Admit => self.admit().await,
            Action::Prepare => self.prepare().await,
            Action::Start => self.start().await,
            Action::Drain => {
                self.shared.ports.drain(self.unit, DRAIN_TIMEOUT).await;
                Ok(())
            }
            Action::Stop { grace_ms } => self.stop(Duration::from_millis(grace_ms)).await,
            Action::Remove { keep_volumes } => self.remove(keep_volumes).await,
        };
        Input::Did { call, result }
    }

    async fn observe(&self) -> Result<Observation, Failure> {
        // What is to run here all the same is refused when it is let in.
        let Some(runtime) = self.found("run").await? else {
            return Ok(Observation::of(core::Phase::Absent));
        };
        let observed = bounded("run", OBSERVE_TIMEOUT, runtime.observe(self.unit)).await?;
        let observed = self.as_guarded(observed);
        let evidence = match observed.phase {
            Phase::Exited { .. } => self.last_lines().await,
            _ => Vec::new(),
        };
        let seen = observation(&observed, evidence);
        *self.observed.lock() = Some(observed);
        Ok(seen)
    }

    /// What was ended because the lease was lost has not failed, whoever ended it.
    fn as_guarded(&self, observed: Observed) -> Observed {
        let is_exclusive = self.wanted.borrow().is_exclusive();
        match observed.phase {
            Phase::Exited {
                exit_code,
                signal,
                detail,
                at_ms,
                ..
            } if is_exclusive && self.shared.guards.has_stopped(self.unit) => Observed {
                phase: Phase::Exited {
                    exit_code,
                    signal,
                    reason: Some(Reason::NodeLost),
                    detail,
                    at_ms,
                },
                ..observed
            },
            _ => observed,
        }
    }

    /// The end of what an instance printed that has ended.
    async fn last_lines(&self) -> Vec<String> {
        // An instance that ended while the agent was away has nobody who follows it.
        if let Some(runtime) = self.backend.get() {
            let mut follower = self.follower.lock();
            follower
                .get_or_insert_with(|| Follower::start(runtime, self.unit, Arc::clone(&self.book)));
        }
        self.finish_logs().await;
        let book = Arc::clone(&self.book);
        let lines = tokio::task::spawn_blocking(move || book.tail(MAX_EVIDENCE_LINES)).await;
        lines.unwrap_or_default()
    }

    async fn finish_logs(&self) {
        let follower = self.follower.lock().take();
        if let Some(follower) = follower {
            follower.finish(LAST_LINES_TIMEOUT).await;
        }
    }

    /// Lets it in: written down, alone, with its secrets, with room.
    async fn admit(&self) -> Result<(), Failure> {
        self.runtime("prepare")?;
        self.saved().await;
        self.alone().await;
        self.secrets().await;
        if self.room.lock().is_some() {
            return Ok(());
        }
        let need = self.wanted.borrow().demand();
        let Some(claim) = self.shared.executor.claim(&need) else {
            let detail = "it needs more than this node offers in all";
            return Err(Failure::new(
                "prepare",
                Reason::InsufficientResources,
                detail,
            ));
        };
        if !claim.is_granted() {
            let detail = "other work uses the room that it needs: waits for it to end";
            self.waits(Reason::InsufficientResources, detail).await;
            claim.granted().await;
        }
        *self.room.lock() = Some(claim);
        Ok(())
    }

    async fn saved(&self) {
        let mut is_saved = self.is_saved.subscribe();
        while !*is_saved.borrow_and_update() {
            let assignment = self.wanted.borrow().clone();
            let Some(wanted) = assignment.assignment.clone() else {
                return;
            };
            let record = Record::new(&wanted, &assignment);
            match self.save(record).await {
                Ok(()) => return self.is_saved.send_modify(|saved| *saved = true),
                Err(error) => self.waits(Reason::StorageError, &error).await,
            }
            tokio::time::sleep(SAVE_INTERVAL).await;
        }
    }

    /// Durable when it returns.
    pub(super) async fn save(&self, record: Record) -> Result<(), String> {
        let disk = self.shared.disk.clone();
        let saved = tokio::task::spawn_blocking(move || disk.save(&record)).await;
        match saved {
            Ok(saved) => saved.map_err(|error| format!("its record: {error}")),
            Err(error) => Err(format!("its record: {error}")),
        }
    }

    async fn alone(&self) {
        let epoch = {
            let desired = self.wanted.borrow();
            match &desired.assignment {
                Some(assignment) if desired.is_exclusive() => assignment.epoch,
                _ => return,
            }
        };
        while self.shared.is_behind_another(self.unit, epoch) {
            let detail = "an earlier unit of this exclusive workload is not gone yet";
            self.waits(Reason::RuntimeError, detail).await;
            tokio::time::sleep(FENCE_INTERVAL).await;
        }
    }

    async fn secrets(&self) {
        let has_all = |desired: &Desired| !desired.has_secrets || desired.secrets.is_some();
        let mut wanted = self.wanted.clone();
        if has_all(&wanted.borrow_and_update()) {
            return;
        }
        let detail = "its secrets were only in the memory of the agent, which was started again: waits for the server to send them";
        self.waits(Reason::NetworkError, detail).await;
        // An error means that the unit is dropped, and this with it.
        let _ = wanted.wait_for(has_all).await;
    }

    async fn waits(&self, reason: Reason, detail: &str) {
        let detail = detail.to_owned();
        let _ = self.notes.send(Input::Waits { reason, detail }).await;
    }

    async fn prepare(&self) -> Result<(), Failure> {
        let (runtime, unit) = (self.runtime("prepare")?, self.unit("prepare")?);
        let work = runtime.prepare(&unit, &self.progress);
        bounded("prepare", PREPARE_TIMEOUT, work).await
    }

    async fn start(&self) -> Result<(), Failure> {
        let (runtime, unit) = (self.runtime("start")?, self.unit("start")?);
        self.finish_logs().await;
        let book = Arc::clone(&self.book);
        let at_ms = now().as_millis();
        let begun = tokio::task::spawn_blocking(move || book.begin_instance(at_ms)).await;
        if let Ok(Err(error)) = begun {
            tracing::warn!(unit = %self.unit, %error, "its logs cannot be kept");
        }
        if self.wanted.borrow().is_exclusive() {
            self.is_let_run().await?;
        }
        bounded("start", START_TIMEOUT, runtime.start(&unit)).await
    }

    /// Whether an exclusive unit may be started now, with a guard that ends it when this agent
    /// cannot.
    async fn is_let_run(&self) -> Result<(), Failure> {
        let covered = {
            let guarded = self.guarded.lock();
            guarded.as_ref().map(Guarded::covered)
        };
        if let Some(covered) = covered {
            let failed = |detail| Failure::new("start", Reason::RuntimeError, detail);
            covered.await.map_err(failed)?;
        }
        self.shared.guards.forget_stop(self.unit);
        // The last moment to find out that a paused agent has lost its lease.
        if self.shared.lease.judge() != Lease::Held {
            let detail = "the node's lease has ended";
            return Err(Failure::new("start", Reason::NodeLost, detail));
        }
        Ok(())
    }

    async fn stop(&self, grace: Duration) -> Result<(), Failure> {
        // Without a runtime there can be nothing of it here.
        let Some(runtime) = self.found("stop").await? else {
            return Ok(());
        };
        if self.wanted.borrow().is_exclusive() && self.shared.lease.judge() != Lease::Held {
            self.shared.guards.note_stop(self.unit);
        }
        bounded("stop", grace + STOP_TIMEOUT, runtime.stop(self.unit, grace)).await?;
        self.finish_logs().await;
        Ok(())
    }

    async fn remove(&self, keep_volumes: bool) -> Result<(), Failure> {
        let Some(runtime) = self.found("remove").await? else {
            return Ok(());
        };
        self.finish_logs().await;
        let work = runtime.remove(self.unit, keep_volumes);
        bounded("remove", REMOVE_TIMEOUT, work).await
    }

    /// The backend, once it is known which; `None` when this node has none of that kind.
    async fn found(&self, step: &'static str) -> Result<Option<Arc<dyn UnitRuntime>>, Failure> {
        let kind = self.wanted.borrow().kind();
        let found = self.backend.find(&self.shared.runtimes, kind).await;
        let found = found.map_err(|error| {
            let detail = format!("which backend has it cannot be written down: {error}");
            Failure::new(step, Reason::StorageError, detail)
        })?;
        self.guard();
        Ok(found)
    }

    /// Has an exclusive unit on the list of the guard.
    fn guard(&self) {
        let mut guarded = self.guarded.lock();
        if guarded.is_none()
            && self.wanted.borrow().is_exclusive()
            && let Some(name) = self.backend.name()
        {
            *guarded = Some(self.shared.guards.add(self.unit, name));
        }
    }

    pub(super) fn runtime(&self, step: &'static str) -> Result<Arc<dyn UnitRuntime>, Failure> {
        self.backend.get().ok_or_else(|| {
            let kind = self.wanted.borrow().kind();
            let detail = format!(
                "this node does not run `{kind}` workloads; `weft node show {}` says what is missing",
                self.shared.node
            );
            Failure::new(step, Reason::RuntimeUnavailable, detail)
        })
    }

    fn unit(&self, step: &'static str) -> Result<weft_unit::Unit, Failure> {
        let unit = self.wanted.borrow().unit(self.unit);
        unit.map_err(|(reason, detail)| Failure::new(step, reason, detail))
    }
}

/// The call, or the failure that it took too long.
async fn bounded<T>(
    step: &'static str,
    timeout: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(timeout, work).await {
        Ok(done) => done.map_err(failure),
        Err(_) => {
            let detail = format!("the engine did not answer within {} s", timeout.as_secs());
            Err(Failure::new(step, Reason::RuntimeUnavailable, detail))
        }
    }
}

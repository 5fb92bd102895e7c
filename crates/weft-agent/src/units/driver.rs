//! The driver of one unit: feeds its machine, carries out what that says.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_core::Monotonic;
use weft_core::unit::{Failure, Input, Lease, Machine, Memory, Now, Output};
use weft_types::{Reason, UnitId, WorkloadState};
use weft_unit::{Observed, publish_address};

use super::backend::Backend;
use super::calls::Calls;
use super::desired::Desired;
use super::disk::Record;
use super::logs::{Book, Follower};
use super::ports::Local;
use super::{Shared, View, Written, health};
use crate::executor::Claim;
use crate::identity::now;
use crate::lease::{self, ExclusiveUnit};
use crate::runtimes::Held;

/// How often an instance is looked at although nothing is said to have changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Inputs from a call that is under way.
const MAX_NOTES: usize = 16;

/// What is known of a unit when its driver begins.
#[derive(Default)]
pub(super) struct Before {
    pub(super) memory: Option<Memory>,
    /// The backend that has it.
    pub(super) held: Option<Held>,
    /// Whether the disk has its record.
    pub(super) is_known: bool,
}

/// Drives one unit.
pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) unit: UnitId,
    pub(super) wanted: watch::Receiver<Desired>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) written: watch::Receiver<Written>,
}

/// A unit that is driven: from its first order until nothing of it is left.
struct Life {
    shared: Arc<Shared>,
    unit: UnitId,
    wanted: watch::Receiver<Desired>,
    view: Arc<Mutex<View>>,
    machine: Machine,
    calls: Calls,
    call: BoxFuture<'static, Input>,
    probe: BoxFuture<'static, Input>,
    notes: mpsc::Receiver<Input>,
    progress: watch::Receiver<String>,
    lease: watch::Receiver<Lease>,
    looks: watch::Receiver<u64>,
    /// When it is looked at although nothing is said to have changed.
    look_at: Instant,
    written: watch::Receiver<Written>,
    /// What the disk has of it.
    saved: Option<Record>,
    told: Option<Local>,
    _exclusive: Option<ExclusiveUnit>,
}

impl Driver {
    /// Drives it until nobody asks for it any more.
    pub(super) async fn drive(mut self, before: Before) {
        let Before {
            mut memory,
            mut held,
            is_known,
        } = before;
        loop {
            let Some(book) = self.book().await else {
                break;
            };
            let mut life = Life::new(&self, memory.take(), held.take(), book);
            if is_known {
                life.saved = life.record();
            }
            life.run().await;
            drop(life);
            self.clear().await;
            let is_kept = self.view.lock().status.kept;
            let lets_go = |desired: &Desired| is_kept && !desired.order().keep_volumes;
            let over = self
                .wanted
                .wait_for(|desired| desired.runs() || !desired.is_listed || lets_go(desired));
            match over.await {
                Ok(desired) if desired.is_listed => {}
                _ => break,
            }
        }
        let status = self.view.lock().status.clone();
        self.shared.forget(self.unit);
        self.shared.outbox.last_word(status);
    }

    /// What it has printed; `None` when the agent ends.
    async fn book(&self) -> Option<Arc<Book>> {
        let (shared, unit) = (Arc::clone(&self.shared), self.unit);
        let book = tokio::task::spawn_blocking(move || shared.shelf.book(unit));
        book.await.ok()
    }

    /// Forgets what the disk has of a unit that is gone.
    async fn clear(&self) {
        let (disk, unit) = (self.shared.disk.clone(), self.unit);
        let removed = tokio::task::spawn_blocking(move || disk.remove(unit)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%unit, %error, "the record of a unit that is gone stays");
        }
        self.shared.guards.forget_stop(unit);
        self.shared.shelf.retire(unit);
        self.shared.gone.notify_waiters();
    }
}

impl Life {
    fn new(driver: &Driver, memory: Option<Memory>, held: Option<Held>, book: Arc<Book>) -> Self {
        let shared = Arc::clone(&driver.shared);
        let desired = driver.wanted.borrow().clone();
        let settings = desired.settings(driver.unit, &shared.node);
        let exclusive = desired.is_exclusive().then(|| shared.lease.guard());
        let (notes_in, notes) = mpsc::channel(MAX_NOTES);
        let (progress_in, progress) = watch::channel(String::new());
        let calls = Calls {
            shared: Arc::clone(&shared),
            unit: driver.unit,
            backend: Backend::new(held),
            guarded: Arc::default(),
            wanted: driver.wanted.clone(),
            book,
            notes: notes_in,
            progress: progress_in,
            room: Arc::default(),
            follower: Arc::default(),
            observed: Arc::default(),
            is_saved: watch::Sender::new(false),
        };
        Self {
            machine: Machine::new(settings, memory, time()),
            unit: driver.unit,
            wanted: driver.wanted.clone(),
            view: Arc::clone(&driver.view),
            call: pending(),
            probe: pending(),
            lease: shared.lease.subscribe(),
            looks: shared.looks.subscribe(),
            look_at: Instant::now() + LOOK_INTERVAL,
            written: driver.written.clone(),
            calls,
            notes,
            progress,
            shared,
            saved: None,
            told: None,
            _exclusive: exclusive,
        }
    }

    async fn run(&mut self) {
        let lease = self.shared.lease.judge();
        self.step(Input::Lease(lease));
        let order = self.wanted.borrow_and_update().order();
        self.save().await;
        self.step(Input::Ordered(order));
        while !self.machine.is_gone() {
            let input = self.next().await;
            if let Input::Ordered(_) = input {
                self.save().await;
            }
            self.step(input);
            if self.has_news() {
                self.save().await;
            }
        }
    }

    /// The next thing that happens; a lost lease before anything else.
    async fn next(&mut self) -> Input {
        let wake_at = self.machine.wake_at();
        let wake = async {
            match wake_at {
                Some(at) => {
                    tokio::time::sleep(Duration::from_millis(at.since_ms(time().mono))).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Ok(()) = self.lease.changed() => {
                Input::Lease(self.shared.lease.judge())
            }
            Ok(()) = self.wanted.changed() => {
                Input::Ordered(self.wanted.borrow_and_update().order())
            }
            input = &mut self.call => {
                self.call = pending();
                input
            }
            input = &mut self.probe => {
                self.probe = pending();
                input
            }
            Some(input) = self.notes.recv() => input,
            Ok(()) = self.progress.changed() => {
                Input::Progress(self.progress.borrow_and_update().clone())
            }
            () = wake => Input::Tick,
            Ok(()) = self.written.changed() => {
                let Written { since, bytes } = *self.written.borrow_and_update();
                Input::Measured { since, disk_bytes: bytes }
            }
            Ok(()) = self.looks.changed() => self.look(),
            () = tokio::time::sleep_until(self.look_at) => self.look(),
        }
    }

    fn look(&mut self) -> Input {
        self.look_at = Instant::now() + LOOK_INTERVAL;
        Input::Look
    }

    fn step(&mut self, input: Input) {
        let mut has_news = false;
        for output in self.machine.step(time(), input) {
            match output {
                Output::Call { call, action } => {
                    let work = self.calls.clone().carry_out(call, action);
                    let work = AssertUnwindSafe(work).catch_unwind();
                    self.call = work
                        .map(move |input| input.unwrap_or_else(|_| broken(call)))
                        .boxed();
                }
                Output::Probe { call } => {
                    let check = AssertUnwindSafe(health::check(self.calls.clone())).catch_unwind();
                    let broke = |_| Err("the check broke the agent's runtime".to_owned());
                    self.probe = check
                        .map(move |result| Input::Probed {
                            call,
                            result: result.unwrap_or_else(broke),
                        })
                        .boxed();
                }
                Output::Report => has_news = true,
            }
        }
        self.show();
        // Whoever sends the report reads what is shown: told before, the old state would be sent, and
        // the new one never.
        if has_news {
            self.shared.outbox.report(self.unit);
        }
    }

    /// Brings everything else in line with the machine: what others see, room, ports, logs.
    fn show(&mut self) {
        let is_running = self.machine.is_running();
        self.room();
        self.ports();
        let mut follower = self.calls.follower.lock();
        if is_running
            && follower.is_none()
            && let Some(runtime) = self.calls.backend.get()
        {
            let book = Arc::clone(&self.calls.book);
            *follower = Some(Follower::start(runtime, self.unit, book));
        }
        drop(follower);
        let mut view = self.view.lock();
        view.kind = self.wanted.borrow().kind();
        view.status.clone_from(self.machine.status());
        view.is_running = is_running;
        view.may_run = self.machine.uses_room();
        view.is_settled = !self.machine.is_looking();
        view.observed = self.observed().filter(|_| is_running);
    }

    fn observed(&self) -> Option<Observed> {
        self.calls.observed.lock().clone()
    }

    fn room(&self) {
        let mut room: parking_lot::MutexGuard<'_, Option<Claim>> = self.calls.room.lock();
        if !self.machine.keeps_room() {
            *room = None;
        } else if self.machine.uses_room() && room.is_none() {
            let need = self.wanted.borrow().demand();
            *room = Some(self.shared.executor.claim_anyway(&need));
        }
    }

    fn ports(&mut self) {
        let local = self.machine.may_answer().then(|| self.local());
        if local == self.told {
            return;
        }
        match &local {
            Some(local) => self.shared.ports.set_local(self.unit, local.clone()),
            None => self.shared.ports.remove_local(self.unit),
        }
        self.told = local;
    }

    fn local(&self) -> Local {
        let unit = self.wanted.borrow().unit(self.unit);
        let ports = unit.map(|unit| unit.work.ports()).unwrap_or_default();
        let observed = self.observed();
        let target = |target: u16| Some((target, publish_address(observed.as_ref()?, target)?));
        Local {
            ready: self.machine.status().ready,
            draining: self.machine.is_ending(),
            targets: ports
                .iter()
                .filter_map(|port| target(port.target))
                .collect(),
        }
    }

    /// Whether the disk does not have what a later agent must know.
    fn has_news(&self) -> bool {
        let memory = self.machine.memory();
        let Some(kept) = self.saved.as_ref().map(|record| record.memory.as_ref()) else {
            return false;
        };
        let counts = |memory: &Memory| {
            let status = &memory.status;
            let is_done = status.state == WorkloadState::Succeeded;
            (memory.failures, status.restarts, status.given_up, is_done)
        };
        match kept {
            Some(kept) => counts(kept) != counts(&memory),
            None => counts(&memory) != (0, 0, false, false),
        }
    }

    fn record(&self) -> Option<Record> {
        let desired = self.wanted.borrow();
        let assignment = desired.assignment.as_ref()?;
        Some(Record {
            memory: Some(self.machine.memory()),
            ..Record::new(assignment, &desired)
        })
    }

    async fn save(&mut self) {
        let Some(record) = self.record() else {
            return self.calls.is_saved.send_modify(|saved| *saved = true);
        };
        if self.saved.as_ref() == Some(&record) {
            return self.calls.is_saved.send_modify(|saved| *saved = true);
        }
        match self.calls.save(record.clone()).await {
            Ok(()) => {
                self.saved = Some(record);
                self.calls.is_saved.send_modify(|saved| *saved = true);
            }
            // What is to be started waits until it can be written down.
            Err(error) => {
                tracing::error!(unit = %self.unit, error, "a unit cannot be written down")
            }
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.machine.is_gone() {
            self.shared.ports.remove_local(self.unit);
        }
    }
}

fn pending() -> BoxFuture<'static, Input> {
    futures::future::pending().boxed()
}

/// A call that panicked has failed; whichever kind it was, the machine knows.
fn broken(call: u64) -> Input {
    Input::Broke {
        call,
        failure: Failure::new(
            "run",
            Reason::Internal,
            "the call broke the agent's runtime; its log has more",
        ),
    }
}

fn time() -> Now {
    Now {
        mono: Monotonic(lease::now_ms()),
        unix_ms: now().as_millis(),
    }
}

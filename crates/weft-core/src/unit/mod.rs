//! One unit on its node: what is done with it next, and what is told of it.
//!
//! | state | under way | goes on to |
//! | --- | --- | --- |
//! | `Looking` | observe: is there an instance? | `Running`, `Admitting`, or what an end asks for |
//! | `Admitting` | room, secrets, older epochs | `Preparing`; `Over` when there is no room for a minute |
//! | `Preparing` | images, sources, volumes | `Starting`; `Resting` after a failure |
//! | `Starting` | the instance is made and started | `Running`; `Resting` after a failure |
//! | `Running` | health checks; now and then a look | `Resting`, `Stopping` or `Over`, by the restart policy |
//! | `Resting` | nothing until the next try | whatever is tried again |
//! | `Draining` | the proxy sends nothing new and waits for what is open | `Stopping` |
//! | `Stopping` | asked to end, killed after its grace | `Removing`, `Resting`, `Leaseless` or `Over` |
//! | `Leaseless` | nothing: an exclusive unit on a node without a lease | `Looking`, once there is a lease |
//! | `Over` | nothing: it ended well, or the node has given it up | `Removing`, once it is to end |
//! | `Removing` | everything that was made for it goes | `Gone` |
//! | `Gone` | nothing is left | |
//!
//! An order to end leads from every state over `Draining`, `Stopping` and `Removing` to `Gone`;
//! nothing leads back. A lost lease leads an exclusive unit from every state in which something of
//! it may run to `Stopping`, with the grace that the lease still has room for.
//!
//! An instance that has written more to its own layer than it may is killed, as one is that takes
//! more memory than it may, and its policy decides what follows.
//!
//! There is at most one call to a runtime at a time. A new one takes the place of the one before,
//! whose answer is then ignored: a call may be dropped at any time and be half done.

mod check;
mod ending;
mod running;
mod vocabulary;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use vocabulary::{
    Action, Failure, HealthTimes, Input, Lease, Memory, Now, Observation, Order, Output, Phase,
    Settings,
};

use weft_types::{Reason, WorkloadState};

use crate::Monotonic;
use crate::service::record::UnitStatus;
use running::Run;

/// How long a unit waits for room on its node before it is given up there, in milliseconds.
pub const MAX_ADMISSION_MS: u64 = 60_000;
/// How often something is started again in a row when its policy names no number.
pub const DEFAULT_MAX_RESTARTS: u32 = 5;
/// Running for this long begins the count of restarts anew, in milliseconds.
pub const STEADY_MS: u64 = 600_000;
/// The first wait before something is tried again, and the longest one, in milliseconds.
pub const FIRST_WAIT_MS: u64 = 1_000;
/// See [`FIRST_WAIT_MS`].
pub const MAX_WAIT_MS: u64 = 60_000;

/// What is tried after a rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    Look,
    Begin,
    Stop(After),
    Remove,
}

/// What follows once an instance has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    /// Everything of it goes.
    Remove,
    /// It is started again after a rest.
    Restart,
    /// It waits for a lease.
    Leaseless,
    /// Nothing more.
    Over,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    New,
    Looking,
    Admitting { until: Option<Monotonic> },
    Preparing,
    Starting,
    Running(Run),
    Resting { until: Monotonic, then: Then },
    Draining,
    Stopping(After),
    Leaseless,
    Over,
    Removing,
    Gone,
}

/// The machine of one unit.
#[derive(Clone, Debug)]
pub struct Machine {
    settings: Settings,
    order: Order,
    lease: Lease,
    state: State,
    /// The call that is under way.
    call: Option<(u64, Action)>,
    last_call: u64,
    /// Something may have changed since the observation under way began.
    look_again: bool,
    /// Ends and failed attempts in a row.
    failures: u32,
    /// Failures to look, stop or remove in a row.
    stumbles: u32,
    status: UnitStatus,
}

impl Machine {
    /// A unit that nothing is known of, or one that the agent kept over its own restart.
    pub fn new(settings: Settings, memory: Option<Memory>, now: Now) -> Self {
        let (status, failures) = match memory {
            Some(memory) => (remembered(memory.status), memory.failures),
            None => {
                let state = WorkloadState::Starting;
                let status =
                    UnitStatus::new(settings.unit, settings.node.clone(), state, now.unix_ms);
                (status, 0)
            }
        };
        Self {
            lease: Lease::Held,
            order: Order::default(),
            state: State::New,
            call: None,
            last_call: 0,
            look_again: false,
            failures,
            stumbles: 0,
            settings,
            status,
        }
    }

    /// How it is, for the server.
    pub fn status(&self) -> &UnitStatus {
        &self.status
    }

    /// What has to survive a restart of the agent, beside the assignment.
    pub fn memory(&self) -> Memory {
        Memory {
            failures: self.failures,
            status: self.status.clone(),
        }
    }

    /// Whether nothing is left of it.
    pub fn is_gone(&self) -> bool {
        self.state == State::Gone
    }

    /// Whether an instance runs, as far as is known.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running(_))
    }

    /// Whether its resources are in use: from the moment it was let in until nothing of it runs
    /// and nothing will be tried again.
    pub fn uses_room(&self) -> bool {
        match &self.state {
            State::Preparing | State::Starting | State::Running(_) | State::Draining => true,
            State::Stopping(_) => true,
            State::Resting { then, .. } => !matches!(then, Then::Look | Then::Remove),
            State::New | State::Looking | State::Admitting { .. } | State::Leaseless => false,
            State::Over | State::Removing | State::Gone => false,
        }
    }

    /// Whether resources that it has are to be kept for it: while they are in use, and while it is
    /// let in again.
    pub fn keeps_room(&self) -> bool {
        self.uses_room() || matches!(self.state, State::Admitting { .. })
    }

    /// Whether it may have requests or connections that are still answered.
    pub fn may_answer(&self) -> bool {
        matches!(
            self.state,
            State::Running(_) | State::Draining | State::Stopping(_)
        )
    }

    /// Whether its instance is about to be ended.
    pub fn is_ending(&self) -> bool {
        matches!(self.state, State::Draining | State::Stopping(_))
    }

    /// Whether it is not known yet whether there is an instance.
    pub fn is_looking(&self) -> bool {
        matches!(self.state, State::New | State::Looking)
    }

    /// When it wants a [`Input::Tick`], if nothing else happens.
    pub fn wake_at(&self) -> Option<Monotonic> {
        match &self.state {
            State::Admitting { until } => *until,
            State::Resting { until, .. } => Some(*until),
            State::Running(run) => run.wake_at(),
            _ => None,
        }
    }

    /// Takes something that happened; returns what is to be done.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Output> {
        let before = self.status.clone();
        let mut out = Vec::new();
        self.take(now, input, &mut out);
        if self.status.state != before.state {
            self.status.since_ms = now.unix_ms;
        }
        if self.status.ready != before.ready {
            self.status.ready_since_ms = self.status.ready.then_some(now.unix_ms);
        }
        if self.status != before {
            out.push(Output::Report);
        }
        self.check();
        out
    }

    fn take(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Ordered(order) => self.ordered(order, out),
            Input::Lease(lease) => self.lease_is(lease, out),
            Input::Did { call, result } => {
                if let Some(action) = self.answered(call) {
                    self.did(now, action, result, out);
                }
            }
            Input::Seen { call, result } => {
                if self.answered(call) == Some(Action::Observe) {
                    self.seen(now, result, out);
                }
            }
            Input::Broke { call, failure } => match self.answered(call) {
                Some(Action::Observe) => self.seen(now, Err(failure), out),
                Some(action) => self.did(now, action, Err(failure), out),
                None => {}
            },
            Input::Probed { call, result } => self.probed(now, call, result, out),
            Input::Waits { reason, detail } => self.waits(now, reason, detail),
            Input::Progress(detail) => self.progress(detail),
            Input::Measured { since, disk_bytes } => self.measured(now, since, disk_bytes, out),
            Input::Look => self.look(out),
            Input::Tick => self.tick(now, out),
        }
    }

    fn ordered(&mut self, order: Order, out: &mut Vec<Output>) {
        let was_new = self.state == State::New;
        if !self.order.run && !was_new {
            // Nothing leads back from the end; only what becomes of the volumes may still change.
            self.order.keep_volumes = order.keep_volumes;
            return;
        }
        let must_end = !order.run;
        self.order = order;
        if must_end {
            self.end(out);
        } else if was_new {
            self.begin(out);
        }
    }

    /// The first thing that happens to a unit that is to run.
    fn begin(&mut self, out: &mut Vec<Output>) {
        if self.status.state == WorkloadState::Succeeded {
            self.state = State::Over;
        } else if self.status.given_up {
            // It may have been given up while it ran, and not have ended yet.
            self.stop(After::Over, self.grace_ms(), out);
        } else if self.is_fenced() {
            self.stop_for_lease(out);
        } else {
            self.state = State::Looking;
            self.call(Action::Observe, out);
        }
    }

    fn is_fenced(&self) -> bool {
        self.settings.exclusive && self.lease != Lease::Held
    }

    fn lease_is(&mut self, lease: Lease, out: &mut Vec<Output>) {
        self.lease = lease;
        if !self.settings.exclusive {
            return;
        }
        if lease == Lease::Held {
            if self.state == State::Leaseless {
                self.clear_reason();
                self.state = State::Looking;
                self.call(Action::Observe, out);
            }
            return;
        }
        self.stop_for_lease(out);
    }

    fn call(&mut self, action: Action, out: &mut Vec<Output>) {
        self.last_call += 1;
        self.look_again = false;
        self.call = Some((self.last_call, action.clone()));
        out.push(Output::Call {
            call: self.last_call,
            action,
        });
    }

    /// The action that this answers; `None` when another one took its place.
    fn answered(&mut self, call: u64) -> Option<Action> {
        let (current, _) = self.call.as_ref()?;
        (*current == call).then(|| self.call.take().map(|(_, action)| action))?
    }

    fn did(
        &mut self,
        now: Now,
        action: Action,
        result: Result<(), Failure>,
        out: &mut Vec<Output>,
    ) {
        match (action, result) {
            (Action::Admit, Ok(())) => {
                self.clear_reason();
                self.state = State::Preparing;
                self.under_way(WorkloadState::Starting, "prepare");
                self.call(Action::Prepare, out);
            }
            (Action::Prepare, Ok(())) => {
                self.state = State::Starting;
                self.under_way(WorkloadState::Starting, "start");
                self.call(Action::Start, out);
            }
            (Action::Start, Ok(())) => self.started(now, out),
            (Action::Drain, _) => self.stop(After::Remove, self.settings.grace_ms, out),
            (Action::Stop { .. }, Ok(())) => self.stopped(now, out),
            (Action::Remove { .. }, Ok(())) => self.removed(),
            (Action::Admit, Err(failure)) => self.give_up(failure, None),
            (Action::Prepare | Action::Start, Err(failure)) => self.not_started(now, failure),
            (Action::Stop { .. }, Err(failure)) => {
                if let State::Stopping(after) = self.state {
                    self.stumble(now, failure, Then::Stop(after));
                }
            }
            (Action::Remove { .. }, Err(failure)) => self.stumble(now, failure, Then::Remove),
            (Action::Observe, _) => {}
        }
    }

    fn waits(&mut self, now: Now, reason: Reason, detail: String) {
        let State::Admitting { until } = &mut self.state else {
            return;
        };
        *until = match reason {
            Reason::InsufficientResources => until.or(Some(now.mono.plus_ms(MAX_ADMISSION_MS))),
            _ => None,
        };
        self.status.state = WorkloadState::Pending;
        self.status.step = "prepare".to_owned();
        self.status.reason = Some(reason);
        self.status.detail = detail;
    }

    fn progress(&mut self, detail: String) {
        if matches!(self.state, State::Preparing | State::Starting) {
            self.status.detail = detail;
        }
    }

    fn look(&mut self, out: &mut Vec<Output>) {
        // An engine that did not answer may have come back.
        if let State::Resting {
            then: Then::Look, ..
        } = self.state
        {
            return self.rested(Then::Look, out);
        }
        if !matches!(self.state, State::Running(_)) {
            return;
        }
        if self.call.is_some() {
            self.look_again = true;
        } else {
            self.call(Action::Observe, out);
        }
    }

    fn tick(&mut self, now: Now, out: &mut Vec<Output>) {
        match &self.state {
            State::Resting { until, then } if *until <= now.mono => {
                let then = *then;
                self.rested(then, out);
            }
            State::Admitting { until: Some(until) } if *until <= now.mono => {
                let detail = format!(
                    "{}; it waited a minute for tasks to end",
                    self.status.detail
                );
                self.call = None;
                self.give_up(
                    Failure::new("prepare", Reason::InsufficientResources, detail),
                    None,
                );
            }
            State::Running(_) => self.tick_running(now, out),
            _ => {}
        }
    }

    fn rested(&mut self, then: Then, out: &mut Vec<Output>) {
        self.status.next_try_ms = None;
        match then {
            Then::Look => {
                self.state = State::Looking;
                self.call(Action::Observe, out);
            }
            Then::Begin => self.admit(out),
            Then::Stop(after) => {
                let grace_ms = self.grace_ms();
                self.stop(after, grace_ms, out);
            }
            Then::Remove => self.remove(out),
        }
    }

    fn admit(&mut self, out: &mut Vec<Output>) {
        self.state = State::Admitting { until: None };
        self.under_way(WorkloadState::Starting, "prepare");
        self.call(Action::Admit, out);
    }

    fn under_way(&mut self, state: WorkloadState, step: &str) {
        self.status.state = state;
        step.clone_into(&mut self.status.step);
        self.status.ready = false;
        self.clear_reason();
    }

    fn clear_reason(&mut self) {
        self.status.reason = None;
        self.status.detail.clear();
        self.status.evidence.clear();
        self.status.next_try_ms = None;
    }
}

/// What of a status holds until the instance was looked at again.
fn remembered(status: UnitStatus) -> UnitStatus {
    UnitStatus {
        ready: false,
        ready_since_ms: None,
        gone: false,
        kept: false,
        next_try_ms: None,
        ..status
    }
}

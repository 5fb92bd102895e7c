//! Failures, rests, ends.

use weft_types::{Reason, RestartWhen, UnitId, WorkloadState};

use super::{
    Action, After, DEFAULT_MAX_RESTARTS, FIRST_WAIT_MS, Failure, Lease, MAX_WAIT_MS, Machine, Now,
    Output, State, Then,
};
use crate::retry::full_jitter;

impl Machine {
    /// Preparing or starting failed.
    pub(super) fn not_started(&mut self, now: Now, failure: Failure) {
        if !failure.reason.is_retryable() || self.failures >= self.max_failures() {
            return self.give_up(failure, None);
        }
        self.failures += 1;
        self.rest(now, failure, Then::Begin);
    }

    /// Looking, stopping or removing failed: there is nothing to do but to try again.
    pub(super) fn stumble(&mut self, now: Now, failure: Failure, then: Then) {
        self.stumbles = self.stumbles.saturating_add(1);
        let wait_ms = wait_ms(self.settings.unit, self.stumbles);
        self.rest_for(now, wait_ms, failure, then);
    }

    pub(super) fn max_failures(&self) -> u32 {
        self.settings.restart.max.unwrap_or(DEFAULT_MAX_RESTARTS)
    }

    fn rest(&mut self, now: Now, failure: Failure, then: Then) {
        let wait_ms = wait_ms(self.settings.unit, self.failures);
        self.rest_for(now, wait_ms, failure, then);
    }

    fn rest_for(&mut self, now: Now, wait_ms: u64, failure: Failure, then: Then) {
        self.state = State::Resting {
            until: now.mono.plus_ms(wait_ms),
            then,
        };
        self.status.state = match then {
            Then::Stop(After::Remove) | Then::Remove => WorkloadState::Stopped,
            Then::Stop(After::Over) => WorkloadState::Failed,
            _ => WorkloadState::Pending,
        };
        self.failed(failure);
        self.status.next_try_ms = Some(now.unix_ms.saturating_add(wait_ms));
    }

    fn failed(&mut self, failure: Failure) {
        self.status.ready = false;
        failure.step.clone_into(&mut self.status.step);
        self.status.reason = Some(failure.reason);
        self.status.detail = failure.detail;
        self.status.evidence = failure.evidence;
        self.status.next_try_ms = None;
    }

    /// An instance ended, or does not pass its health check: by its policy it is started again,
    /// is done, or is given up. With a grace, in milliseconds, it has to be ended first.
    pub(super) fn ended(
        &mut self,
        now: Now,
        failure: Option<Failure>,
        exit_code: Option<i32>,
        grace_ms: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        self.status.exit_code = exit_code.or(self.status.exit_code);
        let when = self.settings.restart.policy;
        let Some(failure) = failure.or_else(|| self.ended_well(when)) else {
            self.status.state = WorkloadState::Succeeded;
            self.status.ready = false;
            self.status.step = "run".to_owned();
            self.clear_reason();
            self.state = State::Over;
            return;
        };
        if when == RestartWhen::No || self.failures >= self.max_failures() {
            return self.give_up(failure, grace_ms.map(|grace_ms| (grace_ms, out)));
        }
        self.failures += 1;
        self.status.restarts = self.status.restarts.saturating_add(1);
        let Some(grace_ms) = grace_ms else {
            return self.rest(now, failure, Then::Begin);
        };
        self.failed(failure);
        self.status.state = WorkloadState::Failed;
        self.stop(After::Restart, grace_ms, out);
    }

    /// An end with exit code 0 is a failure of what is always to run.
    fn ended_well(&self, when: RestartWhen) -> Option<Failure> {
        matches!(when, RestartWhen::Always | RestartWhen::UnlessStopped).then(|| {
            let detail = "it ended with exit code 0, and is to run always; `restart: on-failure` lets it end";
            Failure::new("run", Reason::RuntimeError, detail)
        })
    }

    /// The node does not try again. With a grace, in milliseconds, what runs is ended.
    pub(super) fn give_up(&mut self, failure: Failure, runs: Option<(u64, &mut Vec<Output>)>) {
        self.failed(failure);
        self.status.state = WorkloadState::Failed;
        self.status.given_up = true;
        match runs {
            Some((grace_ms, out)) => self.stop(After::Over, grace_ms, out),
            None => self.state = State::Over,
        }
    }

    /// It is to end: drained if it answers somebody, then stopped, then removed.
    pub(super) fn end(&mut self, out: &mut Vec<Output>) {
        let was_running = matches!(self.state, State::Running(_));
        let is_over = matches!(self.state, State::Over | State::Leaseless);
        self.under_way(WorkloadState::Stopped, "stop");
        self.status.detail.clone_from(&self.order.why);
        if self.is_fenced() {
            self.stop(After::Remove, self.grace_ms(), out);
        } else if was_running {
            self.state = State::Draining;
            self.call(Action::Drain, out);
        } else if is_over {
            self.remove(out);
        } else {
            self.stop(After::Remove, self.settings.grace_ms, out);
        }
    }

    /// The grace that may be given now.
    pub(super) fn grace_ms(&self) -> u64 {
        match self.lease {
            Lease::Lost { grace_ms } if self.settings.exclusive => {
                grace_ms.min(self.settings.grace_ms)
            }
            _ => self.settings.grace_ms,
        }
    }

    /// Ends whatever may run of an exclusive unit, within what is left of the lease.
    pub(super) fn stop_for_lease(&mut self, out: &mut Vec<Output>) {
        let after = match self.state {
            State::Gone | State::Removing | State::Over | State::Leaseless => return,
            State::Resting {
                then: Then::Remove, ..
            } => return,
            // What was found running at the start belongs to the lease of before.
            State::New if !self.order.run => return,
            State::Draining => After::Remove,
            State::Stopping(after)
            | State::Resting {
                then: Then::Stop(after),
                ..
            } => match after {
                After::Restart => After::Leaseless,
                after => after,
            },
            _ => After::Leaseless,
        };
        if after == After::Leaseless {
            self.failed(Failure::new(
                "run",
                Reason::NodeLost,
                "the node has no lease, without which it must not run: it goes on when a server answers",
            ));
            self.status.state = WorkloadState::Pending;
        }
        self.status.ready = false;
        self.stop(after, self.grace_ms(), out);
    }

    pub(super) fn stop(&mut self, after: After, grace_ms: u64, out: &mut Vec<Output>) {
        self.state = State::Stopping(after);
        self.status.ready = false;
        self.status.next_try_ms = None;
        self.call(Action::Stop { grace_ms }, out);
    }

    /// Nothing of it runs any more.
    pub(super) fn stopped(&mut self, now: Now, out: &mut Vec<Output>) {
        self.stumbles = 0;
        let State::Stopping(after) = self.state else {
            return;
        };
        match after {
            After::Remove => self.remove(out),
            After::Over => self.state = State::Over,
            After::Leaseless if self.lease == Lease::Held => {
                self.state = State::Looking;
                self.call(Action::Observe, out);
            }
            After::Leaseless => self.state = State::Leaseless,
            After::Restart => {
                let wait_ms = wait_ms(self.settings.unit, self.failures);
                self.state = State::Resting {
                    until: now.mono.plus_ms(wait_ms),
                    then: Then::Begin,
                };
                self.status.state = WorkloadState::Pending;
                self.status.next_try_ms = Some(now.unix_ms.saturating_add(wait_ms));
            }
        }
    }

    pub(super) fn remove(&mut self, out: &mut Vec<Output>) {
        self.state = State::Removing;
        self.under_way(WorkloadState::Stopped, "remove");
        self.status.detail.clone_from(&self.order.why);
        let keep_volumes = self.order.keep_volumes;
        self.call(Action::Remove { keep_volumes }, out);
    }

    pub(super) fn removed(&mut self) {
        self.state = State::Gone;
        self.status.gone = true;
        self.status.kept = self.order.keep_volumes;
        self.status.step.clear();
        self.status.address = None;
        self.status.parts.clear();
    }
}

/// The wait after a number of failures in a row: between half of the doubled one and all of it,
/// by a hash, so that units that failed together do not come back together.
fn wait_ms(unit: UnitId, failures: u32) -> u64 {
    let exponent = failures.saturating_sub(1).min(16);
    let bound = (FIRST_WAIT_MS << exponent).min(MAX_WAIT_MS);
    let half = bound / 2;
    let seed = unit.workload.0 ^ (u64::from(unit.number) << 32) ^ u64::from(failures);
    bound - half + full_jitter(half, split_mix(seed))
}

/// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
fn split_mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

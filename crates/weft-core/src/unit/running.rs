//! An instance that runs: looks and health checks.

use weft_types::{Bytes, Reason, WorkloadState};

use super::{Failure, Machine, Now, Observation, Output, Phase, STEADY_MS, Settings, State, Then};
use crate::Monotonic;

/// Until the first success it is checked this often, or at its own interval if that is shorter, so
/// that it serves soon after it can. In milliseconds.
const EAGER_INTERVAL_MS: u64 = 1_000;
/// For how long the engine's own health check may call it unhealthy before it is started again, in
/// milliseconds: the engine has already counted its retries.
const ENGINE_UNHEALTHY_MS: u64 = 30_000;

/// What is known of an instance that runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    since: Monotonic,
    /// Since when it is known: what was measured before may be of the instance before it.
    known: Monotonic,
    /// The next health check; `None` while one is under way.
    probe_at: Option<Monotonic>,
    probe: u64,
    /// Whether a check has succeeded.
    passed: bool,
    failed_checks: u32,
    /// When a failure last counted.
    counted: Monotonic,
    /// Since when the engine calls it unhealthy.
    unhealthy: Option<Monotonic>,
    is_paused: bool,
    is_seen: bool,
    has_checks: bool,
    /// Whether it boots and is not known to be well.
    is_booting: bool,
}

impl Run {
    fn new(since: Monotonic, now: Monotonic, settings: &Settings) -> Self {
        let health = settings.health;
        let start_period = health.map_or(0, |health| health.start_period_ms);
        Self {
            since,
            known: now,
            probe_at: health.map(|_| now),
            probe: 0,
            passed: false,
            failed_checks: 0,
            counted: since.plus_ms(start_period).max(now),
            unhealthy: None,
            is_paused: false,
            is_seen: false,
            has_checks: health.is_some(),
            is_booting: settings.boots,
        }
    }

    pub(super) fn wake_at(&self) -> Option<Monotonic> {
        let engine = self
            .unhealthy
            .map(|since| since.plus_ms(ENGINE_UNHEALTHY_MS));
        // Before it was seen its address is not known.
        let probe = self.probe_at.filter(|_| self.is_seen && !self.is_paused);
        [engine, probe].into_iter().flatten().min()
    }

    fn is_ready(&self) -> bool {
        let is_healthy = if self.has_checks {
            self.passed
        } else {
            self.unhealthy.is_none()
        };
        self.is_seen && !self.is_paused && !self.is_booting && is_healthy
    }
}

impl Machine {
    /// The instance was started just now.
    pub(super) fn started(&mut self, now: Now, out: &mut Vec<Output>) {
        self.state = State::Running(Run::new(now.mono, now.mono, &self.settings));
        self.under_way(WorkloadState::Starting, "start");
        // Its address is needed before anything can be sent there.
        self.call(super::Action::Observe, out);
    }

    pub(super) fn seen(
        &mut self,
        now: Now,
        result: Result<Observation, Failure>,
        out: &mut Vec<Output>,
    ) {
        let seen = match result {
            Ok(seen) => seen,
            Err(failure) => return self.unseen(now, failure),
        };
        self.stumbles = 0;
        if let Some(source) = seen.source {
            self.status.source = Some(source);
        }
        self.status.parts = seen.parts;
        self.status.address = seen.address;
        match seen.phase {
            Phase::Running { since_ms } => self.seen_running(now, since_ms, seen.healthy, out),
            Phase::Paused => self.seen_paused(now, out),
            // Ended because the node had lost its lease: it has not failed.
            Phase::Exited {
                reason: Some(Reason::NodeLost),
                ..
            } => self.admit(out),
            Phase::Exited {
                exit_code,
                signal,
                reason,
                detail,
            } => {
                self.count_steady_run(now);
                let failure = end_failure(exit_code, signal, reason, detail, seen.evidence);
                self.ended(now, failure, exit_code, None, out);
            }
            Phase::Absent | Phase::Created if self.is_running() => {
                self.count_steady_run(now);
                let detail = "its instance is not there any more, and nobody here removed it";
                let failure = Failure::new("run", Reason::RuntimeError, detail);
                self.ended(now, Some(failure), None, None, out);
            }
            Phase::Absent | Phase::Created => self.admit(out),
        }
        if self.look_again {
            self.look(out);
        }
    }

    /// An engine that does not answer says nothing about the instance.
    fn unseen(&mut self, now: Now, failure: Failure) {
        match &self.state {
            State::Running(_) => self.status.detail = failure.detail,
            _ => self.stumble(now, failure, Then::Look),
        }
    }

    fn run_seen(&mut self, now: Now, since: Monotonic) -> &mut Run {
        if !self.is_running() {
            self.state = State::Running(Run::new(since, now.mono, &self.settings));
            self.clear_reason();
        }
        let State::Running(run) = &mut self.state else {
            unreachable!("it was made to run");
        };
        run.is_seen = true;
        run
    }

    fn seen_running(
        &mut self,
        now: Now,
        since_ms: u64,
        healthy: Option<bool>,
        out: &mut Vec<Output>,
    ) {
        let age_ms = now.unix_ms.saturating_sub(since_ms);
        let since = Monotonic(now.mono.0.saturating_sub(age_ms));
        let run = self.run_seen(now, since);
        run.is_paused = false;
        run.is_booting &= healthy != Some(true);
        run.unhealthy = match healthy {
            Some(false) => run.unhealthy.or(Some(now.mono)),
            _ => None,
        };
        self.show_run();
        self.tick_running(now, out);
    }

    fn seen_paused(&mut self, now: Now, out: &mut Vec<Output>) {
        self.run_seen(now, now.mono).is_paused = true;
        self.show_run();
        self.status.detail = "it stands still: somebody paused it".to_owned();
        self.tick_running(now, out);
    }

    /// Brings the status in line with what is known of the instance.
    fn show_run(&mut self) {
        let State::Running(run) = &self.state else {
            return;
        };
        self.status.ready = run.is_ready();
        if self.status.ready {
            self.status.state = WorkloadState::Running;
            self.status.step.clear();
            self.clear_reason();
        } else if run.is_booting {
            self.status.state = WorkloadState::Starting;
            self.status.step = "boot".to_owned();
        } else if run.has_checks && !run.passed {
            self.status.state = WorkloadState::Starting;
            self.status.step = "health".to_owned();
        } else {
            self.status.state = WorkloadState::Running;
            self.status.step = "health".to_owned();
            if run.unhealthy.is_some() {
                self.status.detail = "the engine's own health check calls it unhealthy".to_owned();
            }
        }
    }

    pub(super) fn tick_running(&mut self, now: Now, out: &mut Vec<Output>) {
        let State::Running(run) = &mut self.state else {
            return;
        };
        let engine_says = run
            .unhealthy
            .map(|since| since.plus_ms(ENGINE_UNHEALTHY_MS));
        if engine_says.is_some_and(|at| at <= now.mono) {
            let detail = "the engine's own health check calls it unhealthy";
            return self.unhealthy(now, detail.to_owned(), out);
        }
        let is_due = run.is_seen && !run.is_paused && run.probe_at.is_some_and(|at| at <= now.mono);
        if is_due {
            run.probe_at = None;
            self.last_call += 1;
            run.probe = self.last_call;
            out.push(Output::Probe {
                call: self.last_call,
            });
        }
    }

    pub(super) fn probed(
        &mut self,
        now: Now,
        call: u64,
        result: Result<(), String>,
        out: &mut Vec<Output>,
    ) {
        let (State::Running(run), Some(health)) = (&mut self.state, self.settings.health) else {
            return;
        };
        if run.probe != call || run.probe_at.is_some() {
            return;
        }
        let pace_ms = match result.is_ok() || run.passed {
            true => health.interval_ms,
            false => health.interval_ms.min(EAGER_INTERVAL_MS),
        };
        run.probe_at = Some(now.mono.plus_ms(pace_ms));
        let Err(detail) = result else {
            run.passed = true;
            run.failed_checks = 0;
            return self.show_run();
        };
        // Eager checks must not use up the retries sooner than the interval says.
        let counts = now.mono
            >= run
                .counted
                .plus_ms(if run.passed { 0 } else { health.interval_ms });
        if counts {
            run.counted = now.mono;
            run.failed_checks += 1;
        }
        let is_unhealthy = run.failed_checks >= health.retries;
        self.show_run();
        self.status.detail = detail.clone();
        if is_unhealthy {
            self.unhealthy(now, detail, out);
        }
    }

    fn unhealthy(&mut self, now: Now, detail: String, out: &mut Vec<Output>) {
        self.count_steady_run(now);
        let failure = Failure::new("health", Reason::RuntimeError, detail);
        let grace_ms = Some(self.settings.grace_ms);
        self.ended(now, Some(failure), None, grace_ms, out);
    }

    /// What an instance has written was measured. One that is over its limit is killed: given
    /// time, it would go on writing.
    pub(super) fn measured(
        &mut self,
        now: Now,
        since: Monotonic,
        disk_bytes: u64,
        out: &mut Vec<Output>,
    ) {
        let State::Running(run) = &self.state else {
            return;
        };
        let limit = self.settings.max_disk_bytes;
        if limit == 0 || disk_bytes <= limit || since <= run.known {
            return;
        }
        self.count_steady_run(now);
        let detail = format!(
            "it has written {} bytes to its own layer, more than its limit of {}: raise \
             `resources.disk`, or have it write to a volume",
            disk_bytes,
            Bytes(limit)
        );
        let failure = Failure::new("run", Reason::StorageError, detail);
        self.ended(now, Some(failure), None, Some(0), out);
    }

    /// What ran long enough has its failures forgiven.
    fn count_steady_run(&mut self, now: Now) {
        if let State::Running(run) = &self.state
            && now.mono.since_ms(run.since) >= STEADY_MS
        {
            self.failures = 0;
        }
    }
}

/// Why an instance ended; `None` when it ended with exit code 0.
fn end_failure(
    exit_code: Option<i32>,
    signal: Option<i32>,
    reason: Option<Reason>,
    detail: String,
    evidence: Vec<String>,
) -> Option<Failure> {
    if exit_code == Some(0) && reason.is_none() {
        return None;
    }
    let what = match (signal, exit_code) {
        (Some(signal), _) => format!("it was ended by signal {signal}"),
        (None, Some(code)) => format!("it ended with exit code {code}"),
        (None, None) => "it ended".to_owned(),
    };
    let detail = match detail.is_empty() {
        true => what,
        false => format!("{what}: {detail}"),
    };
    Some(Failure {
        step: "run",
        reason: reason.unwrap_or(Reason::NonzeroExit),
        detail,
        evidence,
    })
}

//! When a node that fails everything gets no more work.
//!
//! ```text
//!          threshold of failures, no success between
//!  closed ───────────────────────────────────────────▶ open
//!    ▲                                                  │ cool-down, doubling
//!    │ the probe succeeds                               ▼
//!    └────────────────────────────────────────────── half-open: one probe
//!                                                       │ the probe fails
//!                                                       └─────────▶ open
//! ```
//!
//! After Nygard, "Release It!", chapter "Circuit Breaker". What counts as evidence against a node
//! is narrower here, because a *poison* job fails wherever it runs: only failures that are the
//! node's or the platform's count, and each job that has never completed anything elsewhere
//! counts once, however many of its tasks fail. A job that works on other nodes counts each time.

use weft_types::{Class, Reason};

use crate::Monotonic;

/// When a breaker opens and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Pieces of evidence in a row that open it.
    pub threshold: u32,
    /// The first time it stays open, in milliseconds; doubles each time a probe fails.
    pub cool_down_ms: u64,
    /// The longest it stays open, in milliseconds.
    pub max_cool_down_ms: u64,
}

impl Default for Config {
    /// Five in a row; five seconds, at most a minute.
    fn default() -> Self {
        Self {
            threshold: 5,
            cool_down_ms: 5_000,
            max_cool_down_ms: 60_000,
        }
    }
}

/// Whether a node gets work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// As usual.
    Closed,
    /// None.
    Open,
    /// One task, to see.
    HalfOpen,
}

/// How many jobs without a success elsewhere are told apart; more opens the breaker anyway.
const MAX_SUSPECT_JOBS: usize = 8;

/// The breaker of one node, or of a class of nodes.
#[derive(Clone, Debug)]
pub struct Breaker {
    config: Config,
    state: State,
    evidence: u32,
    /// Jobs that failed here, that have completed nothing elsewhere, and have counted once.
    suspects: [u64; MAX_SUSPECT_JOBS],
    suspect_count: usize,
    until: Monotonic,
    cool_down_ms: u64,
}

impl Breaker {
    /// Closed.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            state: State::Closed,
            evidence: 0,
            suspects: [0; MAX_SUSPECT_JOBS],
            suspect_count: 0,
            until: Monotonic(0),
            cool_down_ms: config.cool_down_ms,
        }
    }

    /// Whether the node gets work.
    pub fn state(&self) -> State {
        self.state
    }

    /// When an open breaker half-opens.
    pub fn until(&self) -> Option<Monotonic> {
        (self.state == State::Open).then_some(self.until)
    }

    /// A task completed on the node. Answers whether the state changed.
    pub fn succeeded(&mut self) -> bool {
        self.evidence = 0;
        self.suspect_count = 0;
        if self.state == State::Closed {
            return false;
        }
        self.state = State::Closed;
        self.cool_down_ms = self.config.cool_down_ms;
        true
    }

    /// A task of a job failed on the node; `works_elsewhere` when that job has completed a task
    /// on another node. Answers whether the state changed.
    pub fn failed(
        &mut self,
        now: Monotonic,
        reason: Reason,
        job: u64,
        works_elsewhere: bool,
    ) -> bool {
        if !matches!(reason.class(), Class::Node | Class::Platform) {
            return false;
        }
        if !works_elsewhere && !self.is_new_suspect(job) {
            return false;
        }
        self.evidence += 1;
        match self.state {
            State::Closed if self.evidence >= self.config.threshold => self.open(now),
            State::HalfOpen => {
                self.cool_down_ms = (self.cool_down_ms * 2).min(self.config.max_cool_down_ms);
                self.open(now)
            }
            State::Closed | State::Open => false,
        }
    }

    /// Time has passed. Answers whether the state changed.
    pub fn tick(&mut self, now: Monotonic) -> bool {
        if self.state != State::Open || now < self.until {
            return false;
        }
        self.state = State::HalfOpen;
        // The probe is judged on its own.
        self.suspect_count = 0;
        true
    }

    fn open(&mut self, now: Monotonic) -> bool {
        self.state = State::Open;
        self.until = now.plus_ms(self.cool_down_ms);
        true
    }

    fn is_new_suspect(&mut self, job: u64) -> bool {
        if self.suspects[..self.suspect_count].contains(&job) {
            return false;
        }
        if self.suspect_count < MAX_SUSPECT_JOBS {
            self.suspects[self.suspect_count] = job;
            self.suspect_count += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Config::default())
    }

    #[test]
    fn a_noisy_node_opens_and_closes_again_after_a_good_probe() {
        let mut breaker = breaker();
        for failure in 1..=5 {
            let changed = breaker.failed(Monotonic(0), Reason::RuntimeError, 7, true);
            assert_eq!(changed, failure == 5);
        }
        assert_eq!(breaker.state(), State::Open);
        assert!(!breaker.tick(Monotonic(4_999)));
        assert!(breaker.tick(Monotonic(5_000)));
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(breaker.succeeded());
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_failed_probe_doubles_the_cool_down() {
        let mut breaker = breaker();
        for _ in 0..5 {
            breaker.failed(Monotonic(0), Reason::RuntimeError, 7, true);
        }
        breaker.tick(Monotonic(5_000));
        assert!(breaker.failed(Monotonic(5_000), Reason::RuntimeError, 7, true));
        assert_eq!(breaker.until(), Some(Monotonic(15_000)));
    }

    #[test]
    fn a_poison_job_counts_once_however_often_it_fails() {
        let mut breaker = breaker();
        for _ in 0..1_000 {
            assert!(!breaker.failed(Monotonic(0), Reason::RuntimeError, 7, false));
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn failures_of_the_user_are_no_evidence() {
        let mut breaker = breaker();
        for job in 0..1_000 {
            breaker.failed(Monotonic(0), Reason::NonzeroExit, job, true);
        }
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_success_between_starts_the_count_again() {
        let mut breaker = breaker();
        for round in 0..100 {
            for _ in 0..4 {
                breaker.failed(Monotonic(round), Reason::RuntimeError, 7, true);
            }
            breaker.succeeded();
        }
        assert_eq!(breaker.state(), State::Closed);
    }
}

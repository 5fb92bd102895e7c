//! The bench of the tests: a unit and a clock.

use std::time::Duration;

use weft_types::{
    HealthCheck, Reason, RestartPolicy, RestartWhen, UnitId, WorkloadId, WorkloadState,
};

use super::*;

mod leases;
mod life;
mod limits;
mod readiness;

const UNIX: u64 = 1_700_000_000_000;

/// A unit, and a clock that a test moves.
struct Bench {
    machine: Machine,
    now: u64,
    out: Vec<Output>,
}

fn settings() -> Settings {
    Settings {
        unit: UnitId {
            workload: WorkloadId(7),
            number: 1,
        },
        node: "n1".parse().unwrap(),
        restart: RestartPolicy::default(),
        health: None,
        grace_ms: 10_000,
        exclusive: false,
        boots: false,
        max_disk_bytes: 0,
    }
}

fn run() -> Order {
    Order {
        run: true,
        ..Order::default()
    }
}

fn stop() -> Order {
    Order {
        why: "scaled down".to_owned(),
        ..Order::default()
    }
}

fn exited(code: i32) -> Observation {
    Observation::of(Phase::Exited {
        exit_code: Some(code),
        signal: None,
        reason: None,
        detail: String::new(),
    })
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let now = Now {
            mono: Monotonic(5_000_000),
            unix_ms: UNIX,
        };
        Self {
            machine: Machine::new(settings, None, now),
            now: 0,
            out: Vec::new(),
        }
    }

    fn time(&self) -> Now {
        Now {
            mono: Monotonic(5_000_000 + self.now),
            unix_ms: UNIX + self.now,
        }
    }

    fn input(&mut self, input: Input) -> &mut Self {
        let now = self.time();
        self.out = self.machine.step(now, input);
        self
    }

    fn action(&self) -> Action {
        self.machine.call.clone().expect("no call is under way").1
    }

    fn call(&self) -> u64 {
        self.machine.call.as_ref().expect("no call is under way").0
    }

    /// The call under way, which must be this one, succeeds.
    fn did(&mut self, action: &Action) -> &mut Self {
        assert_eq!(&self.action(), action);
        let call = self.call();
        self.input(Input::Did {
            call,
            result: Ok(()),
        })
    }

    fn fails(&mut self, action: &Action, reason: Reason) -> &mut Self {
        assert_eq!(&self.action(), action);
        let call = self.call();
        self.input(Input::Did {
            call,
            result: Err(Failure::new("start", reason, "boom")),
        })
    }

    fn sees(&mut self, seen: Observation) -> &mut Self {
        assert_eq!(self.action(), Action::Observe);
        let call = self.call();
        self.input(Input::Seen {
            call,
            result: Ok(seen),
        })
    }

    fn sees_running(&mut self) -> &mut Self {
        let since_ms = self.time().unix_ms;
        self.sees(Observation::of(Phase::Running { since_ms }))
    }

    /// From the first order to an instance that runs.
    fn up(&mut self) -> &mut Self {
        self.input(Input::Ordered(run()))
            .sees(Observation::of(Phase::Absent))
            .starts()
    }

    fn starts(&mut self) -> &mut Self {
        self.did(&Action::Admit)
            .did(&Action::Prepare)
            .did(&Action::Start)
            .sees_running()
    }

    /// Lets time pass until the machine wants to be woken.
    fn rests(&mut self) -> u64 {
        let at = self.machine.wake_at().expect("it rests");
        let waited = at.since_ms(self.time().mono);
        self.later(waited);
        waited
    }

    fn later(&mut self, ms: u64) -> &mut Self {
        self.now += ms;
        self.input(Input::Tick)
    }

    fn measures(&mut self, disk_bytes: u64) -> &mut Self {
        let since = self.time().mono;
        self.input(Input::Measured { since, disk_bytes })
    }

    fn ends(&mut self, code: i32) -> &mut Self {
        self.input(Input::Look).sees(exited(code))
    }

    fn probe(&self) -> u64 {
        let mut probes = self.out.iter().filter_map(|out| match out {
            Output::Probe { call } => Some(*call),
            _ => None,
        });
        probes.next_back().expect("no check was asked for")
    }

    fn probed(&mut self, result: Result<(), &str>) -> &mut Self {
        let call = self.probe();
        let result = result.map_err(str::to_owned);
        self.input(Input::Probed { call, result })
    }

    fn status(&self) -> &UnitStatus {
        self.machine.status()
    }
}

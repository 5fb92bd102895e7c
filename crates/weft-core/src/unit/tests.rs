use std::time::Duration;

use weft_types::{
    HealthCheck, Reason, RestartPolicy, RestartWhen, UnitId, WorkloadId, WorkloadState,
};

use super::*;

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

#[test]
fn a_new_unit_is_let_in_prepared_started_and_ready_once_it_was_seen() {
    let mut bench = Bench::new(settings());
    bench.input(Input::Ordered(run()));
    bench.sees(Observation::of(Phase::Absent));
    bench.did(&Action::Admit);
    assert_eq!(bench.status().step, "prepare");
    bench.input(Input::Progress("pulling 3 of 7 layers".to_owned()));
    assert_eq!(bench.status().detail, "pulling 3 of 7 layers");
    bench.did(&Action::Prepare).did(&Action::Start);
    assert!(!bench.status().ready);
    bench.sees_running();
    assert!(bench.status().ready && bench.status().detail.is_empty());
    assert_eq!(bench.status().state, WorkloadState::Running);
    assert_eq!(bench.status().ready_since_ms, Some(UNIX));
}

#[test]
fn the_same_order_twice_does_nothing() {
    let mut bench = Bench::new(settings());
    bench.up().input(Input::Ordered(run()));
    assert_eq!(bench.out, []);
}

#[test]
fn what_runs_already_is_adopted_and_not_started() {
    let mut bench = Bench::new(settings());
    bench.input(Input::Ordered(run())).sees_running();
    assert!(bench.status().ready && bench.machine.uses_room());
    assert_eq!(bench.status().restarts, 0);
}

#[test]
fn a_stop_drains_then_asks_then_removes_and_nothing_leads_back() {
    let mut bench = Bench::new(settings());
    bench.up().input(Input::Ordered(stop()));
    assert!(!bench.status().ready);
    assert_eq!(bench.status().detail, "scaled down");
    bench.did(&Action::Drain);
    bench.did(&Action::Stop { grace_ms: 10_000 });
    assert_eq!(bench.status().state, WorkloadState::Stopped);
    bench.input(Input::Ordered(run()));
    bench.did(&Action::Remove {
        keep_volumes: false,
    });
    assert!(bench.machine.is_gone() && bench.status().gone);
    assert_eq!(bench.machine.wake_at(), None);
}

#[test]
fn a_stop_takes_the_place_of_a_long_pull() {
    let mut bench = Bench::new(settings());
    bench.input(Input::Ordered(run()));
    bench
        .sees(Observation::of(Phase::Absent))
        .did(&Action::Admit);
    let pull = bench.call();
    bench.input(Input::Ordered(stop()));
    bench.input(Input::Did {
        call: pull,
        result: Ok(()),
    });
    assert_eq!(bench.action(), Action::Stop { grace_ms: 10_000 });
}

#[test]
fn what_ends_is_started_again_with_growing_waits_until_it_is_given_up() {
    let mut bench = Bench::new(settings());
    bench.up();
    for restart in 1..=5 {
        bench.ends(3);
        assert_eq!(bench.status().state, WorkloadState::Pending);
        assert_eq!(bench.status().reason, Some(Reason::NonzeroExit));
        assert_eq!(bench.status().exit_code, Some(3));
        let wait = bench.rests();
        let bound = (1_000 << (restart - 1)).min(60_000);
        assert!((bound / 2..=bound).contains(&wait), "{wait} of {bound}");
        bench.starts();
        assert_eq!(bench.status().restarts, restart);
    }
    bench.ends(3);
    assert!(bench.status().given_up && !bench.machine.uses_room());
    assert_eq!(bench.status().state, WorkloadState::Failed);
    assert_eq!(bench.machine.wake_at(), None);
}

#[test]
fn ten_minutes_of_running_begin_the_count_anew() {
    let mut bench = Bench::new(settings());
    bench.up();
    for _ in 0..5 {
        bench.ends(1).rests();
        bench.starts();
    }
    bench.later(STEADY_MS).ends(1);
    assert!(!bench.status().given_up);
    assert!(bench.rests() <= 1_000);
}

#[test]
fn the_policy_decides_what_becomes_of_an_end() {
    use RestartWhen::{Always, No, OnFailure, UnlessStopped};
    let table = [
        (No, 0, WorkloadState::Succeeded, false),
        (No, 1, WorkloadState::Failed, true),
        (OnFailure, 0, WorkloadState::Succeeded, false),
        (OnFailure, 1, WorkloadState::Pending, false),
        (Always, 0, WorkloadState::Pending, false),
        (Always, 1, WorkloadState::Pending, false),
        (UnlessStopped, 0, WorkloadState::Pending, false),
    ];
    for (policy, code, state, given_up) in table {
        let restart = RestartPolicy { policy, max: None };
        let mut bench = Bench::new(Settings {
            restart,
            ..settings()
        });
        bench.up().ends(code);
        assert_eq!(bench.status().state, state, "{policy:?} after {code}");
        assert_eq!(bench.status().given_up, given_up, "{policy:?} after {code}");
    }
}

#[test]
fn a_failure_that_another_try_cannot_mend_is_given_up_at_once() {
    let mut bench = Bench::new(settings());
    bench.input(Input::Ordered(run()));
    bench
        .sees(Observation::of(Phase::Absent))
        .did(&Action::Admit);
    bench.fails(&Action::Prepare, Reason::ImageNotFound);
    assert!(bench.status().given_up);
    assert_eq!(bench.status().reason, Some(Reason::ImageNotFound));
}

#[test]
fn a_failed_start_rests_and_tries_again() {
    let mut bench = Bench::new(settings());
    bench.input(Input::Ordered(run()));
    bench.sees(Observation::of(Phase::Absent));
    bench.did(&Action::Admit).did(&Action::Prepare);
    bench.fails(&Action::Start, Reason::RuntimeError);
    assert_eq!(bench.status().step, "start");
    let next = bench.status().next_try_ms.expect("when it tries again");
    assert!(next > bench.time().unix_ms);
    bench.rests();
    bench.starts();
    assert!(bench.status().ready && bench.status().reason.is_none());
}

#[test]
fn a_unit_without_room_waits_a_minute_and_is_given_up() {
    let mut bench = Bench::new(settings());
    bench.input(Input::Ordered(run()));
    bench.sees(Observation::of(Phase::Absent));
    let reason = Reason::InsufficientResources;
    for _ in 0..2 {
        let detail = "tasks use it".to_owned();
        bench.input(Input::Waits { reason, detail });
        assert_eq!(bench.status().reason, Some(reason));
        assert_eq!(bench.status().state, WorkloadState::Pending);
        bench.later(MAX_ADMISSION_MS / 2);
    }
    assert!(bench.status().given_up && bench.machine.call.is_none());
}

#[test]
fn an_engine_that_does_not_answer_says_nothing_about_the_instance() {
    let mut bench = Bench::new(settings());
    bench.up().input(Input::Look);
    let call = bench.call();
    let result = Err(Failure::new("run", Reason::RuntimeUnavailable, "no answer"));
    bench.input(Input::Seen { call, result });
    assert!(bench.status().ready);
    assert_eq!(bench.status().detail, "no answer");
}

#[test]
fn an_instance_that_somebody_else_removed_is_made_again() {
    let mut bench = Bench::new(settings());
    bench.up().input(Input::Look);
    bench.sees(Observation::of(Phase::Absent));
    assert!(!bench.status().ready);
    assert_eq!(bench.status().reason, Some(Reason::RuntimeError));
    bench.rests();
    bench.starts();
    assert!(bench.status().ready);
}

fn checked() -> Settings {
    let check: HealthCheck =
        serde_json::from_str(r#"{"tcp": 80, "interval": "10s", "retries": 2}"#).unwrap();
    assert_eq!(check.interval, Duration::from_secs(10));
    Settings {
        health: Some((&check).into()),
        ..settings()
    }
}

#[test]
fn a_checked_unit_is_ready_after_its_first_success() {
    let mut bench = Bench::new(checked());
    bench.up();
    assert_eq!(bench.status().state, WorkloadState::Starting);
    bench.probed(Err("refused"));
    assert!(!bench.status().ready);
    assert_eq!(bench.status().detail, "refused");
    assert_eq!(bench.rests(), 1_000);
    bench.probed(Ok(()));
    assert!(bench.status().ready);
    assert_eq!(bench.rests(), 10_000);
}

#[test]
fn failed_checks_in_a_row_start_it_again_as_a_failure_of_its_health() {
    let mut bench = Bench::new(checked());
    bench.up().probed(Ok(()));
    bench.rests();
    bench.probed(Err("500"));
    assert!(bench.status().ready, "one failure is not enough");
    bench.rests();
    bench.probed(Err("500"));
    assert!(!bench.status().ready);
    assert_eq!(bench.status().step, "health");
    bench.did(&Action::Stop { grace_ms: 10_000 });
    assert_eq!(bench.status().detail, "500");
    bench.rests();
    bench.starts();
    assert_eq!(bench.status().restarts, 1);
}

#[test]
fn eager_checks_after_the_start_use_up_retries_only_once_an_interval() {
    let mut bench = Bench::new(checked());
    bench.up();
    let mut waited = 0;
    while bench.machine.is_running() {
        bench.probed(Err("refused"));
        if bench.machine.is_running() {
            waited += bench.rests();
        }
    }
    assert_eq!(waited, 20_000);
}

#[test]
fn a_machine_is_ready_once_it_has_booted() {
    let mut bench = Bench::new(Settings {
        boots: true,
        ..settings()
    });
    bench.input(Input::Ordered(run()));
    bench.sees(Observation::of(Phase::Absent));
    bench.did(&Action::Admit).did(&Action::Prepare);
    bench.did(&Action::Start).sees_running();
    let status = bench.status();
    assert!(!status.ready, "{status:?}");
    assert_eq!(
        (status.state, status.step.as_str()),
        (WorkloadState::Starting, "boot")
    );
    bench.input(Input::Look);
    let since_ms = bench.time().unix_ms;
    bench.sees(Observation {
        healthy: Some(true),
        ..Observation::of(Phase::Running { since_ms })
    });
    let status = bench.status();
    assert!(status.ready && status.step.is_empty(), "{status:?}");
}

fn exclusive() -> Bench {
    Bench::new(Settings {
        exclusive: true,
        ..settings()
    })
}

const LOST: Lease = Lease::Lost { grace_ms: 300 };

#[test]
fn a_lost_lease_stops_an_exclusive_unit_in_every_state() {
    let up = |bench: &mut Bench| {
        bench.up();
    };
    let looking = |bench: &mut Bench| {
        bench.input(Input::Ordered(run()));
    };
    let preparing = |bench: &mut Bench| {
        bench.input(Input::Ordered(run()));
        bench
            .sees(Observation::of(Phase::Absent))
            .did(&Action::Admit);
    };
    let resting = |bench: &mut Bench| {
        bench.up().ends(1);
    };
    let states: [&dyn Fn(&mut Bench); 4] = [&up, &looking, &preparing, &resting];
    for reach in states {
        let mut bench = exclusive();
        reach(&mut bench);
        bench.input(Input::Lease(LOST));
        assert!(!bench.status().ready);
        bench.did(&Action::Stop { grace_ms: 300 });
        assert_eq!(bench.status().reason, Some(Reason::NodeLost));
        assert_eq!(bench.machine.wake_at(), None);
        bench.input(Input::Lease(Lease::Held));
        bench.sees(Observation::of(Phase::Absent)).starts();
        assert!(bench.status().ready);
    }
}

#[test]
fn what_was_ended_for_a_lost_lease_has_not_failed() {
    let mut bench = Bench::new(Settings {
        exclusive: true,
        restart: RestartPolicy {
            policy: RestartWhen::No,
            max: None,
        },
        ..settings()
    });
    let ended = Observation::of(Phase::Exited {
        exit_code: Some(143),
        signal: Some(15),
        reason: Some(Reason::NodeLost),
        detail: String::new(),
    });
    bench.up().input(Input::Look).sees(ended.clone());
    assert_eq!(bench.action(), Action::Admit);
    bench.input(Input::Lease(LOST));
    bench.did(&Action::Stop { grace_ms: 300 });
    bench.input(Input::Lease(Lease::Held)).sees(ended);
    bench.did(&Action::Admit);
    assert_eq!(
        (bench.status().restarts, bench.status().given_up),
        (0, false)
    );
    assert_eq!(bench.machine.memory().failures, 0);
}

#[test]
fn an_engine_that_comes_back_is_asked_before_its_time() {
    let mut bench = Bench::new(settings());
    bench.input(Input::Ordered(run()));
    let call = bench.call();
    bench.input(Input::Seen {
        call,
        result: Err(Failure::new(
            "run",
            Reason::RuntimeUnavailable,
            "it is down",
        )),
    });
    assert!(bench.status().next_try_ms.is_some());
    bench.input(Input::Look).sees_running();
    assert!(bench.status().ready && bench.status().next_try_ms.is_none());
}

#[test]
fn a_lost_lease_shortens_a_stop_that_is_under_way() {
    let mut bench = exclusive();
    bench.up().input(Input::Ordered(stop()));
    bench.input(Input::Lease(LOST));
    bench.did(&Action::Stop { grace_ms: 300 });
    assert!(matches!(bench.action(), Action::Remove { .. }));
}

#[test]
fn a_unit_that_is_not_exclusive_runs_on_without_a_lease() {
    let mut bench = Bench::new(settings());
    bench.up().input(Input::Lease(LOST));
    assert_eq!(bench.out, []);
    assert!(bench.status().ready);
}

#[test]
fn what_was_given_up_stays_so_over_a_restart_of_the_agent() {
    let mut bench = Bench::new(Settings {
        restart: RestartPolicy {
            policy: RestartWhen::No,
            max: None,
        },
        ..settings()
    });
    bench.up().ends(1);
    let memory = bench.machine.memory();
    bench.machine = Machine::new(settings(), Some(memory), bench.time());
    bench.input(Input::Ordered(run()));
    assert!(bench.status().given_up && bench.machine.call.is_none());
    bench.input(Input::Ordered(stop()));
    bench.did(&Action::Remove {
        keep_volumes: false,
    });
    assert!(bench.machine.is_gone());
}

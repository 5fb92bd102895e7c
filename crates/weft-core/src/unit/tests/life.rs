//! From the first order to the last: starts, ends, failures.

use super::*;

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
fn what_was_given_up_is_ended_and_stays_so_over_a_restart_of_the_agent() {
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
    bench.did(&Action::Stop { grace_ms: 10_000 });
    assert!(bench.status().given_up && bench.machine.call.is_none());
    bench.input(Input::Ordered(stop()));
    bench.did(&Action::Remove {
        keep_volumes: false,
    });
    assert!(bench.machine.is_gone());
}

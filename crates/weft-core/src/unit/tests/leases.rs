//! Exclusive units and the lease of their node.

use super::*;

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

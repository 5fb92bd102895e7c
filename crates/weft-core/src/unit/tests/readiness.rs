//! When a unit is ready, by its checks or its boot.

use super::*;

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

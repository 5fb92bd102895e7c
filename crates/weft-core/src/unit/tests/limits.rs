//! What a unit may write.

use super::*;

/// A unit that may write 16 MiB, running for a second.
fn limited(restart: RestartPolicy) -> Bench {
    let mut bench = Bench::new(Settings {
        max_disk_bytes: 16 << 20,
        restart,
        ..settings()
    });
    bench.up().later(1_000);
    bench
}

const KILL: Action = Action::Stop { grace_ms: 0 };

#[test]
fn what_writes_more_than_its_limit_is_killed_and_its_policy_decides() {
    let mut bench = limited(RestartPolicy::default());
    bench.measures(16 << 20);
    assert!(bench.status().ready, "its limit is not beyond it");
    bench.measures(64 << 20);
    assert_eq!(bench.status().reason, Some(Reason::StorageError));
    assert_eq!(bench.status().state, WorkloadState::Failed);
    let detail = &bench.status().detail;
    let says = ["67108864 bytes", "16Mi", "raise `resources.disk`"];
    assert!(says.iter().all(|it| detail.contains(it)), "{detail}");
    bench.did(&KILL);
    assert_eq!(bench.status().step, "run");
    bench.rests();
    bench.starts();
    assert_eq!((bench.status().restarts, bench.status().ready), (1, true));
    let policy = RestartWhen::No;
    let mut bench = limited(RestartPolicy { policy, max: None });
    bench.measures(64 << 20).did(&KILL);
    assert!(bench.status().given_up && !bench.machine.uses_room());
    assert_eq!(bench.status().reason, Some(Reason::StorageError));
}

#[test]
fn what_was_measured_of_the_instance_before_ends_no_other() {
    let mut bench = limited(RestartPolicy::default());
    let since = bench.time().mono;
    bench.measures(64 << 20).did(&KILL);
    bench.rests();
    bench.starts();
    let disk_bytes = 64 << 20;
    bench.input(Input::Measured { since, disk_bytes });
    assert!(bench.status().ready);
    // A later one is its own.
    bench.later(1).measures(64 << 20);
    assert!(!bench.status().ready);
}

#[test]
fn without_a_limit_any_amount_may_be_written() {
    let mut bench = Bench::new(settings());
    bench.up().later(1_000).measures(u64::MAX);
    assert!(bench.status().ready);
}

//! Each planted bug is found: the checkers bite.
//!
//! `cargo test -p weft-sim --features planted --test planted -- --nocapture` prints after how many
//! schedules.

#![cfg(feature = "planted")]

use weft_sim::{Options, Run, planted, run, services};

const MAX_SCHEDULES: u64 = 100_000;

#[test]
fn every_planted_bug_is_found() {
    find_all(&planted::all(), run);
}

#[test]
fn every_planted_bug_of_services_is_found() {
    find_all(&planted::services(), services::run);
}

fn find_all(bugs: &[planted::Bug], run: fn(u64, &Options) -> Run) {
    assert!(bugs.len() >= 8);
    for &bug in bugs {
        planted::plant(Some(bug));
        let found = (0..MAX_SCHEDULES).find_map(|seed| {
            let violation = run(seed, &Options::default()).violation?;
            Some((seed, violation))
        });
        planted::plant(None);
        let (seed, violation) = found.unwrap_or_else(|| panic!("{bug:?} is not found"));
        let without = run(seed, &Options::default()).violation;
        assert_eq!(without, None, "schedule {seed} without {bug:?}");
        println!("{bug:?}: schedule {}: {}", seed + 1, violation.what);
    }
}

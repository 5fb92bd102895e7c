//! A bounded number of schedules without a violation; longer runs are `./x sim`.

use weft_sim::{Options, run};

const SCHEDULES: u64 = 2_000;
/// Schedules that once found something.
const FOUND: &[u64] = &[5_258_649];

#[test]
fn no_schedule_violates_anything() {
    let (mut tasks, mut steps) = (0, 0);
    for seed in (0..SCHEDULES).chain(FOUND.iter().copied()) {
        let run = run(seed, &Options::default());
        assert_eq!(run.violation, None, "replay with: weft-sim --seed {seed}");
        tasks += run.tasks;
        steps += run.steps;
    }
    assert!(tasks > SCHEDULES * 20, "schedules do work: {tasks} tasks");
    assert!(steps > SCHEDULES * 200, "schedules have events: {steps}");
}

#[test]
fn a_seed_replays_to_the_byte() {
    let options = Options {
        keep_log: true,
        ..Options::default()
    };
    for seed in 0..20 {
        let (first, second) = (run(seed, &options), run(seed, &options));
        assert!(!first.log.is_empty());
        assert_eq!(first, second, "seed {seed}");
    }
    assert_ne!(run(1, &options).trace, run(2, &options).trace);
}

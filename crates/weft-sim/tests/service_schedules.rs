//! A bounded number of schedules of services without a violation; longer runs are `./x sim`.

use weft_sim::{Options, services};

const SCHEDULES: u64 = 1_000;
/// Schedules that once found something.
const FOUND: &[u64] = &[];

#[test]
fn no_schedule_of_services_violates_anything() {
    let (mut units, mut steps) = (0, 0);
    for seed in (0..SCHEDULES).chain(FOUND.iter().copied()) {
        let run = services::run(seed, &Options::default());
        assert_eq!(
            run.violation, None,
            "replay with: weft-sim services --seed {seed}"
        );
        units += run.tasks;
        steps += run.steps;
    }
    assert!(units > SCHEDULES * 5, "schedules make units: {units}");
    assert!(steps > SCHEDULES * 200, "schedules have events: {steps}");
}

#[test]
fn a_seed_of_services_replays_to_the_byte() {
    let options = Options {
        keep_log: true,
        ..Options::default()
    };
    for seed in 0..10 {
        let (first, second) = (services::run(seed, &options), services::run(seed, &options));
        assert!(!first.log.is_empty());
        assert_eq!(first, second, "seed {seed}");
    }
}

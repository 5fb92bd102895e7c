//! Replicas that follow the load.

use super::*;
use weft_types::{Percent, Scaling};

/// Two replicas that aim for half of a core each, ready and without cooldown to wait for.
fn scaled() -> Bench {
    let mut spec = service(2);
    spec.scaling = Some(Scaling {
        cpu: Some(Percent(50)),
        ..Scaling::default()
    });
    spec.replicas = Some(Replicas {
        min: 1,
        max: 6,
        target: 2,
    });
    let mut bench = Bench::new(spec, 3);
    bench.rest();
    bench.obey();
    bench.rest();
    bench.pass(600_000);
    bench
}

fn load(bench: &mut Bench, cpu_millicores: u64) {
    for number in bench.running() {
        let load = UnitLoad {
            cpu_millicores,
            ..UnitLoad::default()
        };
        bench.loads.insert(number, load);
    }
}

fn wanted(bench: &mut Bench) -> u32 {
    bench.rest();
    bench.plan().summary.counts.wanted
}

#[test]
fn load_adds_replicas_up_to_the_maximum_and_after_a_cooldown() {
    let mut bench = scaled();
    load(&mut bench, 900);
    assert_eq!(wanted(&mut bench), 4);
    bench.obey();
    load(&mut bench, 900);
    assert_eq!(wanted(&mut bench), 4, "it has just changed");
    bench.pass(30_000);
    assert_eq!(wanted(&mut bench), 6);
}

#[test]
fn idle_replicas_go_down_to_the_minimum_after_the_longer_cooldown() {
    let mut bench = scaled();
    load(&mut bench, 900);
    assert_eq!(wanted(&mut bench), 4);
    bench.obey();
    load(&mut bench, 0);
    assert_eq!(wanted(&mut bench), 4);
    bench.pass(299_999);
    assert_eq!(wanted(&mut bench), 4);
    bench.pass(1);
    assert_eq!(wanted(&mut bench), 1);
}

#[test]
fn a_pause_of_the_load_takes_no_replicas_away() {
    let mut bench = scaled();
    load(&mut bench, 900);
    assert_eq!(wanted(&mut bench), 4);
    bench.obey();
    bench.pass(600_000);
    for _ in 0..3 {
        load(&mut bench, 0);
        assert_eq!(wanted(&mut bench), 4, "it has only just become quiet");
        bench.pass(250_000);
        assert_eq!(wanted(&mut bench), 4);
        load(&mut bench, 500);
        assert_eq!(wanted(&mut bench), 4);
        bench.pass(100_000);
    }
}

#[test]
fn as_many_stay_as_were_needed_within_the_cooldown() {
    let mut bench = scaled();
    load(&mut bench, 900);
    assert_eq!(wanted(&mut bench), 4);
    bench.obey();
    load(&mut bench, 0);
    assert_eq!(wanted(&mut bench), 4);
    bench.pass(100_000);
    load(&mut bench, 350);
    assert_eq!(wanted(&mut bench), 4);
    bench.pass(100_000);
    load(&mut bench, 0);
    assert_eq!(wanted(&mut bench), 4);
    bench.pass(100_000);
    assert_eq!(wanted(&mut bench), 3);
    bench.obey();
    load(&mut bench, 0);
    assert_eq!(wanted(&mut bench), 3);
    bench.pass(300_000);
    assert_eq!(wanted(&mut bench), 1);
}

#[test]
fn a_load_close_to_the_aim_changes_nothing() {
    let mut bench = scaled();
    for cpu in [460, 540] {
        load(&mut bench, cpu);
        assert_eq!(wanted(&mut bench), 2);
    }
}

#[test]
fn missing_loads_never_take_replicas_away() {
    let mut bench = scaled();
    load(&mut bench, 0);
    bench.loads.remove(&2);
    assert_eq!(wanted(&mut bench), 2);
}

#[test]
fn the_most_demanding_figure_wins() {
    let mut bench = scaled();
    if let Some(scaling) = &mut bench.record.spec.scaling {
        scaling.requests_per_second = Some(10);
    }
    for number in bench.running() {
        let load = UnitLoad {
            cpu_millicores: 10,
            requests_per_1000s: 20_000,
            ..UnitLoad::default()
        };
        bench.loads.insert(number, load);
    }
    assert_eq!(wanted(&mut bench), 4);
}

#[test]
fn what_people_set_stands_whatever_the_load() {
    let mut bench = scaled();
    load(&mut bench, 900);
    bench.record.scale = Some(2);
    assert_eq!(wanted(&mut bench), 2);
}

#[test]
fn what_people_set_is_where_the_load_goes_on_when_they_take_it_back() {
    let mut bench = scaled();
    load(&mut bench, 0);
    bench.record.scale = Some(5);
    assert_eq!(wanted(&mut bench), 5);
    bench.obey();
    load(&mut bench, 0);
    bench.pass(600_000);
    bench.record.scale = None;
    assert_eq!(wanted(&mut bench), 5, "nothing goes without its cooldown");
    bench.pass(300_000);
    assert_eq!(wanted(&mut bench), 1);
}

#[test]
fn scaling_replaces_nothing() {
    let mut bench = scaled();
    load(&mut bench, 900);
    bench.rest();
    assert_eq!(bench.running(), [1, 2, 3, 4]);
}

#[test]
fn old_units_count_where_an_update_is_stuck() {
    let mut bench = scaled();
    bench.update(|spec| {
        // Nothing new has a place.
        spec.resources = Some(Resources {
            cpu: Millicores(5_000),
            ..Resources::default()
        });
    });
    bench.rest();
    bench.pass(60_000);
    assert_eq!(bench.revisions(), [1, 1]);
    load(&mut bench, 9_000);
    assert!(wanted(&mut bench) > 2, "they share the work");
}

#[test]
fn fewer_go_although_people_lowered_the_maximum_meanwhile() {
    let mut bench = scaled();
    load(&mut bench, 900);
    assert_eq!(wanted(&mut bench), 4);
    bench.obey();
    bench.pass(600_000);
    // Three would do, for a while.
    load(&mut bench, 350);
    assert_eq!(wanted(&mut bench), 4);
    if let Some(replicas) = &mut bench.record.spec.replicas {
        replicas.max = 3;
    }
    bench.rest();
    bench.obey();
    load(&mut bench, 100);
    assert_eq!(wanted(&mut bench), 3);
    bench.pass(300_000);
    assert_eq!(wanted(&mut bench), 1);
}

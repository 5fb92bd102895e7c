use weft_placement::{Availability, ClosedReason};
use weft_types::{JobId, JobState, Reason, TaskState};

use super::super::{Input, Outcome, Recovered, Verdict, Why};
use super::{Scene, id, job_of};
use crate::Monotonic;
use crate::breaker;

fn recovered(id: u64, tasks: u32) -> Input {
    Input::Recovered(Recovered {
        submission: job_of(id, tasks),
        finals: Vec::new(),
        failures: Vec::new(),
        attempts: Vec::new(),
        cancelled: None,
    })
}

#[test]
fn work_of_a_lost_node_moves_at_once_under_a_greater_attempt() {
    let mut scene = Scene::new();
    scene.up("a", 2);
    scene.step(Input::Submit(job_of(1, 2)));
    let old = scene.on("a");
    scene.up("b", 2);
    scene.down("a");
    let new = scene.on("b");
    assert_eq!(new.len(), 2);
    assert!(new.iter().all(|at| at.attempt == 2));
    assert_eq!(
        scene.report("a", old[0], Outcome::Completed).0,
        Verdict::Fenced
    );
}

#[test]
fn a_node_that_comes_back_in_time_keeps_its_work() {
    let mut scene = Scene::new();
    scene.up("a", 2);
    scene.step(Input::Submit(job_of(1, 2)));
    let before = scene.on("a");
    scene.up("a", 2);
    assert_eq!(scene.on("a"), before);
    for at in before {
        assert_eq!(
            scene.finish("a", at, Outcome::Completed),
            Verdict::Record(TaskState::Completed)
        );
    }
    assert_eq!(scene.jobs[&JobId(1)], JobState::Succeeded);
}

#[test]
fn a_node_that_comes_back_too_late_must_stop_what_runs_elsewhere() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    scene.up("b", 1);
    scene.down("a");
    assert_eq!(scene.on("a").len(), 1, "it does not know");
    scene.up("a", 1);
    assert!(scene.on("a").is_empty(), "it was told");
    assert_eq!(scene.on("b").len(), 1);
}

#[test]
fn a_node_that_forgot_its_work_gives_it_back() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    scene.forget("a");
    scene.up("a", 1);
    assert_eq!(scene.on("a")[0].attempt, 2);
}

#[test]
fn a_report_that_is_being_written_survives_its_session() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    let (_, batch) = scene.report("a", at, Outcome::Completed);
    scene.down("a");
    scene.up("a", 1);
    assert_eq!(scene.on("a"), [at], "neither stopped nor given again");
    scene.step(Input::Recorded {
        batch: batch.expect("a batch"),
    });
    assert_eq!(scene.jobs[&JobId(1)], JobState::Succeeded);
    assert!(scene.on("a").is_empty());
}

#[test]
fn recovered_work_waits_for_its_node_and_is_adopted() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    let mut after = Scene::new();
    after.held = scene.held;
    after.step(Input::AwaitNodes {
        nodes: vec![id("a")],
        deadline: Monotonic(3_000),
    });
    after.step(recovered(1, 1));
    after.up("b", 1);
    assert!(after.on("b").is_empty(), "a may still run it");
    let why = after.machine.waiting(JobId(1)).map(|waiting| waiting.why);
    assert_eq!(
        why,
        Some(Why::Reattaching {
            missing: vec![id("a")]
        })
    );
    after.step(Input::Submit(job_of(2, 1)));
    assert_eq!(after.on("b")[0].job, JobId(2), "new jobs do not wait");
    after.up("a", 1);
    assert_eq!(after.on("a"), [at], "adopted");
    assert_eq!(
        after.finish("a", at, Outcome::Completed),
        Verdict::Record(TaskState::Completed)
    );
}

#[test]
fn recovered_work_of_a_node_that_never_returns_runs_elsewhere() {
    let mut scene = Scene::new();
    scene.step(Input::AwaitNodes {
        nodes: vec![id("a")],
        deadline: Monotonic(3_000),
    });
    scene.step(recovered(1, 1));
    scene.up("b", 1);
    scene.wait(2_999);
    assert!(scene.on("b").is_empty());
    scene.wait(1);
    assert_eq!(scene.on("b").len(), 1);
}

#[test]
fn a_task_that_kills_every_node_ends_dead() {
    let mut scene = Scene::new();
    scene.step(Input::Submit(job_of(1, 1)));
    for _ in 0..30 {
        scene.up("a", 1);
        scene.forget("a");
        scene.down("a");
    }
    scene.run_out();
    assert_eq!(
        scene.finals[&(JobId(1), 0)],
        (TaskState::Dead, Some(Reason::NodeLost))
    );
}

#[test]
fn a_drained_node_is_asked_for_what_it_has_not_begun() {
    let mut scene = Scene::new();
    scene.up("a", 3);
    scene.step(Input::Submit(job_of(1, 3)));
    let begun = scene.on("a")[0];
    scene.step(Input::Started {
        node: id("a"),
        epoch: 1,
        tasks: vec![begun],
    });
    scene.step(Input::NodeAvailability {
        node: id("a"),
        availability: Availability::Closed(ClosedReason::Draining),
    });
    assert_eq!(scene.recalled.len(), 2);
    assert!(!scene.recalled.contains(&begun));
    let tasks = scene.recalled.clone();
    scene.up("b", 3);
    scene.step(Input::Handback {
        node: id("a"),
        epoch: 1,
        tasks,
        reason: None,
    });
    assert_eq!(scene.on("b").len(), 2);
}

#[test]
fn a_rejected_task_is_not_offered_again_at_once() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    let rejected = Input::Handback {
        node: id("a"),
        epoch: 1,
        tasks: vec![at],
        reason: Some(Reason::InsufficientResources),
    };
    scene.forget("a");
    scene.step(rejected);
    assert!(scene.on("a").is_empty());
    scene.wait(10_001);
    assert_eq!(scene.on("a")[0].attempt, 2);
}

#[test]
fn a_noisy_node_gets_no_work_until_a_probe_succeeds() {
    let mut scene = Scene::new();
    scene.up("good", 1);
    scene.step(Input::Submit(job_of(1, 200)));
    let first = scene.on("good")[0];
    scene.finish("good", first, Outcome::Completed);
    scene.up("noisy", 1);
    for _ in 0..5 {
        let at = scene.on("noisy")[0];
        scene.finish("noisy", at, Outcome::Failed(Reason::RuntimeError));
    }
    assert!(scene.on("noisy").is_empty(), "open");
    scene.wait(5_000);
    assert_eq!(scene.on("noisy").len(), 1, "one probe");
    let probe = scene.on("noisy")[0];
    scene.finish("noisy", probe, Outcome::Completed);
    let load = scene.machine.node_load(&id("noisy")).expect("known");
    assert_eq!(load.breaker, breaker::State::Closed);
}

#[test]
fn a_poison_job_does_not_mark_the_node() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 20)));
    for _ in 0..20 {
        let Some(&at) = scene.on("a").first() else {
            break;
        };
        scene.finish("a", at, Outcome::Failed(Reason::RuntimeError));
    }
    let load = scene.machine.node_load(&id("a")).expect("known");
    assert_eq!(load.breaker, breaker::State::Closed);
}

#[test]
fn a_node_cannot_claim_what_it_was_never_given() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    scene.held.entry(id("thief")).or_default().insert(at);
    scene.up("thief", 1);
    assert!(scene.on("thief").is_empty());
    assert_eq!(
        scene.report("thief", at, Outcome::Completed).0,
        Verdict::Ignore
    );
    assert!(scene.finals.is_empty());
}

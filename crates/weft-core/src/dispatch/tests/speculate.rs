use weft_types::{JobId, JobState, Reason, TaskState};

use super::super::{Input, Outcome, Submission, TaskRef, Verdict};
use super::{Scene, id, job_of};

const JOB: JobId = JobId(1);
/// Longer than twice what tasks of these tests take, and than the floor.
const LONG_MS: u64 = 1_500;

fn speculating(tasks: u32) -> Submission {
    Submission {
        speculate: true,
        ..job_of(1, tasks)
    }
}

/// Four tasks on `a` and `b`; all but one on `a` have completed.
fn with_straggler() -> (Scene, TaskRef) {
    let mut scene = Scene::new();
    scene.up("a", 4);
    scene.step(Input::Submit(speculating(4)));
    scene.up("b", 4);
    let all = scene.on("a");
    for &at in &all[1..] {
        scene.finish("a", at, Outcome::Completed);
    }
    (scene, all[0])
}

fn second(scene: &mut Scene) -> TaskRef {
    scene.wait(LONG_MS);
    assert_eq!(scene.on("b").len(), 1, "b got the second attempt");
    scene.on("b")[0]
}

#[test]
fn a_straggler_gets_one_second_attempt_on_another_node() {
    let (mut scene, first) = with_straggler();
    scene.wait(300);
    assert!(scene.on("b").is_empty(), "it may still end in time");
    let second = second(&mut scene);
    assert_eq!((second.task, second.attempt), (first.task, 2));
    scene.up("c", 4);
    scene.wait(60_000);
    assert!(
        scene.on("c").is_empty(),
        "one second attempt, never a third"
    );
}

#[test]
fn a_job_that_does_not_ask_gets_none() {
    let mut scene = Scene::new();
    scene.up("a", 4);
    scene.step(Input::Submit(job_of(1, 4)));
    scene.up("b", 4);
    for at in &scene.on("a")[1..] {
        scene.finish("a", *at, Outcome::Completed);
    }
    scene.wait(60_000);
    assert!(scene.on("b").is_empty());
}

#[test]
fn the_second_attempt_wins_and_the_first_is_stopped() {
    let (mut scene, first) = with_straggler();
    let second = second(&mut scene);
    let verdict = scene.finish("b", second, Outcome::Completed);
    assert_eq!(verdict, Verdict::Record(TaskState::Completed));
    assert!(scene.on("a").is_empty(), "stopped");
    assert_eq!(
        scene.report("a", first, Outcome::Completed).0,
        Verdict::Ignore
    );
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
    for node in ["a", "b"] {
        let load = scene.machine.node_load(&id(node)).expect("known");
        assert_eq!((load.held, load.reserved), (0, 0));
    }
}

#[test]
fn the_first_attempt_wins_and_the_second_is_stopped() {
    let (mut scene, first) = with_straggler();
    let second = second(&mut scene);
    scene.finish("a", first, Outcome::Completed);
    assert!(scene.on("b").is_empty(), "stopped");
    let late = scene.report("b", second, Outcome::Failed(Reason::NonzeroExit));
    assert_eq!(late.0, Verdict::Ignore);
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

#[test]
fn a_lost_node_leaves_the_other_attempt_running() {
    let (mut scene, first) = with_straggler();
    let second = second(&mut scene);
    scene.down("a");
    assert_eq!(
        scene.machine.task(JOB, first.task),
        Some((TaskState::Assigned, 2, Some(&id("b"))))
    );
    scene.finish("b", second, Outcome::Completed);
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

#[test]
fn an_attempt_from_before_a_restart_does_not_take_the_number_of_the_second() {
    let (mut scene, first) = with_straggler();
    let second = second(&mut scene);
    let old = TaskRef {
        attempt: 3,
        ..first
    };
    scene.held.entry(id("c")).or_default().insert(old);
    scene.up("c", 4);
    assert!(scene.on("c").is_empty(), "refused");
    let failed = Outcome::Failed(Reason::RuntimeError);
    assert_eq!(scene.finish("a", first, failed), Verdict::Retry);
    let verdict = scene.finish("b", second, Outcome::Completed);
    assert_eq!(verdict, Verdict::Record(TaskState::Completed));
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

#[test]
fn a_node_that_comes_back_goes_on_with_its_second_attempt() {
    let (mut scene, _) = with_straggler();
    let second = second(&mut scene);
    scene.up("b", 4);
    assert_eq!(scene.on("b"), [second]);
    scene.finish("b", second, Outcome::Completed);
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

#[test]
fn a_failure_that_would_be_retried_leaves_the_other_attempt_running() {
    for failing in ["a", "b"] {
        let (mut scene, first) = with_straggler();
        let second = second(&mut scene);
        let (bad, other, good) = match failing {
            "a" => (first, "b", second),
            _ => (second, "a", first),
        };
        let verdict = scene.finish(failing, bad, Outcome::Failed(Reason::RuntimeError));
        assert_eq!(verdict, Verdict::Retry);
        assert_eq!(scene.on(other), [good], "it goes on");
        scene.down(other);
        scene.wait(60_000);
        let again = scene.on(failing);
        assert_eq!((again[0].task, again[0].attempt), (first.task, 3));
    }
}

#[test]
fn cancelling_stops_both_attempts() {
    let (mut scene, _) = with_straggler();
    second(&mut scene);
    scene.step(Input::Cancel {
        job: JOB,
        tasks: None,
        reason: Reason::Cancelled,
    });
    assert!(scene.on("a").is_empty() && scene.on("b").is_empty());
}

#[test]
fn a_tenth_of_the_running_tasks_may_have_a_second_attempt() {
    let mut scene = Scene::new();
    scene.up("a", 40);
    scene.step(Input::Submit(speculating(40)));
    scene.up("b", 40);
    for at in &scene.on("a")[30..] {
        scene.finish("a", *at, Outcome::Completed);
    }
    scene.wait(LONG_MS);
    assert_eq!(scene.on("b").len(), 3);
    scene.wait(LONG_MS);
    assert_eq!(scene.on("b").len(), 3);
}

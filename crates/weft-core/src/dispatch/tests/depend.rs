use weft_types::{JobId, JobState, Reason, TaskState};

use super::super::{FinalRun, Input, Outcome, Recovered, Submission};
use super::{Scene, graph_of, job_of};
use crate::dispatch::Why;

const JOB: JobId = JobId(1);

/// A job whose tasks wait as the rows say.
fn dag(rows: &[&[u32]]) -> Submission {
    Submission {
        graph: graph_of(rows),
        ..job_of(1, rows.len() as u32)
    }
}

fn tasks_on(scene: &Scene, node: &str) -> Vec<u32> {
    scene.on(node).iter().map(|at| at.task).collect()
}

fn states(scene: &Scene) -> Vec<TaskState> {
    let tasks = scene.machine.tasks(JOB, 0, u32::MAX);
    tasks.map(|(_, state, _)| state).collect()
}

#[test]
fn a_task_begins_once_all_it_waits_for_has_completed() {
    let mut scene = Scene::new();
    scene.up("a", 8);
    scene.step(Input::Submit(dag(&[&[], &[0], &[0], &[1, 2]])));
    assert_eq!(tasks_on(&scene, "a"), [0]);
    let waiting = scene.machine.waiting(JOB).expect("three tasks wait");
    assert_eq!((waiting.why, waiting.blocked), (Why::Tasks, 3));
    scene.finish("a", scene.on("a")[0], Outcome::Completed);
    assert_eq!(tasks_on(&scene, "a"), [1, 2]);
    scene.finish("a", scene.on("a")[0], Outcome::Completed);
    assert_eq!(tasks_on(&scene, "a"), [2], "3 still waits for 2");
    scene.run_out();
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

#[test]
fn nothing_is_released_before_the_result_is_on_disk() {
    let mut scene = Scene::new();
    scene.up("a", 8);
    scene.step(Input::Submit(dag(&[&[], &[0]])));
    let (_, batch) = scene.report("a", scene.on("a")[0], Outcome::Completed);
    assert_eq!(tasks_on(&scene, "a"), [0]);
    let batch = batch.expect("a batch");
    scene.step(Input::Recorded { batch });
    assert_eq!(tasks_on(&scene, "a"), [1]);
}

#[test]
fn what_waits_for_a_failed_task_is_cancelled_and_says_for_whom() {
    let mut scene = Scene::new();
    scene.up("a", 8);
    scene.step(Input::Submit(dag(&[&[], &[], &[0, 1], &[2], &[1]])));
    let failed = Outcome::Failed(Reason::NonzeroExit);
    scene.finish("a", scene.on("a")[0], failed);
    assert_eq!(
        scene.finals[&(JOB, 3)],
        (TaskState::Cancelled, Some(Reason::Cancelled))
    );
    assert_eq!(scene.machine.cause(JOB, 2), Some(0));
    assert_eq!(scene.machine.cause(JOB, 3), Some(2));
    scene.run_out();
    use TaskState::{Cancelled, Completed, Failed};
    assert_eq!(
        states(&scene),
        [Failed, Completed, Cancelled, Cancelled, Completed]
    );
    assert_eq!(scene.jobs[&JOB], JobState::Failed);
}

#[test]
fn a_failed_task_that_is_queued_again_takes_its_dependents_along() {
    let mut scene = Scene::new();
    scene.up("a", 8);
    scene.step(Input::Submit(dag(&[&[], &[], &[0, 1], &[2], &[1]])));
    let failed = Outcome::Failed(Reason::NonzeroExit);
    for at in scene.on("a") {
        scene.finish("a", at, failed);
    }
    assert_eq!(scene.jobs[&JOB], JobState::Failed);
    let one = |task| Input::Requeue {
        job: JOB,
        tasks: Some(vec![task]),
    };
    scene.step(one(0));
    scene.run_out();
    assert_eq!(states(&scene)[2], TaskState::Cancelled, "1 is still bad");
    scene.step(one(1));
    scene.run_out();
    assert!(
        states(&scene)
            .iter()
            .all(|state| *state == TaskState::Completed)
    );
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

#[test]
fn a_cancelled_task_cancels_what_waits_for_it() {
    let mut scene = Scene::new();
    scene.up("a", 8);
    scene.step(Input::Submit(dag(&[&[], &[0], &[1], &[]])));
    scene.step(Input::Cancel {
        job: JOB,
        tasks: Some(vec![0]),
        reason: Reason::Cancelled,
    });
    assert_eq!(tasks_on(&scene, "a"), [3]);
    assert_eq!(scene.machine.cause(JOB, 2), Some(1));
    assert_eq!(scene.machine.cause(JOB, 0), None);
}

#[test]
fn dependencies_hold_after_a_restart() {
    let mut scene = Scene::new();
    let run = |first, state, reason| FinalRun {
        first,
        len: 1,
        state,
        reason,
    };
    scene.step(Input::Recovered(Recovered {
        submission: dag(&[&[], &[], &[0], &[1], &[3], &[2]]),
        finals: vec![
            run(0, TaskState::Completed, None),
            run(1, TaskState::Dead, Some(Reason::RuntimeError)),
        ],
        failures: Vec::new(),
        attempts: Vec::new(),
        cancelled: None,
    }));
    scene.up("a", 8);
    assert_eq!(tasks_on(&scene, "a"), [2]);
    assert_eq!(states(&scene)[4], TaskState::Cancelled);
    assert_eq!(scene.machine.cause(JOB, 4), Some(3));
    assert!(scene.finals.is_empty(), "known before the restart");
    scene.run_out();
    assert_eq!(scene.jobs[&JOB], JobState::Failed);
}

#[test]
fn a_job_that_waits_for_one_that_fails_names_it() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    scene.step(Input::Submit(Submission {
        after: vec![JOB],
        ..job_of(2, 1)
    }));
    scene.finish("a", scene.on("a")[0], Outcome::Failed(Reason::NonzeroExit));
    assert_eq!(scene.cancel_due, [(JobId(2), Reason::Cancelled, Some(JOB))]);
}

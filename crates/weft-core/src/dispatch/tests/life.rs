use weft_types::{JobId, JobState, Reason, RetryPolicy, Strategy, TaskState};

use super::super::{Config, Input, Machine, Outcome, Recovered, Verdict};
use super::{Scene, id, job_of};
use crate::dispatch::{FinalRun, Why};
use crate::{Error, Monotonic};

#[test]
fn a_job_runs_to_its_end_over_all_nodes() {
    let mut scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.up(name, 4);
    }
    scene.step(Input::Submit(job_of(1, 12)));
    for name in ["a", "b", "c"] {
        assert_eq!(scene.on(name).len(), 4, "{name} gets its slots");
    }
    scene.run_out();
    assert_eq!(scene.jobs[&JobId(1)], JobState::Succeeded);
    assert_eq!(scene.finals.len(), 12);
}

#[test]
fn a_few_tasks_go_one_by_one_to_where_the_score_says() {
    let mut scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.up(name, 16);
    }
    let mut job = job_of(1, 6);
    job.request.placement.strategy = Strategy::Spread;
    scene.step(Input::Submit(job));
    for name in ["a", "b", "c"] {
        assert_eq!(scene.on(name).len(), 2, "{name} gets its part");
    }
}

#[test]
fn nothing_is_final_before_the_journal_has_it() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    let (verdict, batch) = scene.report("a", at, Outcome::Completed);
    assert_eq!(verdict, Verdict::Record(TaskState::Completed));
    assert!(scene.finals.is_empty());
    assert_eq!(scene.on("a"), [at], "not acknowledged");
    assert_eq!(
        scene.report("a", at, Outcome::Completed).0,
        Verdict::Pending
    );
    scene.step(Input::Recorded {
        batch: batch.expect("a batch"),
    });
    assert_eq!(scene.finals.len(), 1);
    assert!(scene.on("a").is_empty(), "acknowledged");
    assert_eq!(scene.report("a", at, Outcome::Completed).0, Verdict::Ignore);
}

#[test]
fn a_report_that_could_not_be_written_is_taken_again() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    let (_, batch) = scene.report("a", at, Outcome::Completed);
    scene.step(Input::RecordFailed {
        batch: batch.expect("a batch"),
    });
    assert_eq!(
        scene.finish("a", at, Outcome::Completed),
        Verdict::Record(TaskState::Completed)
    );
    assert_eq!(scene.jobs[&JobId(1)], JobState::Succeeded);
}

#[test]
fn a_retryable_failure_waits_and_is_tried_up_to_the_limit() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    for attempt in 1..=2 {
        let at = scene.on("a")[0];
        assert_eq!(at.attempt, attempt);
        assert_eq!(
            scene.finish("a", at, Outcome::Failed(Reason::RuntimeError)),
            Verdict::Retry
        );
        let waiting = scene.machine.waiting(JobId(1));
        assert!(waiting.is_none_or(|waiting| waiting.why == Why::Backoff));
        scene.wait(60_000);
    }
    let at = scene.on("a")[0];
    let verdict = scene.finish("a", at, Outcome::Failed(Reason::RuntimeError));
    assert_eq!(verdict, Verdict::Record(TaskState::Dead));
    assert_eq!(scene.jobs[&JobId(1)], JobState::Failed);
}

#[test]
fn a_failure_of_the_program_is_not_retried() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    let verdict = scene.finish("a", at, Outcome::Failed(Reason::NonzeroExit));
    assert_eq!(verdict, Verdict::Record(TaskState::Failed));
}

#[test]
fn dead_letters_run_again_when_somebody_asks() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let at = scene.on("a")[0];
    scene.finish("a", at, Outcome::Failed(Reason::NonzeroExit));
    scene.step(Input::Requeue {
        job: JobId(1),
        tasks: None,
    });
    assert_eq!(scene.machine.job_state(JobId(1)), Some(JobState::Running));
    scene.run_out();
    assert_eq!(scene.jobs[&JobId(1)], JobState::Succeeded);
}

#[test]
fn cancelling_a_job_stops_what_runs_and_frees_the_node() {
    let mut scene = Scene::new();
    scene.up("a", 2);
    scene.step(Input::Submit(job_of(1, 5)));
    assert_eq!(scene.on("a").len(), 2);
    scene.step(Input::Cancel {
        job: JobId(1),
        tasks: None,
        reason: Reason::Cancelled,
    });
    assert!(scene.on("a").is_empty());
    assert_eq!(scene.jobs[&JobId(1)], JobState::Cancelled);
    assert_eq!(
        scene.machine.node_load(&id("a")).map(|load| load.held),
        Some(0)
    );
}

#[test]
fn a_passed_deadline_asks_for_cancellation() {
    let mut scene = Scene::new();
    let mut job = job_of(1, 1);
    job.deadline_ms = Some(500);
    scene.step(Input::Submit(job));
    scene.wait(499);
    assert!(scene.cancel_due.is_empty());
    scene.wait(1);
    assert_eq!(scene.cancel_due, [(JobId(1), Reason::Timeout, None)]);
}

#[test]
fn a_job_waits_for_the_job_it_comes_after() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    scene.step(Input::Submit(job_of(1, 1)));
    let mut second = job_of(2, 1);
    second.after = vec![JobId(1)];
    scene.step(Input::Submit(second));
    let why = scene.machine.waiting(JobId(2)).map(|waiting| waiting.why);
    assert_eq!(why, Some(Why::After { jobs: 1 }));
    let first = scene.on("a")[0];
    scene.finish("a", first, Outcome::Completed);
    assert_eq!(scene.on("a")[0].job, JobId(2));
}

#[test]
fn a_job_cannot_wait_for_itself_or_for_the_unknown() {
    let scene = Scene::new();
    let check = |after| scene.machine.check_after(JobId(5), &[JobId(after)]);
    assert_eq!(check(5), Err(Error::DependencyCycle(JobId(5))));
    assert_eq!(check(6), Err(Error::DependencyCycle(JobId(5))));
    assert_eq!(check(4), Err(Error::UnknownDependency(JobId(4))));
}

#[test]
fn appended_tasks_run_and_the_job_ends_once_sealed() {
    let mut scene = Scene::new();
    scene.up("a", 2);
    let mut job = job_of(1, 1);
    job.sealed = false;
    scene.step(Input::Submit(job));
    let first = scene.on("a")[0];
    scene.finish("a", first, Outcome::Completed);
    assert!(scene.jobs.is_empty(), "more may come");
    scene.step(Input::Append {
        job: JobId(1),
        tasks: 3,
        sealed: true,
    });
    scene.run_out();
    assert_eq!(scene.jobs[&JobId(1)], JobState::Succeeded);
    assert_eq!(scene.finals.len(), 4);
}

#[test]
fn a_higher_priority_runs_first() {
    let mut scene = Scene::new();
    scene.step(Input::Submit(job_of(1, 1)));
    let mut urgent = job_of(2, 1);
    urgent.priority = 10;
    scene.step(Input::Submit(urgent));
    scene.up("a", 1);
    assert_eq!(scene.on("a")[0].job, JobId(2));
}

#[test]
fn namespaces_share_by_weight() {
    let mut scene = Scene::new();
    let (light, heavy) = ("light", "heavy");
    let weight = Input::Weight {
        namespace: heavy.parse().expect("a name"),
        weight: 3,
    };
    scene.step(weight);
    for (number, namespace) in [(1, light), (2, heavy)] {
        let mut job = job_of(number, 1_000);
        job.namespace = namespace.parse().expect("a name");
        scene.step(Input::Submit(job));
    }
    scene.up("a", 1);
    let mut given = [0; 2];
    for _ in 0..400 {
        let at = scene.on("a")[0];
        given[at.job.0 as usize - 1] += 1;
        scene.finish("a", at, Outcome::Completed);
    }
    assert!((95..=105).contains(&given[0]), "{given:?}");
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let config = Config {
        max_tasks: 10,
        ..Config::default()
    };
    let mut machine = Machine::new(config, 1);
    assert_eq!(machine.admit(8), Ok(()));
    assert!(matches!(
        machine.admit(3),
        Err(Error::Full { tasks: 8, .. })
    ));
    machine.abandon(8);
    assert_eq!(machine.admit(10), Ok(()));
    machine.step(Monotonic(0), Input::Submit(job_of(1, 10)), &mut Vec::new());
    assert!(machine.admit(1).is_err());
}

#[test]
fn a_job_that_fits_nowhere_says_so() {
    let mut scene = Scene::new();
    scene.up("a", 1);
    let mut large = job_of(1, 1);
    large.request.resources.cpu.0 = 64_000;
    scene.step(Input::Submit(large));
    let waiting = scene.machine.waiting(JobId(1)).expect("it waits");
    assert_eq!(waiting.reason(), Some(Reason::InsufficientResources));
    let mut elsewhere = job_of(3, 1);
    elsewhere
        .request
        .placement
        .labels
        .insert("zone".into(), "moon".into());
    scene.step(Input::Submit(elsewhere));
    let waiting = scene.machine.waiting(JobId(3)).expect("it waits");
    assert_eq!(waiting.reason(), Some(Reason::NoCandidate));
    scene.step(Input::Submit(job_of(4, 2)));
    let waiting = scene.machine.waiting(JobId(4)).expect("one of two waits");
    assert_eq!(waiting.reason(), Some(Reason::InsufficientResources));
}

#[test]
fn recovered_jobs_keep_their_finals_and_failures() {
    let mut scene = Scene::new();
    let recovered = Recovered {
        submission: job_of(1, 4),
        finals: vec![FinalRun {
            first: 0,
            len: 2,
            state: TaskState::Completed,
            reason: None,
        }],
        failures: vec![(2, 2)],
        attempts: Vec::new(),
        cancelled: None,
    };
    scene.step(Input::Recovered(recovered));
    scene.up("a", 4);
    let attempts: Vec<_> = scene
        .on("a")
        .iter()
        .map(|at| (at.task, at.attempt))
        .collect();
    assert_eq!(attempts, [(2, 3), (3, 1)]);
    let failed = scene.on("a")[0];
    let verdict = scene.finish("a", failed, Outcome::Failed(Reason::RuntimeError));
    assert_eq!(verdict, Verdict::Record(TaskState::Dead));
}

#[test]
fn attempts_go_on_counting_after_a_restart() {
    let mut scene = Scene::new();
    scene.step(Input::Recovered(Recovered {
        submission: job_of(1, 2),
        finals: vec![FinalRun {
            first: 0,
            len: 1,
            state: TaskState::Dead,
            reason: Some(Reason::RuntimeError),
        }],
        failures: Vec::new(),
        attempts: vec![(0, 3), (1, 7)],
        cancelled: None,
    }));
    let (job, reason) = (JobId(1), Some(Reason::RuntimeError));
    assert_eq!(scene.machine.task_reason(job, 0), reason);
    let tasks = Some(vec![0]);
    scene.step(Input::Requeue { job, tasks });
    scene.up("a", 4);
    let attempts: Vec<_> = scene
        .on("a")
        .iter()
        .map(|at| (at.task, at.attempt))
        .collect();
    assert_eq!(attempts, [(0, 4), (1, 8)]);
}

#[test]
fn a_forgotten_job_leaves_nothing() {
    let mut scene = Scene::new();
    scene.up("a", 4);
    scene.step(Input::Submit(job_of(1, 4)));
    scene.step(Input::Forget { job: JobId(1) });
    assert_eq!(scene.machine.size(), (1, 4), "not while it runs");
    scene.run_out();
    scene.step(Input::Forget { job: JobId(1) });
    assert_eq!(scene.machine.size(), (0, 0));
}

#[test]
fn named_lost_nodes_use_up_attempts() {
    let mut scene = Scene::new();
    let mut job = job_of(1, 1);
    job.retry = RetryPolicy {
        attempts: 2,
        on: vec![Reason::NodeLost],
        ..RetryPolicy::default()
    };
    scene.step(Input::Submit(job));
    for name in ["a", "b"] {
        scene.up(name, 1);
        scene.down(name);
    }
    scene.run_out();
    assert_eq!(
        scene.finals[&(JobId(1), 0)],
        (TaskState::Dead, Some(Reason::NodeLost))
    );
}

use weft_types::{JobId, JobState, Reason, RetryPolicy};

use super::super::{Input, Outcome, Submission};
use super::{Scene, job_of};
use crate::breaker::State;
use crate::dispatch::Why;

const JOB: JobId = JobId(1);
const NODES: [&str; 6] = ["r1", "r2", "r3", "r4", "r5", "r6"];
const BROKEN: Outcome = Outcome::Failed(Reason::RuntimeError);

fn patient(tasks: u32) -> Submission {
    let mut job = job_of(1, tasks);
    job.retry = RetryPolicy {
        attempts: 1_000,
        ..RetryPolicy::default()
    };
    job
}

fn fail_all(scene: &mut Scene) {
    for name in NODES {
        for at in scene.on(name) {
            scene.finish(name, at, BROKEN);
        }
    }
}

/// Six rented nodes; a job has worked on them, and then everything failed until they were closed.
fn broken() -> Scene {
    let mut scene = Scene::new();
    for name in NODES {
        scene.rent("acme", name, 1);
    }
    scene.step(Input::Submit(patient(200)));
    scene.finish("r1", scene.on("r1")[0], Outcome::Completed);
    for _ in 0..60 {
        fail_all(&mut scene);
        if !scene.substrates.is_empty() {
            break;
        }
        scene.wait(100);
    }
    fail_all(&mut scene);
    scene
}

fn held(scene: &Scene) -> usize {
    NODES.iter().map(|name| scene.on(name).len()).sum()
}

fn prober(scene: &Scene) -> &'static str {
    let mut nodes = NODES.into_iter();
    let found = nodes.find(|name| !scene.on(name).is_empty());
    found.expect("somebody has the probe")
}

fn last(scene: &Scene) -> Option<State> {
    scene.substrates.last().map(|(_, state)| *state)
}

#[test]
fn a_provider_whose_nodes_all_fail_gets_no_more_work_and_that_is_explained() {
    let mut scene = broken();
    assert_eq!(scene.substrates, [("acme".to_owned(), State::Open)]);
    scene.wait(1_000);
    assert_eq!(held(&scene), 0);
    scene.rent("acme", "r7", 1);
    assert!(scene.on("r7").is_empty(), "nor does a new node of it");
    let waiting = scene.machine.waiting(JOB).expect("it waits");
    let substrates = vec!["acme".to_owned()];
    assert_eq!(waiting.why, Why::Failing { substrates });
    let text = waiting.to_string();
    assert!(text.contains("acme"), "{text}");
    scene.up("own-1", 2);
    assert_eq!(scene.on("own-1").len(), 2, "one's own nodes are not rented");
}

#[test]
fn one_probe_decides_whether_a_substrate_is_used_again() {
    let mut scene = broken();
    scene.wait(10_000);
    assert_eq!(last(&scene), Some(State::HalfOpen));
    assert_eq!(held(&scene), 1, "one task for all its nodes");
    let node = prober(&scene);
    scene.finish(node, scene.on(node)[0], BROKEN);
    assert_eq!(last(&scene), Some(State::Open));
    assert_eq!(held(&scene), 0);
    scene.wait(20_000);
    assert_eq!(held(&scene), 1);
    let node = prober(&scene);
    scene.finish(node, scene.on(node)[0], Outcome::Completed);
    assert_eq!(last(&scene), Some(State::Closed));
    scene.run_out();
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

#[test]
fn a_probe_whose_node_is_lost_is_followed_by_another() {
    let mut scene = broken();
    scene.wait(10_000);
    let node = prober(&scene);
    scene.down(node);
    scene.forget(node);
    assert_eq!(held(&scene), 1);
}

#[test]
fn one_bad_node_does_not_close_its_substrate() {
    let mut scene = Scene::new();
    for name in ["a", "bad"] {
        scene.up(name, 1);
    }
    scene.step(Input::Submit(patient(100)));
    for _ in 0..200 {
        for at in scene.on("bad") {
            scene.finish("bad", at, BROKEN);
        }
        for at in scene.on("a") {
            scene.finish("a", at, Outcome::Completed);
        }
        scene.wait(1_000);
    }
    assert!(scene.substrates.is_empty());
    assert_eq!(scene.jobs[&JOB], JobState::Succeeded);
}

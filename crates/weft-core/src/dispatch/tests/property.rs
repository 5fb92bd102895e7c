//! Random events against a plain account of what happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use weft_types::{JobId, Reason, TaskGraph};

use super::super::{BatchId, Input, Outcome, Submission, TaskRef, Verdict};
use super::{Scene, graph_of, id, job_of};
use crate::idmap::splitmix;

const NODES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Event {
    Submit {
        tasks: u32,
        /// Seeds what waits for what; nothing does when it is even.
        graph: u64,
    },
    Up {
        node: usize,
    },
    Down {
        node: usize,
    },
    Crash {
        node: usize,
    },
    Report {
        node: usize,
        pick: usize,
        outcome: u8,
    },
    Written {
        pick: usize,
        works: bool,
    },
    Cancel {
        job: usize,
    },
    CancelTask {
        job: usize,
        task: u32,
    },
    Requeue {
        job: usize,
    },
    Handback {
        node: usize,
        pick: usize,
        rejected: bool,
    },
    Wait {
        ms: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..NODES.len();
    prop_oneof![
        2 => (1u32..40, any::<u64>()).prop_map(|(tasks, graph)| Event::Submit { tasks, graph }),
        3 => node.clone().prop_map(|node| Event::Up { node }),
        1 => node.clone().prop_map(|node| Event::Down { node }),
        1 => node.clone().prop_map(|node| Event::Crash { node }),
        12 => (node.clone(), any::<usize>(), 0u8..8)
            .prop_map(|(node, pick, outcome)| Event::Report { node, pick, outcome }),
        10 => (any::<usize>(), prop::bool::weighted(0.9))
            .prop_map(|(pick, works)| Event::Written { pick, works }),
        1 => (0usize..8).prop_map(|job| Event::Cancel { job }),
        1 => (0usize..8, 0u32..40).prop_map(|(job, task)| Event::CancelTask { job, task }),
        1 => (0usize..8).prop_map(|job| Event::Requeue { job }),
        1 => (node, any::<usize>(), any::<bool>())
            .prop_map(|(node, pick, rejected)| Event::Handback { node, pick, rejected }),
        2 => (1u64..20_000).prop_map(|ms| Event::Wait { ms }),
    ]
}

#[derive(Default)]
struct Account {
    jobs: Vec<(JobId, u32)>,
    writing: Vec<(BatchId, TaskRef)>,
    /// How often each task's result was recorded since it was last requeued.
    recorded: BTreeMap<(JobId, u32), u32>,
    /// The greatest attempt seen of each task.
    attempts: BTreeMap<(JobId, u32), u32>,
    requeued: bool,
    epochs: BTreeMap<usize, u64>,
    ups: u64,
}

/// Each task waits for up to two earlier ones.
fn random_graph(tasks: u32, mut seed: u64) -> Option<Arc<TaskGraph>> {
    if seed.is_multiple_of(2) {
        return None;
    }
    let mut rows = Vec::new();
    for task in 0..tasks {
        let mut random = |below: u32| (splitmix(&mut seed) % u64::from(below)) as u32;
        let count = if task == 0 { 0 } else { random(3) };
        rows.push((0..count).map(|_| random(task)).collect::<Vec<_>>());
    }
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    graph_of(&rows)
}

fn pick<T: Copy>(from: &[T], pick: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[pick % from.len()])
}

fn apply(scene: &mut Scene, account: &mut Account, event: Event) {
    match event {
        Event::Submit { tasks, graph } => {
            let job = account.jobs.len() as u64 + 1;
            account.jobs.push((JobId(job), tasks));
            scene.step(Input::Submit(Submission {
                graph: random_graph(tasks, graph),
                speculate: graph.is_multiple_of(3),
                ..job_of(job, tasks)
            }));
        }
        Event::Up { node } => {
            account.ups += 1;
            account.epochs.insert(node, account.ups);
            scene.up(NODES[node], 4);
        }
        Event::Down { node } => {
            if account.epochs.contains_key(&node) {
                scene.down(NODES[node]);
            }
        }
        Event::Crash { node } => scene.forget(NODES[node]),
        Event::Report {
            node,
            pick: which,
            outcome,
        } => {
            let outcome = match outcome {
                0 => Outcome::Failed(Reason::RuntimeError),
                1 => Outcome::Failed(Reason::NonzeroExit),
                _ => Outcome::Completed,
            };
            if let Some(at) = pick(&scene.on(NODES[node]), which) {
                let (verdict, batch) = scene.report(NODES[node], at, outcome);
                assert_eq!(batch.is_some(), matches!(verdict, Verdict::Record(_)));
                account.writing.extend(batch.map(|batch| (batch, at)));
            }
        }
        Event::Written { pick: which, works } => {
            if account.writing.is_empty() {
                return;
            }
            let which = which % account.writing.len();
            let (batch, at) = account.writing.swap_remove(which);
            if works {
                let before = scene.finals.contains_key(&(at.job, at.task));
                assert!(!before || account.requeued, "{at:?} is recorded twice");
                *account.recorded.entry((at.job, at.task)).or_default() += 1;
                scene.step(Input::Recorded { batch });
            } else {
                scene.step(Input::RecordFailed { batch });
            }
        }
        Event::Cancel { job } => {
            if let Some(&(job, _)) = account.jobs.get(job) {
                scene.step(Input::Cancel {
                    job,
                    tasks: None,
                    reason: Reason::Cancelled,
                });
            }
        }
        Event::CancelTask { job, task } => {
            if let Some(&(job, _)) = account.jobs.get(job) {
                let tasks = Some(vec![task]);
                scene.step(Input::Cancel {
                    job,
                    tasks,
                    reason: Reason::Cancelled,
                });
            }
        }
        Event::Requeue { job } => {
            if let Some(&(job, _)) = account.jobs.get(job) {
                account.requeued = true;
                scene.step(Input::Requeue { job, tasks: None });
            }
        }
        Event::Handback {
            node,
            pick: which,
            rejected,
        } => {
            if let Some(at) = pick(&scene.on(NODES[node]), which)
                && let Some(&epoch) = account.epochs.get(&node)
            {
                let held = scene
                    .held
                    .get_mut(&id(NODES[node]))
                    .expect("it holds something");
                held.remove(&at);
                let reason = rejected.then_some(Reason::InsufficientResources);
                let tasks = vec![at];
                let node = id(NODES[node]);
                scene.step(Input::Handback {
                    node,
                    epoch,
                    tasks,
                    reason,
                });
            }
        }
        Event::Wait { ms } => scene.wait(ms),
    }
}

fn attempts_grow(scene: &Scene, account: &mut Account) {
    for &(job, tasks) in &account.jobs {
        for (task, _, attempt) in scene.machine.tasks(job, 0, tasks) {
            let seen = account.attempts.entry((job, task)).or_default();
            assert!(
                attempt >= *seen,
                "the attempt of {job}/{task} fell from {seen} to {attempt}"
            );
            *seen = attempt;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever happens, the machine never contradicts itself (every step checks), attempts only
    /// grow, and once faults stop every task of every job ends, in one final state.
    #[test]
    fn every_task_ends_exactly_once(events in proptest::collection::vec(event(), 1..120)) {
        let mut scene = Scene::new();
        let mut account = Account::default();
        for event in events {
            apply(&mut scene, &mut account, event);
            attempts_grow(&scene, &mut account);
        }
        for (batch, _) in std::mem::take(&mut account.writing) {
            scene.step(Input::Recorded { batch });
        }
        for name in NODES {
            scene.up(name, 4);
        }
        for _ in 0..200 {
            if scene.jobs.len() == account.jobs.len()
                && account.jobs.iter().all(|&(job, _)| scene.machine.job_state(job).is_some_and(|s| s.is_final()))
            {
                break;
            }
            for batch in std::mem::take(&mut scene.to_write) {
                scene.step(Input::Recorded { batch });
            }
            for name in NODES {
                for at in scene.on(name) {
                    if scene.on(name).contains(&at) {
                        scene.finish(name, at, Outcome::Completed);
                    }
                }
            }
            scene.wait(10_000);
        }
        for (job, tasks) in account.jobs {
            prop_assert!(scene.machine.job_state(job).is_some_and(|s| s.is_final()), "{job} hangs");
            for (task, state, _) in scene.machine.tasks(job, 0, tasks) {
                prop_assert!(state.is_final(), "{job}/{task} is {state}");
                let seen = scene.finals.get(&(job, task)).map(|(state, _)| *state);
                prop_assert_eq!(seen, Some(state), "{}/{} was announced", job, task);
            }
            prop_assert!(scene.jobs.contains_key(&job));
        }
        for name in NODES {
            prop_assert!(scene.on(name).is_empty(), "{name} still holds {:?}", scene.on(name));
        }
    }
}

//! Tests of the journal as a whole: what was acknowledged comes back, what is damaged is missed.

use std::collections::BTreeMap;
use std::sync::mpsc;

use proptest::prelude::*;

use super::*;

fn open(dir: &Path) -> (Journal, Recovery) {
    open_with(dir, Options::default())
}

fn open_with(dir: &Path, options: Options) -> (Journal, Recovery) {
    Journal::open(dir, options).expect("opened")
}

fn append(journal: &Journal, records: &[Record]) -> Result<(), Error> {
    let (sender, receiver) = mpsc::channel();
    journal.append(records, move |result| drop(sender.send(result)));
    receiver.recv().expect("an answer")
}

fn job(number: u64, payloads: &[&'static str]) -> Record {
    Record::Job {
        job: JobKey(number),
        header: Bytes::from(format!("header {number}")),
        tasks: Some(payloads.len() as u32),
        payloads: payloads
            .iter()
            .map(|payload| Bytes::from_static(payload.as_bytes()))
            .collect(),
    }
}

fn result(number: u64, task: u32, body: &'static str) -> Record {
    let body = Bytes::from_static(body.as_bytes());
    Record::Results(vec![ResultEntry {
        job: JobKey(number),
        task,
        attempt: 1,
        state: 3,
        body,
    }])
}

#[test]
fn what_was_appended_is_written_before_the_directory_is_free_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(dir.path());
    for number in 1..=100 {
        journal.append(&[job(number, &["payload"])], |_| {});
    }
    drop(journal);
    let (journal, recovery) = open(dir.path());
    assert_eq!(recovery.jobs.len(), 100);
    // The last handle goes with the callback, on the writer itself.
    let last = journal.clone();
    let (sender, receiver) = mpsc::channel();
    journal.append(&[job(101, &["payload"])], move |_| {
        drop(last);
        let _ = sender.send(());
    });
    drop(journal);
    assert_eq!(receiver.recv(), Ok(()));
}

#[test]
fn everything_comes_back_after_reopening_and_an_unsealed_job_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, empty) = open(dir.path());
    assert_eq!(empty, Recovery::default());
    append(&journal, &[job(1, &["a", "bb", ""])]).expect("kept");
    let streamed = Record::Job {
        job: JobKey(2),
        header: Bytes::from("s"),
        tasks: None,
        payloads: Vec::new(),
    };
    append(&journal, &[streamed]).expect("kept");
    append(
        &journal,
        &[Record::Tasks {
            job: JobKey(2),
            first: 0,
            payloads: vec![Bytes::from("x"), Bytes::from("y")],
        }],
    )
    .expect("kept");
    append(
        &journal,
        &[Record::Sealed {
            job: JobKey(2),
            tasks: 2,
        }],
    )
    .expect("kept");
    let unsealed = Record::Job {
        job: JobKey(3),
        header: Bytes::new(),
        tasks: None,
        payloads: Vec::new(),
    };
    append(&journal, &[unsealed, job(4, &[]), job(5, &["gone"])]).expect("kept");
    append(&journal, &[result(1, 1, "first"), result(1, 1, "second")]).expect("kept");
    append(
        &journal,
        &[Record::State {
            job: JobKey(1),
            bytes: Bytes::from("state"),
        }],
    )
    .expect("kept");
    append(
        &journal,
        &[Record::Note {
            job: JobKey(2),
            task: 1,
            attempt: 3,
            code: 7,
            bytes: Bytes::from("failed"),
        }],
    )
    .expect("kept");
    append(&journal, &[Record::Removed { job: JobKey(5) }]).expect("kept");
    drop(journal);

    let (journal, recovered) = open(dir.path());
    assert_eq!(recovered.damage, []);
    let jobs: Vec<u64> = recovered.jobs.iter().map(|job| job.job.0).collect();
    assert_eq!(jobs, [1, 2, 4]);
    assert_eq!(recovered.jobs[0].results, [(1, 1, 3)]);
    assert_eq!(recovered.jobs[0].state.as_deref(), Some(&b"state"[..]));
    assert_eq!(recovered.jobs[1].notes, [(1, 3, 7)]);
    let notes = journal.notes(JobKey(2), 1);
    assert_eq!(notes.len(), 1);
    assert_eq!((notes[0].attempt, notes[0].code), (3, 7));
    assert_eq!(notes[0].body, Bytes::from("failed"));
    assert_eq!(journal.notes(JobKey(2), 0), []);
    assert_eq!(
        journal.payloads(JobKey(1), 0, 3),
        Some(vec!["a".into(), "bb".into(), Bytes::new()])
    );
    assert_eq!(journal.payloads(JobKey(2), 1, 1), Some(vec!["y".into()]));
    assert_eq!(
        journal.payloads(JobKey(2), 1, 2),
        None,
        "there is no third task"
    );
    assert_eq!(journal.result(JobKey(1), 1).expect("there").body, "second");
    assert_eq!(journal.result(JobKey(1), 0), None);
}

#[test]
fn a_second_opening_and_a_newer_format_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(dir.path());
    assert!(matches!(
        Journal::open(dir.path(), Options::default()),
        Err(Error::Locked(_))
    ));
    drop(journal);
    let other = tempfile::tempdir().expect("a directory");
    std::fs::write(other.path().join("format"), "99").expect("written");
    let refused = Journal::open(other.path(), Options::default()).err();
    assert_eq!(
        refused,
        Some(Error::NewerFormat {
            found: "99".into(),
            supported: FORMAT
        })
    );
}

/// A small journal of three groups, and its one segment.
fn small_segment() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        segment_bytes: 4_096,
        ..Options::default()
    };
    let (journal, _) = open_with(dir.path(), options);
    append(&journal, &[job(1, &["one", "two"])]).expect("kept");
    append(&journal, &[job(2, &["three"]), result(1, 0, "good")]).expect("kept");
    append(&journal, &[result(1, 1, "better"), result(2, 0, "best")]).expect("kept");
    drop(journal);
    let segment = std::fs::read(dir.path().join("0000000001.log")).expect("a segment");
    let end = segment.iter().rposition(|byte| *byte != 0).expect("data") + 1;
    (dir, segment[..end].to_vec())
}

/// Opens a directory with this segment and checks that nothing it says is wrong.
fn check_against_the_truth(segment: &[u8]) -> (Recovery, usize) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("0000000001.log"), segment).expect("written");
    let (journal, recovered) = open(dir.path());
    let payloads = [(1, 0, "one"), (1, 1, "two"), (2, 0, "three")];
    let results = [(1, 0, "good"), (1, 1, "better"), (2, 0, "best")];
    let mut found = 0;
    for (job, task, truth) in payloads {
        if let Some(payload) = journal.payloads(JobKey(job), task, 1) {
            assert_eq!(payload, [truth], "a wrong payload");
            found += 1;
        }
    }
    for (job, task, truth) in results {
        if let Some(entry) = journal.result(JobKey(job), task) {
            assert_eq!(entry.body, truth, "a wrong result");
            found += 1;
        }
    }
    for job in &recovered.jobs {
        assert_eq!(
            job.header,
            format!("header {}", job.job.0),
            "a wrong header"
        );
    }
    append(&journal, &[self::job(9, &["after"])]).expect("the journal goes on");
    assert_eq!(
        journal.payloads(JobKey(9), 0, 1),
        Some(vec!["after".into()])
    );
    (recovered, found)
}

#[test]
fn truncated_at_any_byte_everything_before_is_recovered() {
    let (_dir, segment) = small_segment();
    let mut most = 0;
    for length in 16..=segment.len() {
        let (_, found) = check_against_the_truth(&segment[..length]);
        assert!(found >= most, "a longer journal has no less: {length}");
        most = found;
    }
    assert_eq!(most, 6);
}

#[test]
fn a_bit_flipped_at_any_byte_is_found_and_nothing_wrong_is_said() {
    let (_dir, segment) = small_segment();
    let last_group = {
        let mut synced = Vec::new();
        crate::frame::scan(&segment[16..], |at, body| {
            if body.first() == Some(&8) {
                synced.push(16 + at);
            }
        });
        *synced.last().expect("groups")
    };
    for at in 16..segment.len() {
        let mut damaged = segment.clone();
        damaged[at] ^= 0x10;
        let (recovered, _) = check_against_the_truth(&damaged);
        if at < last_group {
            // What a later group says was on disk: its loss is reported.
            assert!(
                !recovered.damage.is_empty(),
                "the damage at {at} went unnoticed"
            );
        }
    }
}

#[test]
fn a_full_queue_refuses_instead_of_growing() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        max_waiting_bytes: 1_024,
        ..Options::default()
    };
    let (journal, _) = open_with(dir.path(), options);
    let large = Record::State {
        job: JobKey(1),
        bytes: Bytes::from(vec![0; 4_096]),
    };
    let (sender, receiver) = mpsc::channel();
    for _ in 0..2_000 {
        let sender = sender.clone();
        journal.append(std::slice::from_ref(&large), move |result| {
            drop(sender.send(result))
        });
    }
    drop(sender);
    let refused = receiver
        .iter()
        .filter(|result| matches!(result, Err(Error::Full { .. })))
        .count();
    assert!(refused > 0);
    assert_eq!(append(&journal, &[job(1, &["fits"])]), Ok(()));
}

#[derive(Debug, Clone)]
enum Step {
    Submit(u8),
    Finish(u8, u8),
    Note(u8, u8),
    Remove(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..8u8).prop_map(Step::Submit),
        6 => (any::<u8>(), any::<u8>()).prop_map(|(job, task)| Step::Finish(job, task)),
        3 => (any::<u8>(), any::<u8>()).prop_map(|(job, task)| Step::Note(job, task)),
        3 => any::<u8>().prop_map(Step::Remove),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

/// What a job should have: its payloads, and results by task.
type Model = BTreeMap<u64, (Vec<Bytes>, BTreeMap<u32, Bytes>)>;

fn pick(model: &Model, choice: u8) -> Option<u64> {
    let keys: Vec<u64> = model.keys().copied().collect();
    (!keys.is_empty()).then(|| keys[choice as usize % keys.len()])
}

fn check_model(journal: &Journal, model: &Model) {
    for (key, (payloads, results)) in model {
        let job = JobKey(*key);
        assert_eq!(
            journal.payloads(job, 0, payloads.len() as u32).as_ref(),
            Some(payloads),
            "payloads of {key}"
        );
        for task in 0..payloads.len() as u32 {
            assert_eq!(
                journal.result(job, task).map(|entry| entry.body),
                results.get(&task).cloned(),
                "{key}/{task}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn small_segments_come_and_go_and_nothing_that_lives_is_lost(steps in steps()) {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { segment_bytes: 512, ..Options::default() };
        let (mut journal, _) = open_with(dir.path(), options.clone());
        let mut model = Model::new();
        let mut notes: BTreeMap<(u64, u32), Vec<NoteEntry>> = BTreeMap::new();
        let mut next = 1u64;
        for step in steps {
            match step {
                Step::Submit(count) => {
                    let payloads: Vec<Bytes> = (0..count).map(|task| Bytes::from(format!("payload {next} {task}"))).collect();
                    let header = Bytes::from(vec![7; 40]);
                    let record = Record::Job { job: JobKey(next), header, tasks: Some(count.into()), payloads: payloads.clone() };
                    append(&journal, &[record]).expect("kept");
                    model.insert(next, (payloads, BTreeMap::new()));
                    next += 1;
                }
                Step::Finish(choice, task) => {
                    let Some(key) = pick(&model, choice) else { continue };
                    let (payloads, results) = model.get_mut(&key).expect("there");
                    let task = u32::from(task) % payloads.len() as u32;
                    let body = Bytes::from(format!("result {key} {task} {}", results.len()));
                    let entry = ResultEntry { job: JobKey(key), task, attempt: 1, state: 3, body: body.clone() };
                    append(&journal, &[Record::Results(vec![entry])]).expect("kept");
                    results.insert(task, body);
                }
                Step::Note(choice, task) => {
                    let Some(key) = pick(&model, choice) else { continue };
                    let task = u32::from(task) % model[&key].0.len() as u32;
                    let known = notes.entry((key, task)).or_default();
                    let attempt = known.len() as u32 + 1;
                    let bytes = Bytes::from(format!("attempt {attempt} of {key} {task}"));
                    append(&journal, &[Record::Note { job: JobKey(key), task, attempt, code: 5, bytes: bytes.clone() }]).expect("kept");
                    known.push(NoteEntry { attempt, code: 5, body: bytes });
                }
                Step::Remove(choice) => {
                    let Some(key) = pick(&model, choice) else { continue };
                    notes.retain(|(job, _), _| *job != key);
                    append(&journal, &[Record::Removed { job: JobKey(key) }]).expect("kept");
                    model.remove(&key);
                }
                Step::Reopen => {
                    drop(journal);
                    let (reopened, recovered) = open_with(dir.path(), options.clone());
                    journal = reopened;
                    prop_assert_eq!(recovered.damage, []);
                    let jobs: Vec<u64> = recovered.jobs.iter().map(|job| job.job.0).collect();
                    prop_assert_eq!(jobs, model.keys().copied().collect::<Vec<_>>());
                }
            }
            check_model(&journal, &model);
            for ((key, task), known) in &notes {
                prop_assert_eq!(&journal.notes(JobKey(*key), *task), known);
            }
        }
    }
}

#[test]
fn what_nobody_waits_for_is_written_in_order_and_soon() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path());
    let state = |text: &'static str| Record::State {
        job: JobKey(1),
        bytes: Bytes::from_static(text.as_bytes()),
    };
    let (sender, receiver) = mpsc::channel();
    journal.append_unhurried(&[job(1, &["x"]), state("old")], |_| {});
    journal.append_unhurried(&[state("new")], move |result| drop(sender.send(result)));
    receiver.recv().expect("an answer").unwrap();
    journal.append_unhurried(&[state("newest")], |_| {});
    drop(journal);
    let (_, recovery) = open(dir.path());
    assert_eq!(
        recovery.jobs[0].state.as_deref(),
        Some(b"newest".as_slice())
    );
}

#[test]
fn jobs_that_live_long_do_not_keep_what_came_after_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options {
        segment_bytes: 4_096,
        ..Options::default()
    };
    let payload: &'static str = "x".repeat(500).leak();
    let (journal, _) = open_with(dir.path(), options());
    for long in 1..=6 {
        append(&journal, &[job(long, &[payload])]).unwrap();
    }
    let mut most = 0;
    for short in 100..400 {
        append(&journal, &[job(short, &[payload])]).unwrap();
        append(&journal, &[Record::Removed { job: JobKey(short) }]).unwrap();
        most = most.max(crate::segment::list(dir.path()).unwrap().len());
    }
    assert!(most <= 8, "{most} segments for six jobs");
    drop(journal);
    let (_, recovery) = open_with(dir.path(), options());
    let jobs: Vec<_> = recovery.jobs.iter().map(|job| job.job).collect();
    assert_eq!(jobs.len(), 6, "{jobs:?}");
}

#[test]
fn a_million_tasks_are_recovered() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(dir.path());
    let tasks = 1_000_000;
    let record = Record::Job {
        job: JobKey(1),
        header: Bytes::new(),
        tasks: Some(tasks),
        payloads: Vec::new(),
    };
    append(&journal, &[record]).expect("kept");
    for first in (0..tasks).step_by(10_000) {
        let entries = (first..first + 10_000).map(|task| ResultEntry {
            job: JobKey(1),
            task,
            attempt: 1,
            state: 3,
            body: Bytes::from_static(b"a result"),
        });
        append(&journal, &[Record::Results(entries.collect())]).expect("kept");
    }
    drop(journal);
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.jobs[0].results.len(), tasks as usize);
}

#[test]
fn payloads_come_with_those_of_their_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let (journal, _) = open(dir.path());
    append(&journal, &[job(1, &["a", "bb", ""])]).expect("kept");
    append(
        &journal,
        &[Record::Job {
            job: JobKey(2),
            header: Bytes::new(),
            tasks: Some(1_000_000),
            payloads: Vec::new(),
        }],
    )
    .expect("kept");
    let all = vec![Bytes::from("a"), Bytes::from("bb"), Bytes::new()];
    for task in 0..3 {
        assert_eq!(
            journal.payloads_beside(JobKey(1), task),
            Some((0..3, all.clone()))
        );
    }
    assert_eq!(journal.payloads_beside(JobKey(1), 3), None);
    // A million tasks without payloads take no room.
    assert_eq!(
        journal.payloads_beside(JobKey(2), 7),
        Some((0..1_000_000, Vec::new()))
    );
}

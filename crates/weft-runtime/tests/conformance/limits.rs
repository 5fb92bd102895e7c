//! Time, cancellation, memory and disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_runtime::{Control, Stream};
use weft_types::{Bytes as Size, Reason};

use crate::runner::{Case, case};
use crate::subject::{Act, Subject, processes_with};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("the_time_limit_ends_what_computes_and_what_sleeps", timeout),
        case("cancelling_ends_what_computes_and_what_sleeps", cancel),
        case(
            "what_was_cancelled_before_it_started_does_not_run_on",
            cancelled_early,
        ),
        case("dropping_the_future_ends_the_task", dropped),
        case("a_memory_hog_is_oom_killed", memory),
        case("a_disk_filler_ends_with_a_storage_error", disk),
        case("a_hundred_at_once_all_end", hundred),
    ]
}

/// What names the processes of one task.
fn marker(task: &weft_runtime::TaskRun) -> String {
    format!("WEFT_TASK={}/{}\0", task.job, task.index)
}

async fn timeout(subject: Arc<Subject>) {
    for act in [Act::Spin, Act::Sleep] {
        let mut task = subject.task(act);
        task.timeout = Some(Duration::from_millis(200));
        let (marker, start) = (marker(&task), Instant::now());
        let outcome = subject.run(task).await;
        assert_eq!(
            (outcome.reason(), outcome.exit_code),
            (Some(Reason::Timeout), None),
            "{outcome:?}"
        );
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{act:?} took {:?}",
            start.elapsed()
        );
        assert!(outcome.used.run_us >= 200_000, "{:?}", outcome.used);
        assert_eq!(processes_with(&marker), [0; 0], "{act:?} is still running");
    }
}

async fn cancel(subject: Arc<Subject>) {
    for act in [Act::Spin, Act::Sleep] {
        let control = Control::new();
        let task = subject.task(act);
        let marker = marker(&task);
        let cancel = async {
            if matches!(act, Act::Sleep) {
                control.output().grown_beyond(0, 0).await;
                assert_eq!(control.output().len(Stream::Stdout), 2);
            } else {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            control.cancel();
        };
        let (outcome, ()) = tokio::join!(subject.runtime.run(task, control.clone()), cancel);
        assert_eq!(outcome.reason(), Some(Reason::Cancelled), "{outcome:?}");
        assert_eq!(processes_with(&marker), [0; 0], "{act:?} is still running");
    }
}

async fn cancelled_early(subject: Arc<Subject>) {
    let control = Control::new();
    control.cancel();
    let start = Instant::now();
    let outcome = subject.runtime.run(subject.task(Act::Spin), control).await;
    assert_eq!(outcome.reason(), Some(Reason::Cancelled), "{outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

async fn dropped(subject: Arc<Subject>) {
    let task = subject.task(Act::Sleep);
    let marker = marker(&task);
    let control = Control::new();
    tokio::select! {
        outcome = subject.runtime.run(task, control.clone()) => panic!("{outcome:?}"),
        () = control.output().grown_beyond(1, 0) => {}
    }
    // Its directory is looked for by the runner.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_with(&marker).is_empty() {
        assert!(Instant::now() < deadline, "still running");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn memory(subject: Arc<Subject>) {
    if !subject.limits_memory {
        return println!("skipped: {} does not limit memory", subject.name);
    }
    let mut task = subject.task(Act::EatMemory);
    task.resources.memory = Size(64 << 20);
    let outcome = subject.run(task).await;
    assert_eq!(outcome.reason(), Some(Reason::OomKilled), "{outcome:?}");
    assert!(
        outcome.used.peak_memory_bytes > 32 << 20,
        "{:?}",
        outcome.used
    );
}

async fn disk(subject: Arc<Subject>) {
    let mut task = subject.task(Act::FillDisk);
    task.resources.disk = Size(16 << 20);
    let outcome = subject.run(task).await;
    assert_eq!(outcome.reason(), Some(Reason::StorageError), "{outcome:?}");
}

async fn hundred(subject: Arc<Subject>) {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let (runtime, task) = (Arc::clone(&subject.runtime), subject.task(Act::Print));
        running.spawn(async move { runtime.run(task, Control::new()).await });
    }
    while let Some(outcome) = running.join_next().await {
        let outcome = outcome.unwrap();
        assert_eq!(
            (outcome.reason(), &outcome.stdout.inline[..]),
            (None, &b"out"[..]),
            "{outcome:?}"
        );
    }
}

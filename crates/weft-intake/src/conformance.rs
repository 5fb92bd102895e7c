//! The suite every backend has to pass, against its real engine.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_types::Reason;

use crate::{Acked, DeadLetter, Delivery, Done, WorkQueue};

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a consumer waits for a job that is there.
const WAIT: Duration = Duration::from_secs(30);
/// The lease of consumers that lose it, or have to wait until it would be over.
pub const LEASE: Duration = Duration::from_secs(1);
/// The lease where none is to end, also when the machine stands still for a while.
const STEADY: Duration = Duration::from_secs(60);
/// How often renewing is tried until the test itself renews in time.
const ATTEMPTS: u32 = 30;

/// A backend with its engine, as the suite needs it.
#[async_trait::async_trait]
pub trait Subject: Sync {
    /// The backend.
    type Queue: WorkQueue;

    /// A consumer of a queue of this name, which is empty at first. All consumers of a queue have
    /// the same lease.
    async fn leased(&self, queue: &str, name: &str, lease: Duration) -> Self::Queue;
    /// A consumer with a lease of [`LEASE`].
    async fn consumer(&self, queue: &str, name: &str) -> Self::Queue {
        self.leased(queue, name, LEASE).await
    }
    /// What a producer does.
    async fn push(&self, queue: &str, body: Bytes);
    /// What a producer that asks for a result gets.
    async fn result(&self, queue: &str, id: &str) -> Option<Bytes>;
    /// Dead letters, in any order.
    async fn dead(&self, queue: &str) -> Vec<Bytes>;
}

/// Runs the whole suite.
///
/// # Panics
/// When the backend does not behave as the port says.
pub async fn run(subject: &impl Subject) {
    a_job_is_taken_once_and_its_result_is_there(subject).await;
    jobs_come_in_order_and_no_more_than_asked_for(subject).await;
    waiting_ends_when_a_job_comes(subject).await;
    what_is_renewed_stays(subject).await;
    jobs_of_a_dead_consumer_go_to_another(subject).await;
    a_consumer_that_comes_back_gets_what_it_held(subject).await;
    a_late_end_changes_nothing(subject).await;
    a_rejected_job_is_a_dead_letter(subject).await;
    what_a_consumer_lets_go_is_delivered_at_once(subject).await;
    parts_are_recorded_once(subject).await;
    consumers_share_the_work(subject).await;
}

async fn take(queue: &impl WorkQueue, max: usize) -> Vec<Delivery> {
    queue.take(max, WAIT).await.expect("take")
}

async fn one(queue: &impl WorkQueue) -> Delivery {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let mut taken = take(queue, 1).await;
        assert!(taken.len() <= 1, "{taken:?}");
        if let Some(delivery) = taken.pop() {
            return delivery;
        }
        assert!(Instant::now() < deadline, "no job");
    }
}

async fn none(queue: &impl WorkQueue, wait: Duration) {
    let taken = queue.take(8, wait).await.expect("take");
    assert!(taken.is_empty(), "{taken:?}");
}

fn done(result: &str, body: &str) -> Done {
    Done {
        result: result.to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        measure: Some(Bytes::from_static(b"{}")),
    }
}

async fn a_job_is_taken_once_and_its_result_is_there(subject: &impl Subject) {
    let queue = subject.consumer("once", "a").await;
    none(&queue, Duration::ZERO).await;
    let body = Bytes::from_static(&[0xff, 0, b'{', b'\n']);
    subject.push("once", body.clone()).await;
    let delivery = one(&queue).await;
    assert_eq!((&delivery.body, delivery.receipt.deliveries), (&body, 1));
    assert!(delivery.is_whole());
    none(&queue, Duration::from_millis(50)).await;
    assert_eq!(subject.result("once", "r").await, None);
    let acked = queue.ack(&delivery.receipt, &done("r", "42")).await;
    assert_eq!(acked, Ok(Acked::Done));
    assert_eq!(
        subject.result("once", "r").await.as_deref(),
        Some(&b"42"[..])
    );
    none(&queue, LEASE * 2).await;
    let depth = queue.depth().await.expect("depth");
    assert_eq!((depth.waiting, depth.held), (0, 0));
}

async fn jobs_come_in_order_and_no_more_than_asked_for(subject: &impl Subject) {
    let queue = subject.leased("order", "a", STEADY).await;
    for number in 0..5 {
        subject.push("order", number.to_string().into()).await;
    }
    let mut bodies = Vec::new();
    while bodies.len() < 5 {
        let taken = take(&queue, 2).await;
        assert!((1..=2).contains(&taken.len()), "{taken:?}");
        for delivery in taken {
            let id = String::from_utf8_lossy(&delivery.body).into_owned();
            queue
                .ack(&delivery.receipt, &done(&id, &id))
                .await
                .expect("ack");
            bodies.push(id);
        }
    }
    assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
}

async fn waiting_ends_when_a_job_comes(subject: &impl Subject) {
    let queue = subject.leased("wait", "a", STEADY).await;
    let started = Instant::now();
    let push = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        subject.push("wait", Bytes::from_static(b"x")).await;
    };
    let (delivery, ()) = tokio::join!(one(&queue), push);
    assert!(started.elapsed() < WAIT, "it waited for the whole time");
    queue
        .ack(&delivery.receipt, &done("w", ""))
        .await
        .expect("ack");
}

async fn what_is_renewed_stays(subject: &impl Subject) {
    for attempt in 0..ATTEMPTS {
        if stays_while_renewed(subject, &format!("renew-{attempt}")).await {
            return;
        }
    }
    panic!("in {ATTEMPTS} attempts the test did not renew in time");
}

/// `false` when the test itself stood still: the lease may then have ended rightly.
async fn stays_while_renewed(subject: &impl Subject, queue: &str) -> bool {
    let worker = subject.consumer(queue, "a").await;
    let other = subject.consumer(queue, "b").await;
    // Both connect first: that would be part of the lease.
    worker.depth().await.expect("depth");
    other.depth().await.expect("depth");
    subject.push(queue, Bytes::from_static(b"long")).await;
    let mut before = Instant::now();
    let delivery = one(&worker).await;
    let end = Instant::now() + LEASE * 3;
    while Instant::now() < end {
        let sent = Instant::now();
        worker.renew().await.expect("renew");
        let taken = other.take(8, LEASE / 8).await.expect("take");
        // The engine may hear of this renewal after it has heard of `other`.
        if before.elapsed() > LEASE * 3 / 4 {
            return false;
        }
        assert!(taken.is_empty(), "{taken:?}");
        before = sent;
    }
    let acked = worker.ack(&delivery.receipt, &done("n", "a")).await;
    assert_eq!(acked, Ok(Acked::Done));
    none(&other, LEASE * 2).await;
    true
}

async fn jobs_of_a_dead_consumer_go_to_another(subject: &impl Subject) {
    let dead = subject.consumer("dead", "a").await;
    let mut expected = BTreeSet::new();
    for number in 0..10 {
        subject.push("dead", format!("job {number}").into()).await;
        expected.insert(format!("job {number}"));
    }
    let mut taken = 0;
    while taken < 10 {
        taken += take(&dead, 10 - taken).await.len();
    }
    drop(dead);
    let heir = subject.consumer("dead", "b").await;
    let mut found = BTreeSet::new();
    let deadline = Instant::now() + DEADLINE;
    while found.len() < 10 {
        assert!(Instant::now() < deadline, "only {found:?}");
        for delivery in take(&heir, 4).await {
            let body = String::from_utf8_lossy(&delivery.body).into_owned();
            assert_eq!(delivery.receipt.deliveries, 2, "{body}");
            assert!(found.insert(body.clone()), "{body} twice");
            let id = body.replace(' ', "-");
            let acked = heir.ack(&delivery.receipt, &done(&id, &body)).await;
            assert_eq!(acked, Ok(Acked::Done));
        }
        heir.renew().await.expect("renew");
    }
    assert_eq!(found, expected);
    none(&heir, LEASE * 2).await;
}

async fn a_consumer_that_comes_back_gets_what_it_held(subject: &impl Subject) {
    let first = subject.consumer("back", "a").await;
    subject.push("back", Bytes::from_static(b"1")).await;
    subject.push("back", Bytes::from_static(b"2")).await;
    assert_eq!(one(&first).await.body, "1");
    drop(first);
    let again = subject.consumer("back", "a").await;
    let mut bodies = BTreeSet::new();
    while bodies.len() < 2 {
        let delivery = one(&again).await;
        let id = String::from_utf8_lossy(&delivery.body).into_owned();
        finish(&again, &delivery, &id).await;
        bodies.insert(id);
        again.renew().await.expect("renew");
    }
    assert_eq!(bodies, BTreeSet::from(["1".to_owned(), "2".to_owned()]));
    none(&again, Duration::from_millis(50)).await;
}

async fn finish(queue: &impl WorkQueue, delivery: &Delivery, id: &str) {
    let acked = queue.ack(&delivery.receipt, &done(id, id)).await;
    assert_eq!(acked, Ok(Acked::Done));
}

async fn a_late_end_changes_nothing(subject: &impl Subject) {
    let slow = subject.consumer("late", "a").await;
    subject.push("late", Bytes::from_static(b"x")).await;
    let stale = one(&slow).await;
    let quick = subject.consumer("late", "b").await;
    let delivery = one(&quick).await;
    let acked = quick.ack(&delivery.receipt, &done("l", "quick")).await;
    assert_eq!(acked, Ok(Acked::Done));
    let late = slow.ack(&stale.receipt, &done("l", "slow")).await;
    assert_eq!(late, Ok(Acked::Stale));
    assert_eq!(
        subject.result("late", "l").await.as_deref(),
        Some(&b"quick"[..])
    );
    none(&quick, LEASE * 2).await;
}

async fn a_rejected_job_is_a_dead_letter(subject: &impl Subject) {
    let queue = subject.consumer("reject", "a").await;
    subject.push("reject", Bytes::from_static(b"{oops")).await;
    let delivery = one(&queue).await;
    let letter = DeadLetter::new(
        &delivery,
        Some("id".to_owned()),
        Reason::InvalidSpec,
        "not JSON",
        "2026-01-01T00:00:00Z".to_owned(),
    );
    let rejected = queue.reject(&delivery.receipt, &letter).await;
    assert_eq!(rejected, Ok(Acked::Done));
    let dead = subject.dead("reject").await;
    assert_eq!(dead.len(), 1);
    let read: serde_json::Value = serde_json::from_slice(&dead[0]).expect("JSON");
    assert_eq!(read["reason"], "invalid-spec");
    assert_eq!(
        (&read["body"], &read["detail"]),
        (&"{oops".into(), &"not JSON".into())
    );
    none(&queue, LEASE * 2).await;
    // The queue goes on.
    subject.push("reject", Bytes::from_static(b"good")).await;
    let delivery = one(&queue).await;
    finish(&queue, &delivery, "good").await;
}

async fn what_a_consumer_lets_go_is_delivered_at_once(subject: &impl Subject) {
    let stopping = subject.leased("close", "a", STEADY).await;
    subject.push("close", Bytes::from_static(b"x")).await;
    one(&stopping).await;
    let started = Instant::now();
    stopping.close().await.expect("close");
    let other = subject.leased("close", "b", STEADY).await;
    let delivery = one(&other).await;
    assert!(started.elapsed() < STEADY, "after {:?}", started.elapsed());
    finish(&other, &delivery, "c").await;
}

async fn parts_are_recorded_once(subject: &impl Subject) {
    let queue = subject.consumer("parts", "a").await;
    for body in ["first", "second"] {
        queue.part("p", 0, body.into()).await.expect("part");
    }
    queue.part("p", 1, "more".into()).await.expect("part");
}

async fn consumers_share_the_work(subject: &impl Subject) {
    const JOBS: usize = 300;
    let a = subject.leased("share", "a", STEADY).await;
    let b = subject.leased("share", "b", STEADY).await;
    let c = subject.leased("share", "c", STEADY).await;
    for number in 0..JOBS {
        subject.push("share", number.to_string().into()).await;
    }
    let left = AtomicUsize::new(JOBS);
    let (a, b, c) = tokio::join!(
        work_off(&a, &left),
        work_off(&b, &left),
        work_off(&c, &left)
    );
    let all: Vec<String> = [a, b, c].concat();
    let distinct: BTreeSet<&String> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (JOBS, JOBS));
}

/// Takes and ends jobs until none is left.
async fn work_off(queue: &impl WorkQueue, left: &AtomicUsize) -> Vec<String> {
    let mut bodies = Vec::new();
    let deadline = Instant::now() + DEADLINE;
    while left.load(Ordering::Relaxed) > 0 {
        assert!(Instant::now() < deadline, "{left:?} jobs do not come");
        for delivery in queue.take(7, LEASE / 2).await.expect("take") {
            let id = String::from_utf8_lossy(&delivery.body).into_owned();
            finish(queue, &delivery, &id).await;
            left.fetch_sub(1, Ordering::Relaxed);
            bodies.push(id);
        }
    }
    bodies
}

//! Tests of the embedded backend.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Op, conformance};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

#[test]
fn it_passes_the_conformance_suite() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), Options::default()).expect("opened");
    runtime().block_on(conformance::run(&store));
}

#[test]
fn a_second_opening_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let _store = Embedded::open(dir.path(), Options::default()).expect("opened");
    let refused = Embedded::open(dir.path(), Options::default()).err();
    assert!(matches!(refused, Some(Error::Locked(_))), "{refused:?}");
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let file = redb::Database::create(dir.path().join("store.redb")).expect("made");
        let write = file.begin_write().expect("a transaction");
        write
            .open_table(database::META)
            .expect("a table")
            .insert("format", 99)
            .expect("set");
        write.commit().expect("committed");
    }
    let refused = Embedded::open(dir.path(), Options::default()).err();
    assert_eq!(
        refused,
        Some(Error::NewerFormat {
            found: 99,
            supported: 1
        })
    );
}

/// Opens a directory that another handle has just let go of.
fn reopen(dir: &Path) -> Embedded {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match Embedded::open(dir, Options::default()) {
            Err(Error::Locked(_)) if std::time::Instant::now() < deadline => {
                std::thread::yield_now()
            }
            opened => return opened.expect("opened"),
        }
    }
}

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), Options::default()).expect("opened");
    runtime().block_on(async {
        for number in 0..50 {
            store
                .put(&format!("k{number}"), Bytes::from(number.to_string()))
                .await
                .expect("put");
        }
    });
    drop(store);
    let store = reopen(dir.path());
    runtime().block_on(async {
        let page = store.list("k", None, 100).await.expect("list");
        assert_eq!((page.items.len(), page.revision), (50, 50));
        assert_eq!(
            store.put("k0", Bytes::new()).await,
            Ok(51),
            "revisions go on"
        );
    });
}

#[test]
fn a_lease_that_is_not_kept_alive_ends_and_takes_its_keys() {
    let dir = tempfile::tempdir().expect("a directory");
    let now_ms = Arc::new(AtomicU64::new(0));
    let reading = Arc::clone(&now_ms);
    let clock: LeaseClock =
        Arc::new(move || Duration::from_millis(reading.load(Ordering::Relaxed)));
    let store = Embedded::open(
        dir.path(),
        Options {
            clock,
            ..Options::default()
        },
    )
    .expect("opened");
    runtime().block_on(async {
        let kept = store.grant(Duration::from_secs(10)).await.expect("grant");
        let lost = store.grant(Duration::from_secs(10)).await.expect("grant");
        for (key, lease) in [("kept", kept), ("lost", lost)] {
            let op = Op::Put {
                key: key.into(),
                value: Bytes::new(),
                lease: Some(lease),
            };
            store.txn(Txn::new().then(op)).await.expect("put");
        }
        let mut watch = store.watch("", None).await.expect("watch");
        now_ms.store(9_000, Ordering::Relaxed);
        store.keep_alive(kept).await.expect("it lives");
        now_ms.store(11_000, Ordering::Relaxed);
        let ended = watch.next().await.expect("the end of one");
        assert_eq!(ended.events, [crate::Event::Delete { key: "lost".into() }]);
        assert!(store.get("kept").await.expect("get").is_some());
        assert_eq!(store.keep_alive(lost).await, Err(Error::LeaseGone));
    });
}

#[test]
fn a_watcher_that_does_not_read_is_told_that_it_lagged() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), Options::default()).expect("opened");
    runtime().block_on(async {
        let mut watch = store.watch("", None).await.expect("watch");
        for _ in 0..20 {
            let puts = (0..100).map(|number| store.put("k", Bytes::from(format!("{number}"))));
            let puts: Vec<_> = puts.collect();
            for put in puts {
                put.await.expect("put");
            }
        }
        let mut seen = 0;
        while watch.next().await.is_ok() {
            seen += 1;
        }
        assert!(
            (1_000..2_000).contains(&seen),
            "{seen} of 2000, then an error"
        );
    });
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    Swap(u8, u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..6u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        (0..6u8).prop_map(Step::Delete),
        (0..6u8, any::<u8>(), any::<u8>()).prop_map(|(key, from, to)| Step::Swap(key, from, to)),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn random_transactions_agree_with_a_map(steps in steps()) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Embedded::open(dir.path(), Options::default()).expect("opened");
        let mut model: BTreeMap<String, u8> = BTreeMap::new();
        runtime().block_on(async {
            for step in steps {
                match step {
                    Step::Put(key, value) => {
                        store.put(&format!("k{key}"), Bytes::from(vec![value])).await.expect("put");
                        model.insert(format!("k{key}"), value);
                    }
                    Step::Delete(key) => {
                        store.delete(&format!("k{key}")).await.expect("delete");
                        model.remove(&format!("k{key}"));
                    }
                    Step::Swap(key, from, to) => {
                        let key = format!("k{key}");
                        let holds = crate::Compare::Value(key.clone(), Bytes::from(vec![from]));
                        let txn = Txn::new().when(holds).then(Op::put(&key, Bytes::from(vec![to])));
                        let outcome = store.txn(txn).await.expect("txn");
                        assert_eq!(outcome.succeeded, model.get(&key) == Some(&from));
                        if outcome.succeeded {
                            model.insert(key, to);
                        }
                    }
                }
            }
            let page = store.list("", None, 100).await.expect("list");
            let found: BTreeMap<String, u8> = page.items.into_iter().map(|kv| (kv.key, kv.value[0])).collect();
            assert_eq!(found, model);
        });
    }
}

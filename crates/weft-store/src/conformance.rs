//! The suite every backend has to pass, against its real engine.

use std::time::Duration;

use bytes::Bytes;

use crate::{Compare, Error, Event, Op, Store, Txn};

/// Runs the whole suite on an empty store.
///
/// # Panics
/// When the backend does not behave as the port says.
pub async fn run(store: &impl Store) {
    keys_have_revisions(store).await;
    transactions_compare_and_choose(store).await;
    lists_are_ordered_and_paged(store).await;
    watches_replay_and_follow(store).await;
    leases_take_their_keys(store).await;
    limits_are_refused(store).await;
}

async fn keys_have_revisions(store: &impl Store) {
    let first = store.put("rev/a", Bytes::from("1")).await.expect("put");
    let second = store.put("rev/a", Bytes::from("2")).await.expect("put");
    assert!(second > first, "revisions grow");
    let kv = store.get("rev/a").await.expect("get").expect("there");
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version),
        (first, second, 2)
    );
    assert_eq!(kv.value, "2");
    store.delete("rev/a").await.expect("delete");
    assert_eq!(store.get("rev/a").await.expect("get"), None);
    let unchanged = store.delete("rev/a").await.expect("delete of nothing");
    let third = store.put("rev/a", Bytes::from("3")).await.expect("put");
    assert_eq!(
        third,
        unchanged + 1,
        "a transaction that changes nothing has no revision"
    );
    let kv = store.get("rev/a").await.expect("get").expect("there");
    assert_eq!((kv.create_revision, kv.version), (third, 1), "created anew");
}

async fn transactions_compare_and_choose(store: &impl Store) {
    assert!(
        store
            .create("txn/a", Bytes::from("1"))
            .await
            .expect("create")
    );
    assert!(
        !store
            .create("txn/a", Bytes::from("2"))
            .await
            .expect("create again")
    );
    let kv = store.get("txn/a").await.expect("get").expect("there");
    assert!(
        store
            .update("txn/a", kv.mod_revision, Bytes::from("3"))
            .await
            .expect("update")
    );
    assert!(
        !store
            .update("txn/a", kv.mod_revision, Bytes::from("4"))
            .await
            .expect("stale update")
    );
    let txn = Txn::new()
        .when(Compare::Value("txn/a".into(), Bytes::from("3")))
        .when(Compare::NotExists("txn/b".into()))
        .then(Op::put("txn/b", Bytes::from("b")))
        .then(Op::delete("txn/a"))
        .otherwise(Op::put("txn/c", Bytes::from("c")));
    let outcome = store.txn(txn.clone()).await.expect("txn");
    assert!(outcome.succeeded);
    let b = store.get("txn/b").await.expect("get").expect("there");
    assert_eq!(
        b.mod_revision, outcome.revision,
        "one revision a transaction"
    );
    assert!(!store.txn(txn).await.expect("txn").succeeded);
    assert!(
        store.get("txn/c").await.expect("get").is_some(),
        "the other branch was taken"
    );
}

async fn lists_are_ordered_and_paged(store: &impl Store) {
    for key in ["list/b", "list/a", "list/c", "list", "lisu"] {
        store.put(key, Bytes::new()).await.expect("put");
    }
    let all = store.list("list/", None, 10).await.expect("list");
    let keys: Vec<&str> = all.items.iter().map(|kv| kv.key.as_str()).collect();
    assert_eq!(
        (keys, all.more),
        (vec!["list/a", "list/b", "list/c"], false)
    );
    let page = store.list("list/", Some("list/a"), 1).await.expect("list");
    assert_eq!(
        (page.items[0].key.as_str(), page.items.len(), page.more),
        ("list/b", 1, true)
    );
    store
        .txn(Txn::new().then(Op::DeletePrefix {
            prefix: "list/".into(),
        }))
        .await
        .expect("delete");
    assert!(
        store
            .list("list/", None, 10)
            .await
            .expect("list")
            .items
            .is_empty()
    );
    assert!(
        store.get("lisu").await.expect("get").is_some(),
        "a neighbour stays"
    );
}

async fn watches_replay_and_follow(store: &impl Store) {
    let first = store.put("watch/a", Bytes::from("1")).await.expect("put");
    store.put("other/a", Bytes::from("x")).await.expect("put");
    let mut watch = store.watch("watch/", Some(first)).await.expect("watch");
    let second = store.delete("watch/a").await.expect("delete");
    let replayed = watch.next().await.expect("the past");
    assert_eq!(replayed.revision, first);
    assert!(
        matches!(&replayed.events[..], [Event::Put(kv)] if kv.value == "1"),
        "{replayed:?}"
    );
    let followed = watch.next().await.expect("the present");
    assert_eq!(followed.revision, second);
    assert_eq!(
        followed.events,
        [Event::Delete {
            key: "watch/a".into()
        }]
    );
    let mut fresh = store.watch("watch/", None).await.expect("watch");
    let third = store.put("watch/b", Bytes::from("2")).await.expect("put");
    assert_eq!(
        fresh.next().await.expect("only what is new").revision,
        third
    );
    store.compact(third).await.expect("compact");
    let gone = store
        .watch("watch/", Some(first))
        .await
        .expect_err("compacted");
    assert!(
        matches!(gone, Error::Compacted { oldest } if oldest == third),
        "{gone:?}"
    );
    assert!(
        store.get("watch/b").await.expect("get").is_some(),
        "the keys stay"
    );
}

async fn leases_take_their_keys(store: &impl Store) {
    let lease = store.grant(Duration::from_secs(3600)).await.expect("grant");
    let put = |key: &str| Op::Put {
        key: key.into(),
        value: Bytes::new(),
        lease: Some(lease),
    };
    store
        .txn(Txn::new().then(put("lease/a")).then(put("lease/b")))
        .await
        .expect("put");
    store.keep_alive(lease).await.expect("it lives");
    let mut watch = store.watch("lease/", None).await.expect("watch");
    store.revoke(lease).await.expect("revoke");
    assert_eq!(
        watch.next().await.expect("the end").events.len(),
        2,
        "both in one transaction"
    );
    assert!(
        store
            .list("lease/", None, 10)
            .await
            .expect("list")
            .items
            .is_empty()
    );
    assert_eq!(store.keep_alive(lease).await, Err(Error::LeaseGone));
}

async fn limits_are_refused(store: &impl Store) {
    for key in ["", &"k".repeat(crate::MAX_KEY_BYTES + 1)] {
        let refused = store.put(key, Bytes::new()).await.expect_err("a bad key");
        assert!(
            matches!(refused, Error::Invalid { field: "key", .. }),
            "{refused:?}"
        );
    }
    let large = Bytes::from(vec![0; crate::MAX_VALUE_BYTES + 1]);
    let refused = store.put("large", large).await.expect_err("a large value");
    assert!(
        matches!(refused, Error::Invalid { field: "value", .. }),
        "{refused:?}"
    );
}

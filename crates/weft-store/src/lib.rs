//! The store port: revisioned keys after etcd's model, and its embedded backend.
//!
//! Every write transaction gets the next revision. A key knows the revisions of its creation and
//! its last change, transactions compare them, and a watch replays what happened to a prefix from
//! a revision on. Leases end by themselves and take their keys with them.
//!
//! Architecture invariant: what is stored, this crate does not know. A backend is done when it
//! passes [`conformance`] against its real engine.

mod embedded;
mod error;
mod model;
mod typed;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

pub use embedded::{Embedded, LeaseClock, Options};
pub use error::Error;
pub use model::{
    Compare, Event, EventBatch, KeyValue, LeaseId, MAX_KEY_BYTES, MAX_TXN_OPERATIONS,
    MAX_VALUE_BYTES, Op, Page, Revision, Txn, TxnOutcome, Watch,
};
pub use typed::Json;

use std::time::Duration;

/// A revisioned key-value store.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The value of a key.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error>;

    /// Keys with a prefix in their order, at most `limit`, after the key `after`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error>;

    /// Applies one branch of a transaction; acknowledged once it is durable.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error>;

    /// What happens to keys with a prefix: from a revision on (inclusive), or from now on.
    ///
    /// # Errors
    /// [`Error::Compacted`] when the revision is no longer known.
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<Watch, Error>;

    /// Forgets what happened before a revision; the keys stay.
    async fn compact(&self, before: Revision) -> Result<(), Error>;

    /// A lease that ends unless it is kept alive.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Begins a lease's time anew.
    ///
    /// # Errors
    /// [`Error::LeaseGone`] when it has ended.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error>;

    /// Ends a lease, with its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Sets a key.
    async fn put(&self, key: &str, value: bytes::Bytes) -> Result<Revision, Error> {
        Ok(self
            .txn(Txn::new().then(Op::put(key, value)))
            .await?
            .revision)
    }

    /// Removes a key, if it is there.
    async fn delete(&self, key: &str) -> Result<Revision, Error> {
        Ok(self.txn(Txn::new().then(Op::delete(key))).await?.revision)
    }

    /// Sets a key that must not exist; `false` when it does.
    async fn create(&self, key: &str, value: bytes::Bytes) -> Result<bool, Error> {
        let txn = Txn::new()
            .when(Compare::NotExists(key.to_owned()))
            .then(Op::put(key, value));
        Ok(self.txn(txn).await?.succeeded)
    }

    /// Sets a key that must not have changed since `mod_revision`; `false` when it has.
    async fn update(
        &self,
        key: &str,
        mod_revision: Revision,
        value: bytes::Bytes,
    ) -> Result<bool, Error> {
        let unchanged = Compare::ModRevision(key.to_owned(), mod_revision);
        Ok(self
            .txn(Txn::new().when(unchanged).then(Op::put(key, value)))
            .await?
            .succeeded)
    }
}

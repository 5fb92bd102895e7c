//! Typed access to the store, for the parts of a server.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_store::{
    Compare, Embedded, Json, KeyValue, LeaseId, Op, Options, Revision, Store, Txn, TxnOutcome,
    Watch,
};

use crate::{Error, handover};

/// How many keys are read at once.
const LISTED_AT_ONCE: usize = 1_000;

/// A change of a key, as JSON.
///
/// # Errors
/// When the value has no JSON form.
pub fn put_json<T: Serialize>(key: &str, value: &T) -> Result<Op, Error> {
    let json = serde_json::to_vec(value).map_err(|error| Error::Corrupt {
        what: key.to_owned(),
        detail: error.to_string(),
    })?;
    Ok(Op::put(key, json.into()))
}

/// The condition that a key is still as it was read: changed last by this revision, or absent.
pub fn unchanged(key: &str, since: Option<Revision>) -> Compare {
    match since {
        Some(revision) => Compare::ModRevision(key.to_owned(), revision),
        None => Compare::NotExists(key.to_owned()),
    }
}

/// Typed access to the store; cloning shares it.
#[derive(Clone)]
pub struct Records {
    store: Embedded,
}

impl Records {
    /// Opens the embedded store in a directory.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(dir: &Path) -> Result<Self, Error> {
        let dir = dir.to_path_buf();
        let opened = tokio::task::spawn_blocking(move || {
            handover::open(
                || Embedded::open(&dir, Options::default()),
                |error| matches!(error, weft_store::Error::Locked(_)),
            )
        })
        .await;
        let store = opened.map_err(|error| Error::Corrupt {
            what: "store".to_owned(),
            detail: error.to_string(),
        })??;
        Ok(Self { store })
    }

    /// The value of a key and the revision that changed it last.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, u64)>, Error> {
        Ok(self.store.get_json(key).await?)
    }

    /// Sets a key.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn put<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<(), Error> {
        self.store.put_json(key, value).await?;
        Ok(())
    }

    /// Sets a key that must not have changed since a revision; `false` when it has.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn replace<T: Serialize + Sync>(
        &self,
        key: &str,
        since: u64,
        value: &T,
    ) -> Result<bool, Error> {
        Ok(self.store.update_json(key, since, value).await?)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        self.store.delete(key).await?;
        Ok(())
    }

    /// Every key with a prefix.
    ///
    /// # Errors
    /// When one cannot be read or understood.
    pub async fn list<T: DeserializeOwned + Send>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, Error> {
        Ok(self.store.list_json(prefix).await?)
    }

    /// Sets and removes keys in one transaction.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write_all(
        &self,
        puts: Vec<(String, serde_json::Value)>,
        drops: Vec<String>,
    ) -> Result<(), Error> {
        let mut txn = Txn::new();
        for (key, value) in puts {
            txn = txn.then(Op::put(&key, value.to_string().into()));
        }
        for key in drops {
            txn = txn.then(Op::delete(&key));
        }
        self.store.txn(txn).await?;
        Ok(())
    }

    /// Applies a transaction over several keys.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        Ok(self.store.txn(txn).await?)
    }

    /// What happens to keys with a prefix, from a revision on (inclusive) or from now on.
    ///
    /// # Errors
    /// When the revision is no longer known.
    pub async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<Watch, Error> {
        Ok(self.store.watch(prefix, from).await?)
    }

    /// Every key with a prefix as it is stored, and the revision of the store at the end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn list_raw(&self, prefix: &str) -> Result<(Vec<KeyValue>, Revision), Error> {
        let mut all: Vec<KeyValue> = Vec::new();
        loop {
            let after = all.last().map(|kv| kv.key.clone());
            let page = self
                .store
                .list(prefix, after.as_deref(), LISTED_AT_ONCE)
                .await?;
            all.extend(page.items);
            if !page.more {
                return Ok((all, page.revision));
            }
        }
    }

    /// A lease that ends unless it is kept alive.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        Ok(self.store.grant(ttl).await?)
    }

    /// Begins a lease's time anew.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        Ok(self.store.keep_alive(lease).await?)
    }

    /// Ends a lease, with its keys.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        Ok(self.store.revoke(lease).await?)
    }

    /// Counts the starts of the server: every one gets a greater number.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn next_start(&self) -> Result<u64, Error> {
        let starts = self
            .get::<u64>("meta/starts")
            .await?
            .map_or(0, |(starts, _)| starts)
            + 1;
        self.put("meta/starts", &starts).await?;
        Ok(starts)
    }
}

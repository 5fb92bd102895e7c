//! Typed access to the store, for the parts of a server.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use weft_store::{Embedded, Json, Op, Options, Store, Txn};

use crate::Error;

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
        let opened =
            tokio::task::spawn_blocking(move || Embedded::open(&dir, Options::default())).await;
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

//! Values as JSON, so that a person can read the store with any tool.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Revision, Store};

/// How many keys are read at once.
const PAGE: usize = 1_000;

/// Typed access to a store.
#[async_trait::async_trait]
pub trait Json: Store {
    /// The value of a key and the revision that changed it last.
    ///
    /// # Errors
    /// Those of the store; [`Error::Corrupt`] names the key.
    async fn get_json<T: DeserializeOwned>(
        &self,
        key: &str,
    ) -> Result<Option<(T, Revision)>, Error> {
        let found = self.get(key).await?;
        found
            .map(|kv| Ok((parse(key, &kv.value)?, kv.mod_revision)))
            .transpose()
    }

    /// Sets a key.
    ///
    /// # Errors
    /// Those of the store.
    async fn put_json<T: Serialize + Sync>(&self, key: &str, value: &T) -> Result<Revision, Error> {
        self.put(key, format(key, value)?).await
    }

    /// Sets a key that must not have changed since; `false` when it has.
    ///
    /// # Errors
    /// Those of the store.
    async fn update_json<T: Serialize + Sync>(
        &self,
        key: &str,
        since: Revision,
        value: &T,
    ) -> Result<bool, Error> {
        self.update(key, since, format(key, value)?).await
    }

    /// Every key with a prefix.
    ///
    /// # Errors
    /// Those of the store; [`Error::Corrupt`] names the key.
    async fn list_json<T: DeserializeOwned + Send>(
        &self,
        prefix: &str,
    ) -> Result<Vec<(String, T)>, Error> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.list(prefix, after.as_deref(), PAGE).await?;
            after = page.items.last().map(|kv| kv.key.clone());
            for kv in page.items {
                let value = parse(&kv.key, &kv.value)?;
                all.push((kv.key, value));
            }
            if !page.more {
                return Ok(all);
            }
        }
    }
}

impl<S: Store + ?Sized> Json for S {}

fn parse<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Corrupt {
        key: key.to_owned(),
        detail: error.to_string(),
    })
}

fn format<T: Serialize>(key: &str, value: &T) -> Result<bytes::Bytes, Error> {
    let json = serde_json::to_vec(value);
    json.map(Into::into).map_err(|error| Error::Corrupt {
        key: key.to_owned(),
        detail: error.to_string(),
    })
}

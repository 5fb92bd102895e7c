//! Keys, transactions and events.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::Error;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 512;
/// The largest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// The most comparisons and operations of one transaction.
pub const MAX_TXN_OPERATIONS: usize = 4_096;

/// Grows by one with each write transaction; 0 is the empty store.
pub type Revision = u64;

/// A lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LeaseId(pub u64);

/// A key with its value and history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The revision that created it.
    pub create_revision: Revision,
    /// The revision that changed it last.
    pub mod_revision: Revision,
    /// How often it was set since its creation; from 1.
    pub version: u64,
    /// The lease it ends with.
    pub lease: Option<LeaseId>,
}

/// Keys of a list, as of one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The keys in their order.
    pub items: Vec<KeyValue>,
    /// Whether there are more after the last.
    pub more: bool,
    /// The revision of the store they were read at.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compare {
    /// The key is there.
    Exists(String),
    /// The key is not there.
    NotExists(String),
    /// The key was last changed by this revision.
    ModRevision(String, Revision),
    /// The key was created by this revision.
    CreateRevision(String, Revision),
    /// The key has this value.
    Value(String, Bytes),
}

/// A change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Sets a key.
    Put {
        /// Which.
        key: String,
        /// To what.
        value: Bytes,
        /// The lease it ends with.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// Which.
        key: String,
    },
    /// Removes every key with a prefix.
    DeletePrefix {
        /// Which.
        prefix: String,
    },
}

impl Op {
    /// Sets a key.
    pub fn put(key: &str, value: Bytes) -> Self {
        Self::Put {
            key: key.to_owned(),
            value,
            lease: None,
        }
    }

    /// Removes a key.
    pub fn delete(key: &str) -> Self {
        Self::Delete {
            key: key.to_owned(),
        }
    }
}

/// Conditions, what to do when all hold, and what to do otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// Done when all hold.
    pub success: Vec<Op>,
    /// Done otherwise.
    pub failure: Vec<Op>,
}

impl Txn {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compare.push(compare);
        self
    }

    /// With one more change for when all conditions hold.
    #[must_use]
    pub fn then(mut self, op: Op) -> Self {
        self.success.push(op);
        self
    }

    /// With one more change for when a condition does not hold.
    #[must_use]
    pub fn otherwise(mut self, op: Op) -> Self {
        self.failure.push(op);
        self
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let count = self.compare.len() + self.success.len() + self.failure.len();
        if count > MAX_TXN_OPERATIONS {
            let detail = format!("{count} parts, more than {MAX_TXN_OPERATIONS}");
            return Err(Error::Invalid {
                field: "transaction",
                detail,
            });
        }
        for op in self.success.iter().chain(&self.failure) {
            match op {
                Op::Put { key, value, .. } => {
                    check_key(key)?;
                    if value.len() > MAX_VALUE_BYTES {
                        let detail = format!(
                            "{} bytes under {key}, more than {MAX_VALUE_BYTES}",
                            value.len()
                        );
                        return Err(Error::Invalid {
                            field: "value",
                            detail,
                        });
                    }
                }
                Op::Delete { key } => check_key(key)?,
                Op::DeletePrefix { prefix } => check_key(prefix)?,
            }
        }
        Ok(())
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        let detail = format!("{} bytes long, not 1 to {MAX_KEY_BYTES}", key.len());
        return Err(Error::Invalid {
            field: "key",
            detail,
        });
    }
    Ok(())
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxnOutcome {
    /// Whether all conditions held.
    pub succeeded: bool,
    /// The revision of the store afterwards.
    pub revision: Revision,
}

/// Something happened to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// It was set.
    Put(KeyValue),
    /// It was removed.
    Delete {
        /// Which.
        key: String,
    },
}

impl Event {
    /// The key it happened to.
    pub fn key(&self) -> &str {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key } => key,
        }
    }
}

/// What one transaction did to the watched keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventBatch {
    /// Its revision.
    pub revision: Revision,
    /// What it did, in order.
    pub events: Vec<Event>,
}

/// A stream of what happens; dropping it ends it.
#[derive(Debug)]
pub struct Watch {
    pub(crate) batches: mpsc::Receiver<EventBatch>,
}

impl Watch {
    /// The next batch, each once, in the order of revisions.
    ///
    /// # Errors
    /// [`Error::Lagged`] when the watcher was too slow and missed something.
    pub async fn next(&mut self) -> Result<EventBatch, Error> {
        self.batches.recv().await.ok_or(Error::Lagged)
    }
}

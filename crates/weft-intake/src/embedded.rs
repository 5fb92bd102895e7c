//! The queue in the embedded store: nothing to install, for one machine.
//!
//! | key | holds |
//! | --- | --- |
//! | `<p>/ready/<sequence>` | a job |
//! | `<p>/taken/<consumer>/<sequence>.<deliveries>` | a job that a consumer holds |
//! | `<p>/alive/<consumer>` | that it lives; ends with its lease |
//! | `<p>/results/<id>` | a result, for a day |
//! | `<p>/dead/<sequence>` | a dead letter |

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;
use weft_store::{Compare, KeyValue, LeaseId, Op, Store, Txn};

use crate::{
    Acked, DeadLetter, Delivery, Depth, Done, Error, MAX_DEAD_LETTERS, MAX_JOB_BYTES, PREFIX_BYTES,
    RESULT_TTL, Receipt, WorkQueue,
};

/// The most keys that one look at the store reads.
const MAX_LISTED: usize = 1_024;
/// How often jobs of dead consumers are looked for, and the longest a wait goes without looking.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The queue in a store, as one consumer sees it.
pub struct EmbeddedQueue {
    store: Arc<dyn Store>,
    prefix: String,
    consumer: String,
    lease: Duration,
    held: Mutex<HashSet<String>>,
    alive: tokio::sync::Mutex<Option<LeaseId>>,
}

impl EmbeddedQueue {
    /// A consumer of the queue under a prefix of keys.
    pub fn new(store: Arc<dyn Store>, prefix: &str, consumer: &str, lease: Duration) -> Self {
        Self {
            store,
            prefix: prefix.to_owned(),
            consumer: consumer.to_owned(),
            lease,
            held: Mutex::default(),
            alive: tokio::sync::Mutex::new(None),
        }
    }

    /// Puts a job at the end of the queue; resolves when it is on disk.
    ///
    /// # Errors
    /// When it is larger than a value of the store may be, or cannot be written.
    pub async fn push(&self, body: Bytes) -> Result<(), Error> {
        loop {
            let key = self.key("sequence");
            let last = self.store.get(&key).await?;
            let sequence = last.as_ref().map_or(0, |last| last.version) + 1;
            let unchanged = match &last {
                Some(last) => Compare::ModRevision(key.clone(), last.mod_revision),
                None => Compare::NotExists(key.clone()),
            };
            let txn = Txn::new()
                .when(unchanged)
                .then(Op::put(&key, Bytes::new()))
                .then(Op::put(
                    &self.key(&format!("ready/{sequence:020}")),
                    body.clone(),
                ));
            if self.store.txn(txn).await?.succeeded {
                return Ok(());
            }
        }
    }

    /// A result, while it is kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn result(&self, id: &str) -> Result<Option<Bytes>, Error> {
        let found = self.store.get(&self.key(&format!("results/{id}"))).await?;
        Ok(found.map(|found| found.value))
    }

    /// The dead letters, the oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn dead_letters(&self) -> Result<Vec<Bytes>, Error> {
        let page = self
            .store
            .list(&self.key("dead/"), None, MAX_DEAD_LETTERS)
            .await?;
        Ok(page.items.into_iter().map(|item| item.value).collect())
    }

    fn key(&self, rest: &str) -> String {
        format!("{}/{rest}", self.prefix)
    }

    fn taken(&self, receipt: &Receipt) -> String {
        let Receipt {
            sequence,
            deliveries,
        } = receipt;
        self.key(&format!(
            "taken/{}/{sequence:020}.{deliveries}",
            self.consumer
        ))
    }

    async fn look(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let mut found = Vec::new();
        for item in self.orphans().await? {
            if found.len() >= max {
                return Ok(found);
            }
            let name = item.key.rsplit('/').next().unwrap_or_default();
            let Some((sequence, deliveries)) = name.split_once('.') else {
                continue;
            };
            let (Ok(sequence), Ok(deliveries)) = (sequence.parse(), deliveries.parse::<u32>())
            else {
                continue;
            };
            let receipt = Receipt {
                sequence,
                deliveries: deliveries.saturating_add(1),
            };
            found.extend(self.move_here(item, receipt).await?);
        }
        let wanted = (max - found.len()).min(MAX_LISTED);
        if wanted == 0 {
            return Ok(found);
        }
        for item in self
            .store
            .list(&self.key("ready/"), None, wanted)
            .await?
            .items
        {
            let name = item.key.rsplit('/').next().unwrap_or_default();
            let Ok(sequence) = name.parse() else { continue };
            let receipt = Receipt {
                sequence,
                deliveries: 1,
            };
            found.extend(self.move_here(item, receipt).await?);
        }
        Ok(found)
    }

    /// Jobs that are held by consumers that do not live, and by this one's former life.
    async fn orphans(&self) -> Result<Vec<KeyValue>, Error> {
        let alive = self
            .store
            .list(&self.key("alive/"), None, MAX_LISTED)
            .await?;
        let alive: HashSet<String> = alive
            .items
            .iter()
            .filter_map(|item| item.key.rsplit('/').next().map(str::to_owned))
            .collect();
        let taken = self
            .store
            .list(&self.key("taken/"), None, MAX_LISTED)
            .await?;
        let held = self.held.lock();
        let orphaned = |item: &KeyValue| {
            let owner = item.key.rsplit('/').nth(1).unwrap_or_default();
            if owner == self.consumer {
                !held.contains(&item.key)
            } else {
                !alive.contains(owner)
            }
        };
        Ok(taken.items.into_iter().filter(orphaned).collect())
    }

    /// `None` when another consumer was faster.
    async fn move_here(&self, item: KeyValue, receipt: Receipt) -> Result<Option<Delivery>, Error> {
        let key = self.taken(&receipt);
        let txn = Txn::new()
            .when(Compare::ModRevision(item.key.clone(), item.mod_revision))
            .then(Op::delete(&item.key))
            .then(Op::put(&key, item.value.clone()));
        if !self.store.txn(txn).await?.succeeded {
            return Ok(None);
        }
        self.held.lock().insert(key);
        let size = item.value.len();
        let body = if size > MAX_JOB_BYTES {
            item.value.slice(..PREFIX_BYTES)
        } else {
            item.value
        };
        Ok(Some(Delivery {
            receipt,
            body,
            size,
            key: None,
        }))
    }

    /// Writes something in place of the job, if this consumer still has it.
    async fn end(&self, receipt: &Receipt, write: Op) -> Result<Acked, Error> {
        let key = self.taken(receipt);
        let txn = Txn::new()
            .when(Compare::Exists(key.clone()))
            .then(Op::delete(&key))
            .then(write);
        let ended = self.store.txn(txn).await?.succeeded;
        self.held.lock().remove(&key);
        Ok(if ended { Acked::Done } else { Acked::Stale })
    }

    async fn put_result(&self, rest: &str, body: &Bytes) -> Result<Op, Error> {
        Ok(Op::Put {
            key: self.key(&format!("results/{rest}")),
            value: body.clone(),
            lease: Some(self.store.grant(RESULT_TTL).await?),
        })
    }
}

#[async_trait::async_trait]
impl WorkQueue for EmbeddedQueue {
    fn lease(&self) -> Duration {
        self.lease
    }

    async fn take(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, Error> {
        let deadline = Instant::now() + wait;
        self.renew().await?;
        loop {
            let mut pushed = self.store.watch(&self.key("ready/"), None).await?;
            let found = self.look(max).await?;
            let left = deadline.saturating_duration_since(Instant::now());
            if !found.is_empty() || left.is_zero() {
                return Ok(found);
            }
            // Somebody else's end is not in the watch: look again after a while in any case.
            let _ = tokio::time::timeout(left.min(LOOK_INTERVAL), pushed.next()).await;
        }
    }

    async fn part(&self, result: &str, number: u32, body: Bytes) -> Result<(), Error> {
        let put = self
            .put_result(&format!("{result}/{number}"), &body)
            .await?;
        self.store.txn(Txn::new().then(put)).await?;
        Ok(())
    }

    async fn ack(&self, receipt: &Receipt, done: &Done) -> Result<Acked, Error> {
        let put = self.put_result(&done.result, &done.body).await?;
        self.end(receipt, put).await
    }

    async fn reject(&self, receipt: &Receipt, letter: &DeadLetter) -> Result<Acked, Error> {
        let key = self.key(&format!("dead/{:020}", receipt.sequence));
        let ended = self.end(receipt, Op::put(&key, letter.to_json())).await?;
        let page = self
            .store
            .list(&self.key("dead/"), None, MAX_DEAD_LETTERS)
            .await?;
        if page.more
            && let Some(oldest) = page.items.first()
        {
            self.store.delete(&oldest.key).await?;
        }
        Ok(ended)
    }

    async fn renew(&self) -> Result<(), Error> {
        let mut alive = self.alive.lock().await;
        if let Some(lease) = *alive
            && self.store.keep_alive(lease).await.is_ok()
        {
            return Ok(());
        }
        let lease = self.store.grant(self.lease).await?;
        let txn = Txn::new().then(Op::Put {
            key: self.key(&format!("alive/{}", self.consumer)),
            value: Bytes::new(),
            lease: Some(lease),
        });
        self.store.txn(txn).await?;
        *alive = Some(lease);
        Ok(())
    }

    async fn close(&self) -> Result<(), Error> {
        if let Some(lease) = self.alive.lock().await.take() {
            self.store.revoke(lease).await?;
        }
        Ok(())
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let mut waiting = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self
                .store
                .list(&self.key("ready/"), after.as_deref(), MAX_LISTED)
                .await?;
            waiting += page.items.len() as u64;
            after = page.items.last().map(|last| last.key.clone());
            if !page.more {
                break;
            }
        }
        Ok(Depth {
            waiting,
            held: self.held.lock().len() as u64,
        })
    }
}

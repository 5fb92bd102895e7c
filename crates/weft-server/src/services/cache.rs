//! Everything the store has of services, in memory: fed by the store's watch alone, so that
//! whoever reads it sees what every other server sees. Level-triggered: what matters is what is
//! there, not which change was told.

mod tables;

pub use tables::{Kept, Service, Tables};

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use weft_store::{Revision, Watch};
use weft_types::WorkloadId;

use crate::Error;
use crate::records::Records;

/// What of the store is kept here.
const PREFIXES: [&str; 6] = [
    "workloads/",
    "rollouts/",
    "assignments/",
    "statuses/",
    "retries/",
    "secrets/",
];
/// After a failed read of the store, the wait before the next.
const RELIST_DELAY: Duration = Duration::from_millis(500);

/// The records of services; cloning shares them.
#[derive(Clone)]
pub struct Workloads {
    tables: Arc<RwLock<Tables>>,
    seen: watch::Sender<Revision>,
}

impl Workloads {
    /// Reads everything and follows it until the server stops.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(records: Records, stopping: CancellationToken) -> Result<Self, Error> {
        let (tables, watch) = load(&records).await?;
        let seen = watch::channel(tables.revision).0;
        let shared = Self {
            tables: Arc::new(RwLock::new(tables)),
            seen,
        };
        let following = shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = following.follow(records, watch) => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(shared)
    }

    async fn follow(&self, records: Records, mut watch: Watch) {
        loop {
            match watch.next().await {
                Ok(batch) => {
                    let mut tables = self.tables.write();
                    tables.take(batch);
                    let revision = tables.revision;
                    drop(tables);
                    self.seen.send_replace(revision);
                }
                // Too slow, or compacted: what was missed is found by reading everything again.
                Err(weft_store::Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(%error, "services are read anew");
                    watch = self.relist(&records).await;
                }
            }
        }
    }

    async fn relist(&self, records: &Records) -> Watch {
        loop {
            match load(records).await {
                Ok((tables, watch)) => {
                    let revision = tables.revision;
                    *self.tables.write() = tables;
                    self.seen.send_replace(revision);
                    return watch;
                }
                Err(error) => {
                    tracing::error!(%error, "services could not be read");
                    tokio::time::sleep(RELIST_DELAY).await;
                }
            }
        }
    }

    /// Resolves to the newest revision whenever there is a newer one.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.seen.subscribe()
    }

    /// Waits until everything up to a revision is here.
    pub async fn reached(&self, revision: Revision) {
        let mut seen = self.seen.subscribe();
        // An error means that the server is stopping; the caller finds out by itself.
        let _ = seen.wait_for(|seen| *seen >= revision).await;
    }

    /// Reads under the lock.
    pub fn read<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables.read())
    }

    /// The services that changed since the last call.
    pub fn take_changed(&self) -> BTreeSet<WorkloadId> {
        std::mem::take(&mut self.tables.write().changed)
    }
}

/// Reads everything, and follows it from there.
async fn load(records: &Records) -> Result<(Tables, Watch), Error> {
    let (_, begin) = records.list_raw(PREFIXES[0]).await?;
    // One watch over everything: only so do changes of several kinds come in their order.
    let mut watch = records.watch("", Some(begin + 1)).await?;
    let mut tables = Tables::default();
    let mut end = begin;
    for prefix in PREFIXES {
        let (items, revision) = records.list_raw(prefix).await?;
        end = end.max(revision);
        for kv in items {
            tables.put(&kv);
        }
    }
    tables.revision = begin;
    // What changed between the lists is told by the watch; until then they do not fit together.
    while tables.revision < end {
        tables.take(watch.next().await?);
    }
    Ok((tables, watch))
}

//! The embedded backend: a transactional database in one file, with group commit.
//!
//! One thread writes. It takes all transactions that wait, applies them in order in one
//! transaction of the database, makes that durable with one fsync, and only then acknowledges
//! them and tells the watchers. Reads go past it and see what is committed.

mod codec;
mod database;
mod leases;
mod watchers;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};

use crate::{Error, KeyValue, LeaseId, Page, Revision, Store, Txn, TxnOutcome, Watch};
use database::Database;
use writer::{Request, Writer};

/// Transactions that wait for the writer.
const MAX_WAITING_REQUESTS: usize = 4_096;
/// The most keys one list call returns.
const MAX_LISTED: usize = 10_000;

/// Where the time of leases comes from: since a fixed moment, never backwards.
pub type LeaseClock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Settings of the embedded backend.
#[derive(Clone)]
pub struct Options {
    /// How many revisions a watch can go back.
    pub kept_revisions: u64,
    /// The time of leases.
    pub clock: LeaseClock,
}

impl Default for Options {
    /// Ten thousand revisions, real time.
    fn default() -> Self {
        let start = Instant::now();
        Self {
            kept_revisions: 10_000,
            clock: Arc::new(move || start.elapsed()),
        }
    }
}

/// A store in a directory of this machine.
#[derive(Clone)]
pub struct Embedded {
    requests: mpsc::Sender<Request>,
    database: Arc<RwLock<Database>>,
}

impl Embedded {
    /// Opens or makes the store in a directory.
    ///
    /// # Errors
    /// When the directory cannot be used, is open elsewhere, or has a newer format.
    pub fn open(dir: &Path, options: Options) -> Result<Self, Error> {
        std::fs::create_dir_all(dir)
            .map_err(|error| Error::Storage(format!("{}: {error}", dir.display())))?;
        let database = Database::open(&dir.join("store.redb"))?;
        let leases = database.leases()?;
        let database = Arc::new(RwLock::new(database));
        let (requests, receiver) = mpsc::channel(MAX_WAITING_REQUESTS);
        let writer = Writer::new(Arc::clone(&database), options, leases)?;
        std::thread::Builder::new()
            .name("weft-store".to_owned())
            .spawn(move || writer.run(receiver))
            .map_err(|error| Error::Storage(error.to_string()))?;
        Ok(Self { requests, database })
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(request(reply))
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

#[async_trait::async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.database.read().get(key)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page, Error> {
        self.database
            .read()
            .list(prefix, after, limit.clamp(1, MAX_LISTED))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        txn.check()?;
        self.request(|reply| Request::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<Watch, Error> {
        let prefix = prefix.to_owned();
        self.request(|reply| Request::Watch {
            prefix,
            from,
            reply,
        })
        .await
    }

    async fn compact(&self, before: Revision) -> Result<(), Error> {
        self.request(|reply| Request::Compact { before, reply })
            .await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.request(|reply| Request::Grant { ttl, reply }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.request(|reply| Request::KeepAlive { lease, reply })
            .await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.request(|reply| Request::Revoke { lease, reply }).await
    }
}

#[cfg(test)]
mod tests;

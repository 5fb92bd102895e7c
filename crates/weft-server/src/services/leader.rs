//! Who schedules: whoever holds `leader/scheduler`, a key that ends with its lease.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use weft_core::service::record::RECORD_VERSION;
use weft_store::{Compare, LeaseId, Op, Revision, Txn};
use weft_types::NodeId;

use crate::Error;
use crate::records::{put_json, unchanged};
use crate::state::Server;

/// The key of the one who schedules.
const KEY: &str = "leader/scheduler";
/// After this long without a sign of life another server takes over.
const TTL: Duration = Duration::from_secs(5);
/// How often the lease is renewed; two renewals may be lost.
const RENEWAL: Duration = Duration::from_millis(1_500);

/// What the key says.
#[derive(Debug, Serialize, Deserialize)]
struct LeaderRecord {
    v: u32,
    server: NodeId,
    since_ms: u64,
}

/// The right to schedule, as long as the key has this revision.
#[derive(Debug, Clone, Copy)]
pub struct Leadership {
    lease: LeaseId,
    revision: Revision,
}

impl Leadership {
    /// Takes the right if nobody has it, or if this very server had it before it was started
    /// again: only one process can have its data directory open.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn acquire(server: &Server) -> Result<Option<Self>, Error> {
        let current = server.records.get::<LeaderRecord>(KEY).await?;
        if let Some((leader, _)) = &current
            && leader.server != server.id
        {
            return Ok(None);
        }
        let lease = server.records.grant(TTL).await?;
        let record = LeaderRecord {
            v: RECORD_VERSION,
            server: server.id.clone(),
            since_ms: server.clock.wall().as_millis(),
        };
        let op = match put_json(KEY, &record)? {
            Op::Put { key, value, .. } => Op::Put {
                key,
                value,
                lease: Some(lease),
            },
            other => other,
        };
        let since = current.map(|(_, revision)| revision);
        let txn = Txn::new().when(unchanged(KEY, since)).then(op);
        let outcome = server.records.txn(txn).await?;
        if outcome.succeeded {
            let revision = outcome.revision;
            return Ok(Some(Self { lease, revision }));
        }
        server.records.revoke(lease).await?;
        Ok(None)
    }

    /// Renews it for as long as it can be.
    ///
    /// # Errors
    /// When it is lost; otherwise this never ends.
    pub async fn keep(&self, server: &Server) -> Result<(), Error> {
        let mut renewal = tokio::time::interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            renewal.tick().await;
            server.records.keep_alive(self.lease).await?;
        }
    }

    /// The condition of every transaction of the one who schedules.
    pub fn condition(&self) -> Compare {
        Compare::ModRevision(KEY.to_owned(), self.revision)
    }

    /// Whether the key is still ours.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn holds(&self, server: &Server) -> Result<bool, Error> {
        let current = server.records.get::<LeaderRecord>(KEY).await?;
        Ok(current.is_some_and(|(_, revision)| revision == self.revision))
    }

    /// Gives it up.
    pub async fn resign(self, server: &Server) {
        if let Err(error) = server.records.revoke(self.lease).await {
            tracing::debug!(%error, "the right to schedule ends with its lease");
        }
    }
}

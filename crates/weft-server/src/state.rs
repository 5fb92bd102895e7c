//! What the parts of a server share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use weft_blobs::BlobStore;
use weft_pki::{ApiToken, ApiTokenRecord, Authority, JoinToken, JoinTokenSpec, TokenRecord};
use weft_types::{NodeId, Timestamp};

use crate::Error;
use crate::clock::Clock;
use crate::dispatch::{Dispatcher, Log};
use crate::events::Events;
use crate::follow::Follows;
use crate::liveness::Liveness;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::records::Records;
use crate::services::Services;

/// What the parts of a server share.
pub struct Server {
    /// Its id, for its certificate and for agents.
    pub id: NodeId,
    /// The cluster's CA.
    pub authority: Arc<Authority>,
    /// Both clocks.
    pub clock: Clock,
    /// Typed access to the store.
    pub records: Records,
    /// What happened.
    pub events: Events,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// The journal of jobs.
    pub log: Log,
    /// Artifacts.
    pub blobs: Arc<BlobStore>,
    /// The dispatcher's handle.
    pub dispatcher: Dispatcher,
    /// Leases of nodes.
    pub liveness: Liveness,
    /// The nodes.
    pub nodes: Nodes,
    /// Services.
    pub services: Services,
    /// Live output.
    pub follows: Follows,
    /// Room for WebSocket connections.
    pub websockets: Arc<Semaphore>,
    /// Bearer tokens of the API.
    pub api_tokens: ApiTokens,
    /// Addresses under which machines reach this server, for join tokens.
    pub addresses: Vec<String>,
    /// Cancelled when the server stops.
    pub stopping: CancellationToken,
}

impl Server {
    /// Makes a join token and keeps its record.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn mint_join_token(
        &self,
        ttl: Duration,
        uses: u32,
    ) -> Result<(JoinToken, TokenRecord), Error> {
        let spec = JoinTokenSpec {
            addresses: self.addresses.clone(),
            ca_fingerprint: self.authority.fingerprint(),
            ttl,
            uses,
            pool: None,
            labels: Default::default(),
        };
        let (token, record) = JoinToken::mint(spec, self.clock.wall())?;
        self.records
            .put(&format!("tokens/{}", record.id), &record)
            .await?;
        Ok((token, record))
    }
}

/// The bearer tokens that open the API; read once, since they change with the server's start only.
#[derive(Default)]
pub struct ApiTokens {
    records: Vec<ApiTokenRecord>,
}

impl ApiTokens {
    /// Reads them from the store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(records: &Records) -> Result<Self, Error> {
        let stored: Vec<(String, ApiTokenRecord)> = records.list("api-tokens/").await?;
        Ok(Self {
            records: stored.into_iter().map(|(_, record)| record).collect(),
        })
    }

    /// Whether a token opens the API.
    pub fn accepts(&self, token: &ApiToken, now: Timestamp) -> bool {
        self.records
            .iter()
            .any(|record| record.verify(token, now).is_ok())
    }
}

//! What the store keeps of a node.

use serde::{Deserialize, Serialize};
use weft_types::{NodeCapacity, NodeId, Timestamp};

/// The version of the record's layout.
const VERSION: u32 = 1;

/// The record of a node under `nodes/<id>`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Version of the layout.
    pub v: u32,
    /// Its id.
    pub id: NodeId,
    /// When it joined.
    pub joined_at_ms: u64,
    /// SHA-256 of its public key, which stays the same for its whole life.
    pub public_key_hash: String,
    /// Its certificate: from when.
    pub certificate_from_ms: u64,
    /// Its certificate: until when.
    pub certificate_until_ms: u64,
    /// Somebody closed it for new work.
    pub cordoned: bool,
    /// Somebody is moving its work away.
    pub draining: bool,
    /// What it offered when it was last here.
    pub capacity: NodeCapacity,
    /// Its host name when it was last here.
    pub hostname: String,
    /// The version of its agent when it was last here.
    pub version: String,
}

impl NodeRecord {
    /// The record of a node that just joined.
    pub fn new(
        id: NodeId,
        public_key_hash: String,
        certificate: &weft_pki::Certificate,
        now: Timestamp,
    ) -> Self {
        Self {
            v: VERSION,
            id,
            joined_at_ms: now.as_millis(),
            public_key_hash,
            certificate_from_ms: certificate.not_before().as_millis(),
            certificate_until_ms: certificate.not_after().as_millis(),
            cordoned: false,
            draining: false,
            capacity: NodeCapacity::default(),
            hostname: String::new(),
            version: String::new(),
        }
    }

    /// Its key in the store.
    pub fn key(id: &NodeId) -> String {
        format!("nodes/{id}")
    }

    /// Takes over the life of a new certificate.
    pub fn certified(&mut self, certificate: &weft_pki::Certificate) {
        self.certificate_from_ms = certificate.not_before().as_millis();
        self.certificate_until_ms = certificate.not_after().as_millis();
    }
}

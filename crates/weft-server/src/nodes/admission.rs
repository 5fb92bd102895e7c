//! Who may come in: by token, by renewal, by approval.

use std::time::Duration;

use serde_json::json;
use weft_pki::{
    Certificate, Fingerprint, JoinSecret, TokenError, TokenRecord, csr_public_key, short_code,
};
use weft_types::{NodeId, Timestamp};

use super::record::NodeRecord;
use super::registry::{Entry, Live, Nodes, Pending};
use crate::Error;

/// How long a request to come back waits for approval before it has to be repeated.
const APPROVAL_WINDOW: Duration = Duration::from_secs(3600);
/// How often a token is tried to be spent against concurrent joins.
const MAX_SPEND_TRIES: u32 = 16;

/// A node that was let in.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its id.
    pub node: NodeId,
    /// Its certificate.
    pub certificate: Certificate,
}

/// The answer to a node that wants to come back.
#[derive(Debug, Clone)]
pub enum Rejoin {
    /// Somebody approved it.
    Approved(Certificate),
    /// Nobody has yet; the code to compare.
    Waiting(String),
}

impl Nodes {
    /// Lets a node in that holds a good token.
    ///
    /// # Errors
    /// When the token is not good, the id is another node's, or the request is malformed.
    pub async fn join(
        &self,
        token_id: &str,
        secret: &JoinSecret,
        id: &NodeId,
        csr: &[u8],
    ) -> Result<Joined, Error> {
        let now = self.shared.clock.wall();
        let public_key = csr_public_key(csr)?;
        let key_hash = key_hash(&public_key);
        // Of two that join under one id at once the second one finds it taken.
        let _turn = self.shared.turn(id).lock().await;
        let taken = self
            .shared
            .entries
            .lock()
            .get(id)
            .is_some_and(|entry| entry.record.public_key_hash != key_hash);
        if taken {
            return Err(Error::NodeIdTaken(id.to_string()));
        }
        let certificate =
            self.shared
                .authority
                .sign_node_csr(csr, id, self.shared.certificate_ttl, now)?;
        self.spend(token_id, secret, now).await?;
        let record = NodeRecord::new(id.clone(), key_hash, &certificate, now);
        let key = NodeRecord::key(id);
        self.shared.records.put(&key, &record).await?;
        let entry = Entry {
            record,
            live: Live::default(),
            pending: None,
        };
        self.shared.entries.lock().insert(id.clone(), entry);
        self.shared.events.emit(
            now,
            "node.joined",
            id.as_str(),
            json!({ "token": token_id }),
        );
        Ok(Joined {
            node: id.clone(),
            certificate,
        })
    }

    /// Uses a token up by compare-and-set, so that two machines never join with one use.
    async fn spend(
        &self,
        token_id: &str,
        secret: &JoinSecret,
        now: Timestamp,
    ) -> Result<(), Error> {
        let key = format!("tokens/{token_id}");
        for _ in 0..MAX_SPEND_TRIES {
            let stored: Option<(TokenRecord, u64)> = self.shared.records.get(&key).await?;
            let Some((record, revision)) = stored else {
                return Err(TokenError::Unknown.into());
            };
            let spent = record.spend(secret, now)?;
            if self.shared.records.replace(&key, revision, &spent).await? {
                return Ok(());
            }
        }
        Err(TokenError::Spent.into())
    }

    /// Renews the certificate of a node that has a session.
    ///
    /// # Errors
    /// When the request is malformed or made with another key.
    pub async fn renew(&self, node: &NodeId, csr: &[u8]) -> Result<Certificate, Error> {
        self.check_key(node, csr)?;
        self.certify(node, csr).await
    }

    /// A node whose certificate expired asks to come back, with its old key.
    ///
    /// # Errors
    /// When the node is not known, or the request is malformed or made with another key.
    pub async fn rejoin(&self, node: &NodeId, csr: &[u8]) -> Result<Rejoin, Error> {
        let public_key = self.check_key(node, csr)?;
        let now = self.shared.clock.wall();
        let approved = {
            let mut entries = self.shared.entries.lock();
            let entry = entries.get_mut(node).ok_or_else(|| unknown(node))?;
            let fresh = entry
                .pending
                .as_ref()
                .is_some_and(|pending| now.since(pending.asked_at) < APPROVAL_WINDOW);
            if !fresh {
                let code = short_code(&public_key);
                entry.pending = Some(Pending {
                    code,
                    approved: false,
                    asked_at: now,
                });
                let data = json!({ "code": entry.pending.as_ref().map(|pending| &pending.code) });
                self.shared
                    .events
                    .emit(now, "node.waiting", node.as_str(), data);
            }
            match &entry.pending {
                Some(pending) if pending.approved => None,
                Some(pending) => Some(pending.code.clone()),
                None => None,
            }
        };
        match approved {
            Some(code) => Ok(Rejoin::Waiting(code)),
            None => self.certify(node, csr).await.map(Rejoin::Approved),
        }
    }

    /// Somebody has compared the code: the node may come back.
    ///
    /// # Errors
    /// When the node does not wait, or with another code.
    pub fn approve(&self, node: &NodeId, code: &str) -> Result<(), Error> {
        let now = self.shared.clock.wall();
        let mut entries = self.shared.entries.lock();
        let entry = entries.get_mut(node).ok_or_else(|| unknown(node))?;
        match &mut entry.pending {
            Some(pending) if pending.code.eq_ignore_ascii_case(code) => {
                pending.approved = true;
                pending.asked_at = now;
                self.shared
                    .events
                    .emit(now, "node.approved", node.as_str(), json!({}));
                Ok(())
            }
            Some(_) => Err(Error::WrongApprovalCode(node.to_string())),
            None => Err(Error::NotWaiting(node.to_string())),
        }
    }

    /// Whoever holds the node's key is the node.
    fn check_key(&self, node: &NodeId, csr: &[u8]) -> Result<Vec<u8>, Error> {
        let public_key = csr_public_key(csr)?;
        let entries = self.shared.entries.lock();
        let entry = entries.get(node).ok_or_else(|| unknown(node))?;
        if entry.record.public_key_hash != key_hash(&public_key) {
            return Err(Error::WrongKey(node.to_string()));
        }
        Ok(public_key)
    }

    async fn certify(&self, node: &NodeId, csr: &[u8]) -> Result<Certificate, Error> {
        let now = self.shared.clock.wall();
        let certificate =
            self.shared
                .authority
                .sign_node_csr(csr, node, self.shared.certificate_ttl, now)?;
        self.change(node, |record| record.certified(&certificate))?;
        self.save(node).await?;
        Ok(certificate)
    }
}

fn unknown(node: &NodeId) -> Error {
    Error::NotFound {
        what: "node",
        id: node.to_string(),
    }
}

fn key_hash(public_key_der: &[u8]) -> String {
    Fingerprint::of(public_key_der).to_string()
}

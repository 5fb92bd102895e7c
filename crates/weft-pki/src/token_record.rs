//! The server's side of join tokens: what it stores, and whether a secret opens the cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_types::Timestamp;

use crate::TokenError;
use crate::secret::{JoinSecret, SecretHash, TokenId};

/// What the server keeps of a join token: everything but the secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Which token it is.
    pub id: TokenId,
    /// Hash of its secret.
    pub secret_hash: SecretHash,
    /// When it was made.
    #[serde(rename = "created_at_ms")]
    pub created_at: Timestamp,
    /// When it stops working.
    #[serde(rename = "expires_at_ms")]
    pub expires_at: Timestamp,
    /// How many nodes may still join with it.
    pub uses_left: u32,
    /// The pool that the nodes belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Labels that the nodes carry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl TokenRecord {
    /// Whether a secret opens the cluster now. The secret is compared first and in constant time,
    /// so that nobody without it learns whether a token exists, has expired or was used.
    ///
    /// # Errors
    /// [`TokenError::Unknown`], [`TokenError::Expired`] or [`TokenError::Spent`].
    pub fn verify(&self, secret: &JoinSecret, now: Timestamp) -> Result<(), TokenError> {
        if !self.secret_hash.fits(secret) {
            return Err(TokenError::Unknown);
        }
        if now >= self.expires_at {
            return Err(TokenError::Expired);
        }
        if self.uses_left == 0 {
            return Err(TokenError::Spent);
        }
        Ok(())
    }

    /// The record after one more use. Write it by compare-and-set against the one it was made of,
    /// so that two nodes cannot share one use.
    ///
    /// # Errors
    /// As [`TokenRecord::verify`].
    pub fn spend(&self, secret: &JoinSecret, now: Timestamp) -> Result<Self, TokenError> {
        self.verify(secret, now)?;
        Ok(Self {
            uses_left: self.uses_left - 1,
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fingerprint, JoinToken, JoinTokenSpec, Secret};
    use std::time::Duration;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn mint() -> (JoinToken, TokenRecord) {
        let spec = JoinTokenSpec {
            addresses: vec!["192.168.1.20:8443".to_owned()],
            ca_fingerprint: Fingerprint::of(b"ca"),
            ttl: HOUR,
            uses: 1,
            pool: None,
            labels: BTreeMap::new(),
        };
        JoinToken::mint(spec, NOW).unwrap()
    }

    #[test]
    fn a_token_opens_the_cluster_as_often_as_it_may_and_until_it_expires() {
        let (token, record) = mint();
        let spent = record.spend(&token.secret, NOW).unwrap();
        assert_eq!(spent.verify(&token.secret, NOW), Err(TokenError::Spent));
        assert_eq!(
            record.verify(&token.secret, NOW.plus(HOUR)),
            Err(TokenError::Expired)
        );
        assert_eq!(token.check_expiry(NOW.plus(HOUR)), Err(TokenError::Expired));
        assert_eq!(token.check_expiry(NOW), Ok(()));
    }

    #[test]
    fn a_wrong_secret_learns_nothing_about_a_token() {
        let (_, record) = mint();
        let expired_and_spent = TokenRecord {
            uses_left: 0,
            expires_at: Timestamp(0),
            ..record
        };
        assert_eq!(
            expired_and_spent.verify(&Secret([0; 16]), NOW),
            Err(TokenError::Unknown)
        );
    }

    #[test]
    fn a_record_is_readable_json_without_the_secret() {
        let (token, record) = mint();
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<TokenRecord>(&json).unwrap(), record);
        assert!(json.contains("\"expires_at_ms\":1800003600000"), "{json}");
        assert!(
            !json.contains(&hex::encode(token.secret.as_bytes())),
            "{json}"
        );
        assert!(!format!("{token:?}").contains(&format!("{:?}", token.secret.as_bytes())));
    }
}

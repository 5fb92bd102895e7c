//! Bearer tokens of the API, for programs that cannot hold a client certificate.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_types::Timestamp;

use crate::armor::Armor;
use crate::base32::CODE_BYTES;
use crate::secret::{ApiSecret, Secret, SecretHash, TokenId};
use crate::{Result, TokenError};

const ARMOR: Armor = Armor {
    prefix: "weftapi",
    name: "API token",
};

/// A bearer token: its text form begins with `weftapi1-`, which secret scanners can look for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiToken {
    id: TokenId,
    secret: ApiSecret,
}

impl ApiToken {
    /// Makes a token with a fresh secret for the user `name`, and the record that the server keeps.
    ///
    /// # Errors
    /// [`crate::Error::Random`].
    pub fn mint(
        name: &str,
        ttl: Option<Duration>,
        now: Timestamp,
    ) -> Result<(Self, ApiTokenRecord)> {
        let token = Self {
            id: TokenId::random()?,
            secret: Secret::random()?,
        };
        let record = ApiTokenRecord {
            id: token.id,
            name: name.to_owned(),
            secret_hash: token.secret.hash(),
            created_at: now,
            expires_at: ttl.map(|ttl| now.plus(ttl)),
        };
        Ok((token, record))
    }

    /// Which token it is, to find its record.
    pub fn id(&self) -> TokenId {
        self.id
    }
}

impl fmt::Display for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = [self.id.0.as_slice(), self.secret.as_bytes()].concat();
        f.write_str(&ARMOR.seal(&payload))
    }
}

impl FromStr for ApiToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let payload = ARMOR.open(text)?;
        payload
            .split_first_chunk::<CODE_BYTES>()
            .and_then(|(id, secret)| {
                Some(Self {
                    id: TokenId(*id),
                    secret: Secret::from_bytes(secret)?,
                })
            })
            .ok_or_else(|| ARMOR.malformed("its content is malformed"))
    }
}

/// What the server keeps of an API token.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ApiTokenRecord {
    /// Which token it is.
    pub id: TokenId,
    /// The user that its holder acts as.
    pub name: String,
    /// Hash of its secret.
    pub secret_hash: SecretHash,
    /// When it was made.
    #[serde(rename = "created_at_ms")]
    pub created_at: Timestamp,
    /// When it stops working, if ever.
    #[serde(
        rename = "expires_at_ms",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub expires_at: Option<Timestamp>,
}

impl ApiTokenRecord {
    /// Whether the token opens the API now; the secret is compared first and in constant time.
    ///
    /// # Errors
    /// [`TokenError::Unknown`] or [`TokenError::Expired`].
    pub fn verify(&self, token: &ApiToken, now: Timestamp) -> Result<(), TokenError> {
        if self.id != token.id || !self.secret_hash.fits(&token.secret) {
            return Err(TokenError::Unknown);
        }
        match self.expires_at {
            Some(expires_at) if now >= expires_at => Err(TokenError::Expired),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_works_until_it_expires_and_only_for_its_own_record() {
        let (token, record) = ApiToken::mint("admin", Some(HOUR), NOW).unwrap();
        let (other, _) = ApiToken::mint("admin", None, NOW).unwrap();
        let sent: ApiToken = token.to_string().parse().unwrap();
        assert_eq!(record.verify(&sent, NOW), Ok(()));
        assert_eq!(
            record.verify(&sent, NOW.plus(HOUR)),
            Err(TokenError::Expired)
        );
        assert_eq!(record.verify(&other, NOW), Err(TokenError::Unknown));
    }

    #[test]
    fn the_right_id_with_another_secret_is_unknown() {
        let (token, record) = ApiToken::mint("admin", None, NOW).unwrap();
        let forged = ApiToken {
            secret: Secret([0; 32]),
            ..token
        };
        assert_eq!(record.verify(&forged, NOW), Err(TokenError::Unknown));
    }

    proptest! {
        #[test]
        fn any_other_character_anywhere_is_detected(position: prop::sample::Index, other in "[!-~]") {
            let text = ApiToken::mint("admin", None, NOW).unwrap().0.to_string();
            let at = position.index(text.len());
            prop_assume!(text[at..=at] != other);
            let mut mistyped = text;
            mistyped.replace_range(at..=at, &other);
            prop_assert!(mistyped.parse::<ApiToken>().is_err(), "{mistyped}");
        }

        #[test]
        fn reading_garbage_never_panics(text in "(weftapi1-)?\\PC*", payload: Vec<u8>) {
            let _ = text.parse::<ApiToken>();
            let _ = ARMOR.seal(&payload).parse::<ApiToken>();
        }
    }
}

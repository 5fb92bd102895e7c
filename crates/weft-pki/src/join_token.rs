//! Join tokens: one string that a user carries from a server to a machine that shall join.
//!
//! It says where the server is, which CA it must prove to have, and carries a one-time secret.
//! The server keeps a [`TokenRecord`], which holds only a hash of the secret.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use weft_types::Timestamp;

use crate::armor::Armor;
use crate::secret::{JoinSecret, Secret, TokenId};
use crate::{Error, Fingerprint, Result, TokenError, TokenRecord};

const ARMOR: Armor = Armor {
    prefix: "weft",
    name: "join token",
};

/// Most server addresses in a token.
pub const MAX_ADDRESSES: usize = 8;
/// Most labels in a token.
pub const MAX_LABELS: usize = 16;
/// Longest address, pool, label key or label value, in bytes.
pub const MAX_TEXT_BYTES: usize = 128;

/// What a user copies to the machine that joins; its text form begins with `weft1-`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinToken {
    /// Where the servers are, as `host:port`.
    pub addresses: Vec<String>,
    /// The cluster CA.
    pub ca_fingerprint: Fingerprint,
    /// Which token it is.
    pub id: TokenId,
    /// What proves that the holder was given it.
    pub secret: JoinSecret,
    /// When it stops working.
    pub expires_at: Timestamp,
    /// The pool that the node will belong to.
    pub pool: Option<String>,
    /// Labels that the node will carry.
    pub labels: BTreeMap<String, String>,
}

/// What a new join token shall say and allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JoinTokenSpec {
    /// Where the servers are, as `host:port`.
    pub addresses: Vec<String>,
    /// The cluster CA.
    pub ca_fingerprint: Fingerprint,
    /// How long it works.
    pub ttl: Duration,
    /// How many nodes may join with it.
    pub uses: u32,
    /// The pool that the nodes will belong to.
    pub pool: Option<String>,
    /// Labels that the nodes will carry.
    pub labels: BTreeMap<String, String>,
}

impl JoinToken {
    /// Makes a token with a fresh secret, and the record that the server keeps.
    ///
    /// # Errors
    /// [`Error::TokenSpec`] when the specification exceeds a bound; [`Error::Random`].
    pub fn mint(spec: JoinTokenSpec, now: Timestamp) -> Result<(Self, TokenRecord)> {
        spec.check()?;
        let token = Self {
            addresses: spec.addresses,
            ca_fingerprint: spec.ca_fingerprint,
            id: TokenId::random()?,
            secret: Secret::random()?,
            expires_at: now.plus(spec.ttl),
            pool: spec.pool,
            labels: spec.labels,
        };
        let record = TokenRecord {
            id: token.id,
            secret_hash: token.secret.hash(),
            created_at: now,
            expires_at: token.expires_at,
            uses_left: spec.uses,
            pool: token.pool.clone(),
            labels: token.labels.clone(),
        };
        Ok((token, record))
    }

    /// Refuses a token whose time is over before anybody is asked.
    ///
    /// # Errors
    /// [`TokenError::Expired`].
    pub fn check_expiry(&self, now: Timestamp) -> Result<(), TokenError> {
        if now >= self.expires_at {
            Err(TokenError::Expired)
        } else {
            Ok(())
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.id.0);
        bytes.extend(self.secret.0);
        bytes.extend(self.ca_fingerprint.0);
        bytes.extend(self.expires_at.as_millis().to_be_bytes());
        put_count(&mut bytes, self.addresses.len());
        self.addresses
            .iter()
            .for_each(|address| put_text(&mut bytes, address));
        put_text(&mut bytes, self.pool.as_deref().unwrap_or_default());
        put_count(&mut bytes, self.labels.len());
        for (key, value) in &self.labels {
            put_text(&mut bytes, key);
            put_text(&mut bytes, value);
        }
        bytes
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let mut reader = Reader(payload);
        let id = TokenId(reader.array()?);
        let secret = Secret(reader.array()?);
        let ca_fingerprint = Fingerprint(reader.array()?);
        let expires_at = Timestamp(u64::from_be_bytes(reader.array()?));
        let addresses = (0..reader.count(MAX_ADDRESSES)?)
            .map(|_| reader.text())
            .collect::<Option<_>>()?;
        let pool = Some(reader.text()?).filter(|pool| !pool.is_empty());
        let labels = (0..reader.count(MAX_LABELS)?)
            .map(|_| Some((reader.text()?, reader.text()?)))
            .collect::<Option<_>>()?;
        reader.0.is_empty().then_some(Self {
            addresses,
            ca_fingerprint,
            id,
            secret,
            expires_at,
            pool,
            labels,
        })
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ARMOR.seal(&self.encode()))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::decode(&ARMOR.open(text)?).ok_or_else(|| ARMOR.malformed("its content is malformed"))
    }
}

impl JoinTokenSpec {
    fn check(&self) -> Result<()> {
        if self.addresses.is_empty() || self.addresses.len() > MAX_ADDRESSES {
            return Err(Error::TokenSpec("it needs 1 to 8 server addresses"));
        }
        if self.uses == 0 {
            return Err(Error::TokenSpec("it must allow at least one use"));
        }
        if self.labels.len() > MAX_LABELS {
            return Err(Error::TokenSpec("it can carry at most 16 labels"));
        }
        let labels = self.labels.iter().flat_map(|(key, value)| [key, value]);
        let mut texts = self.addresses.iter().chain(&self.pool).chain(labels);
        if !texts.all(|text| text.len() <= MAX_TEXT_BYTES && is_plain(text)) {
            return Err(Error::TokenSpec(
                "an address, pool or label is longer than 128 bytes or has control characters",
            ));
        }
        if self
            .addresses
            .iter()
            .chain(&self.pool)
            .chain(self.labels.keys())
            .any(String::is_empty)
        {
            return Err(Error::TokenSpec("an address, pool or label key is empty"));
        }
        Ok(())
    }
}

fn is_plain(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Bounded by [`JoinTokenSpec`]; a token built by hand beyond the bounds loses what does not fit
/// and is then refused by whoever reads it.
fn put_count(bytes: &mut Vec<u8>, count: usize) {
    bytes.push(u8::try_from(count).unwrap_or(u8::MAX));
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_count(bytes, text.len());
    bytes.extend(text.bytes());
}

/// Reads what is left of a payload; `None` at its end or beyond a bound.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn count(&mut self, max: usize) -> Option<usize> {
        let [count] = self.array()?;
        Some(usize::from(count)).filter(|&count| count <= max)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.count(MAX_TEXT_BYTES)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text)
            .ok()
            .filter(|text| is_plain(text))
            .map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn spec() -> JoinTokenSpec {
        JoinTokenSpec {
            addresses: vec![
                "192.168.1.20:8443".to_owned(),
                "[fe80::1%eth0]:8443".to_owned(),
            ],
            ca_fingerprint: Fingerprint::of(b"ca"),
            ttl: HOUR,
            uses: 1,
            pool: Some("gpu".to_owned()),
            labels: BTreeMap::from([("site".to_owned(), "attic".to_owned())]),
        }
    }

    #[test]
    fn a_token_of_another_version_or_kind_is_told_from_a_mistyped_one() {
        let text = JoinToken::mint(spec(), NOW).unwrap().0.to_string();
        let newer = text.replacen("weft1-", "weft2-", 1);
        assert_eq!(
            newer.parse::<JoinToken>(),
            Err(TokenError::WrongVersion {
                found: "2".to_owned()
            })
        );
        for other in ["", "weft", "weft1", "hello", "weftapi1-AAAA", "weft-AAAA"] {
            assert!(
                matches!(
                    other.parse::<JoinToken>(),
                    Err(TokenError::Malformed { .. })
                ),
                "{other}"
            );
        }
        assert_eq!("weft1-".parse::<JoinToken>(), Err(TokenError::Checksum));
        assert_eq!(
            text[..text.len() - 4].parse::<JoinToken>(),
            Err(TokenError::Checksum)
        );
    }

    #[test]
    fn a_token_broken_over_two_lines_still_works() {
        let (token, _) = JoinToken::mint(spec(), NOW).unwrap();
        let text = token.to_string();
        let broken = format!(" {}\n  {}\n", &text[..40], &text[40..]);
        assert_eq!(broken.parse(), Ok(token));
    }

    #[test]
    fn a_specification_beyond_a_bound_is_refused() {
        let refused = [
            JoinTokenSpec {
                addresses: vec![],
                ..spec()
            },
            JoinTokenSpec {
                addresses: vec!["a".to_owned(); MAX_ADDRESSES + 1],
                ..spec()
            },
            JoinTokenSpec {
                addresses: vec!["a".repeat(MAX_TEXT_BYTES + 1)],
                ..spec()
            },
            JoinTokenSpec {
                pool: Some(String::new()),
                ..spec()
            },
            JoinTokenSpec {
                pool: Some("a\nb".to_owned()),
                ..spec()
            },
            JoinTokenSpec { uses: 0, ..spec() },
        ];
        for spec in refused {
            assert!(
                matches!(JoinToken::mint(spec.clone(), NOW), Err(Error::TokenSpec(_))),
                "{spec:?}"
            );
        }
    }

    #[test]
    fn the_largest_token_can_be_read_back() {
        let text = "x".repeat(MAX_TEXT_BYTES);
        let labels = (0..MAX_LABELS).map(|n| {
            (
                format!("{n:0>width$}", width = MAX_TEXT_BYTES),
                String::new(),
            )
        });
        let largest = JoinTokenSpec {
            addresses: vec![text.clone(); MAX_ADDRESSES],
            labels: labels.collect(),
            ..spec()
        };
        let (token, _) = JoinToken::mint(
            JoinTokenSpec {
                pool: Some(text),
                ..largest
            },
            NOW,
        )
        .unwrap();
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    proptest! {
        #[test]
        fn tokens_round_trip(
            addresses in proptest::collection::vec("[a-z0-9.:]{1,40}", 1..=MAX_ADDRESSES),
            pool in proptest::option::of("[a-z]{1,20}"),
            labels in proptest::collection::btree_map("[a-z]{1,10}", "[a-z0-9]{0,10}", 0..4),
        ) {
            let spec = JoinTokenSpec { addresses, pool, labels, ..spec() };
            let (token, _) = JoinToken::mint(spec, NOW).unwrap();
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn any_other_character_anywhere_is_detected(position: prop::sample::Index, other in "[!-~]") {
            let text = JoinToken::mint(spec(), NOW).unwrap().0.to_string();
            let at = position.index(text.len());
            prop_assume!(text[at..=at] != other);
            let mut mistyped = text;
            mistyped.replace_range(at..=at, &other);
            prop_assert!(mistyped.parse::<JoinToken>().is_err(), "{mistyped}");
        }

        #[test]
        fn reading_garbage_never_panics(text in "(weft1-)?\\PC*", payload: Vec<u8>) {
            let _ = text.parse::<JoinToken>();
            let _ = ARMOR.seal(&payload).parse::<JoinToken>();
        }
    }
}

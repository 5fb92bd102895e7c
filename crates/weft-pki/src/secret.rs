//! Secrets of tokens, what the server keeps of them, and the tokens' ids.

use std::fmt;
use std::str::FromStr;

use ring::hmac;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result, TokenError, base32};

/// Identifies a token, in lists and store keys; not secret. Eight characters, as `7k3m9x2q`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub(crate) [u8; base32::CODE_BYTES]);

impl TokenId {
    pub(crate) fn random() -> Result<Self> {
        random().map(Self)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let malformed = TokenError::Malformed {
            expected: "token id",
            why: "it has eight letters and digits",
        };
        base32::decode(text).map(Self).ok_or(malformed)
    }
}

impl Serialize for TokenId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// `N` random bytes that whoever holds the token has; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<const N: usize>(pub(crate) [u8; N]);

/// The secret of a join token: 128 bits, for its short life.
pub type JoinSecret = Secret<16>;
/// The secret of an API token: 256 bits.
pub type ApiSecret = Secret<32>;

impl<const N: usize> Secret<N> {
    pub(crate) fn random() -> Result<Self> {
        random().map(Self)
    }

    /// The bytes, to send them to the server over a verified connection.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads a secret that was sent; `None` when its length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// What the server keeps.
    pub(crate) fn hash(&self) -> SecretHash {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hmac::sign(&SecretHash::key(), &self.0).as_ref());
        SecretHash(bytes)
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// A hash of a secret: HMAC-SHA-256 under a fixed label. No salt and no stretching are needed,
/// since the secrets are random and too long to be guessed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash([u8; 32]);

impl SecretHash {
    fn key() -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, b"weft token secret v1")
    }

    /// Whether the secret is the one that was hashed, in constant time.
    pub(crate) fn fits<const N: usize>(&self, secret: &Secret<N>) -> bool {
        hmac::verify(&Self::key(), &secret.0, &self.0).is_ok()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash")
    }
}

impl Serialize for SecretHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SecretHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
            .map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(Error::Random)?;
    Ok(bytes)
}

//! SHA-256 fingerprints of certificates and public keys, and the short code that people compare.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use ring::{digest, pbkdf2};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result, base32};

/// SHA-256 of a DER encoding; its text form is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub(crate) [u8; 32]);

impl Fingerprint {
    /// The fingerprint of some DER.
    pub fn of(der: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| Error::Fingerprint)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Makes the search for another key with the same forty bits this much dearer, at about a
/// millisecond per code.
const SHORT_CODE_ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not zero");
const SHORT_CODE_SALT: &[u8] = b"weft short code v1";

/// The code `ABCD-EFGH` of a public key (SubjectPublicKeyInfo, DER), printed by the machine that
/// wants to join and by the server, for a person to compare before `weft node approve`.
///
/// Forty bits of PBKDF2-HMAC-SHA256 (RFC 8018): whoever wants to slip in a key of theirs under the
/// same code has to try 2⁴⁰ keys at 4096 iterations each while the request is pending.
pub fn short_code(public_key_der: &[u8]) -> String {
    let mut bits = [0; base32::CODE_BYTES];
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        SHORT_CODE_ITERATIONS,
        SHORT_CODE_SALT,
        public_key_der,
        &mut bits,
    );
    let code = base32::encode(bits).to_ascii_uppercase();
    let (left, right) = code.split_at(base32::CODE_CHARS / 2);
    format!("{left}-{right}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_sha_256_in_hex_and_reads_back() {
        let empty = Fingerprint::of(b"");
        let text = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.to_string(), text);
        assert_eq!(text.parse::<Fingerprint>().unwrap(), empty);
        assert!("e3b0".parse::<Fingerprint>().is_err());
    }

    #[test]
    fn a_short_code_has_two_groups_of_four_and_depends_on_the_key() {
        let code = short_code(b"a key");
        assert_eq!((code.len(), code.as_bytes()[4]), (9, b'-'), "{code}");
        assert_eq!(code, short_code(b"a key"));
        assert_ne!(code, short_code(b"another key"));
    }
}

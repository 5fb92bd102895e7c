//! Identifiers: of jobs, nodes, workloads and namespaces.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of a node, workload or namespace, in bytes (a DNS label).
pub const MAX_NAME_BYTES: usize = 63;

/// Identifies one job on one cluster.
///
/// The number grows with time, so that jobs sort by age; its text form `job-` and 13 characters
/// of Crockford's base 32 is a bijective scramble of it, so that a few characters are enough of
/// a prefix for a person to type.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Crockford's base 32 in lower case: no `i`, `l`, `o` or `u`.
const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_CHARS: usize = 13;

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection on 64 bits.
fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The inverse of [`scramble`], with the modular inverses of its constants.
fn unscramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 31) ^ (x >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    x = (x ^ (x >> 27) ^ (x >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    x ^ (x >> 30) ^ (x >> 60)
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = scramble(self.0);
        let mut text = [0u8; ID_CHARS];
        for slot in text.iter_mut().rev() {
            *slot = BASE32[(bits & 31) as usize];
            bits >>= 5;
        }
        f.write_str("job-")?;
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not a job id: expected job- and 13 characters");
        let digits = text.strip_prefix("job-").ok_or_else(malformed)?;
        if digits.len() != ID_CHARS {
            return Err(malformed());
        }
        let mut bits = 0u64;
        for (position, byte) in digits.bytes().enumerate() {
            let value = BASE32
                .iter()
                .position(|&b| b == byte.to_ascii_lowercase())
                .ok_or_else(malformed)? as u64;
            // Thirteen digits hold 65 bits: the first may only carry four.
            if position == 0 && value > 15 {
                return Err(malformed());
            }
            bits = (bits << 5) | value;
        }
        Ok(Self(unscramble(bits)))
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// Identifies a workload for its whole life, whatever becomes of its name: `wl-` and 13 characters
/// of the same base 32 as a job's id. A workload that is deleted and applied again is another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadId(pub u64);

/// One instance of a workload on one node: `wl-…-7`. Its number is never given twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId {
    /// Whose instance it is.
    pub workload: WorkloadId,
    /// Which one, from 1.
    pub number: u32,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = JobId(self.0).to_string();
        write!(f, "wl-{}", &job["job-".len()..])
    }
}

impl FromStr for WorkloadId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not a workload id: expected wl- and 13 characters");
        let digits = text.strip_prefix("wl-").ok_or_else(malformed)?;
        let job: JobId = format!("job-{digits}").parse().map_err(|_| malformed())?;
        Ok(Self(job.0))
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.workload, self.number)
    }
}

impl FromStr for UnitId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("`{text}` is not a unit id: expected wl-…-NUMBER");
        let (workload, number) = text.rsplit_once('-').ok_or_else(malformed)?;
        Ok(Self {
            workload: workload.parse()?,
            number: number.parse().map_err(|_| malformed())?,
        })
    }
}

macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

text_form!(WorkloadId);
text_form!(UnitId);

fn check_name(what: &str, text: &str) -> Result<(), String> {
    let allowed =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES {
        return Err(format!(
            "a {what} has 1 to {MAX_NAME_BYTES} characters, not {}",
            bytes.len()
        ));
    }
    if !bytes.iter().all(|&b| allowed(b)) || !edge(bytes.first()) || !edge(bytes.last()) {
        return Err(format!(
            "a {what} has lower-case letters, digits, `-`, `_` and `.`, and begins and ends with a letter or digit; got {text:?}"
        ));
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                check_name($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// Identifies a node for its whole life, whatever its address; also the last segment of its
    /// SPIFFE ID.
    NodeId,
    "node id"
);
name_type!(
    /// The name of a workload within its namespace.
    WorkloadName,
    "workload name"
);
name_type!(
    /// A tenant: owns workloads, quotas and budgets.
    Namespace,
    "namespace"
);

impl Default for Namespace {
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn job_id_text_round_trips(number: u64) {
            let id = JobId(number);
            prop_assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        }

        #[test]
        fn parsing_a_job_id_never_panics(text in "\\PC*") {
            let _ = text.parse::<JobId>();
        }
    }

    #[test]
    fn neighbouring_job_ids_differ_in_their_first_characters() {
        let first: Vec<_> = (0..4)
            .map(|n| JobId(1_000_000 + n).to_string()[..8].to_owned())
            .collect();
        let distinct: std::collections::BTreeSet<_> = first.iter().collect();
        assert_eq!(distinct.len(), first.len(), "{first:?}");
    }

    #[test]
    fn names_that_could_escape_a_path_or_a_key_are_refused() {
        for bad in ["", "..", "a/b", "A", "a b", "-a", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
        assert!("node-1.lan_2".parse::<NodeId>().is_ok());
    }
}

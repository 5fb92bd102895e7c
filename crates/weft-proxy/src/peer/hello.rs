//! The first bytes on a connection between nodes: which port of which unit is wanted, and whether
//! it can be had. Of fixed length, so that nothing of a stranger's is ever stored.
//!
//! | bytes | |
//! | --- | --- |
//! | 4 | `weft` |
//! | 1 | version, 1 |
//! | 1 | 1: bytes, 2: HTTP/1.1 |
//! | 8, 4 | workload and number of the unit, big-endian |
//! | 2 | port inside the unit, big-endian |
//!
//! Answered by one byte, [`Reply`]; after [`Reply::Ok`] the wanted protocol begins.

use weft_types::{UnitId, WorkloadId};

const MAGIC: [u8; 4] = *b"weft";
const VERSION: u8 = 1;
pub(crate) const HELLO_BYTES: usize = 20;

/// What is spoken after the hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Bytes of one connection.
    Tcp = 1,
    /// HTTP/1.1 requests, one after the other.
    Http = 2,
}

/// What the calling node wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hello {
    pub(crate) kind: Kind,
    pub(crate) unit: UnitId,
    pub(crate) target: u16,
}

/// The answer to a hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Ok = 0,
    /// The unit does not run here or has no such port.
    Unknown = 1,
    /// It is not ready, or about to be stopped.
    NotReady = 2,
    /// It did not take the connection.
    Unreachable = 3,
    /// The hello is of another version or malformed.
    Malformed = 4,
}

impl Hello {
    pub(crate) fn encode(self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = self.kind as u8;
        bytes[6..14].copy_from_slice(&self.unit.workload.0.to_be_bytes());
        bytes[14..18].copy_from_slice(&self.unit.number.to_be_bytes());
        bytes[18..].copy_from_slice(&self.target.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HELLO_BYTES]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<6>()?;
        let (workload, rest) = rest.split_first_chunk::<8>()?;
        let (number, target) = rest.split_first_chunk::<4>()?;
        let kind = match head {
            [b'w', b'e', b'f', b't', VERSION, 1] => Kind::Tcp,
            [b'w', b'e', b'f', b't', VERSION, 2] => Kind::Http,
            _ => return None,
        };
        Some(Self {
            kind,
            unit: UnitId {
                workload: WorkloadId(u64::from_be_bytes(*workload)),
                number: u32::from_be_bytes(*number),
            },
            target: u16::from_be_bytes(target.try_into().ok()?),
        })
    }
}

impl Reply {
    pub(crate) fn decode(byte: u8) -> Self {
        match byte {
            0 => Self::Ok,
            1 => Self::Unknown,
            2 => Self::NotReady,
            3 => Self::Unreachable,
            _ => Self::Malformed,
        }
    }

    /// What it means, after "the node says that the replica".
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "is there",
            Self::Unknown => "does not run there",
            Self::NotReady => "is not ready",
            Self::Unreachable => "does not answer",
            Self::Malformed => "cannot be asked for: it runs another version of Weft",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_survives_its_bytes() {
        for kind in [Kind::Tcp, Kind::Http] {
            let hello = Hello {
                kind,
                unit: UnitId {
                    workload: WorkloadId(u64::MAX - 3),
                    number: 70_000,
                },
                target: 8_080,
            };
            assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        }
    }

    #[test]
    fn another_version_another_kind_and_garbage_are_refused() {
        let good = Hello {
            kind: Kind::Tcp,
            unit: UnitId {
                workload: WorkloadId(1),
                number: 1,
            },
            target: 1,
        }
        .encode();
        for (position, byte) in [(0, b'W'), (4, 2), (5, 0), (5, 3)] {
            let mut bad = good;
            bad[position] = byte;
            assert_eq!(Hello::decode(&bad), None);
        }
        for byte in 4..=u8::MAX {
            assert_eq!(Reply::decode(byte), Reply::Malformed);
        }
    }
}

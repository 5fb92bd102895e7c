//! What operations find.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::Op;

/// What one operation found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpResult {
    /// Which operation.
    pub op: Op,
    /// The count, checksum, hash, XOR or sum.
    pub value: u64,
    /// How many bytes it looked at.
    pub bytes: u64,
}

impl Serialize for OpResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("op", &self.op)?;
        match self.op {
            Op::CountEq => map.serialize_entry("count", &self.value)?,
            Op::Crc32c => map.serialize_entry("checksum", &self.value)?,
            Op::Fnv64 => map.serialize_entry("hash", &format_args!("{:016x}", self.value))?,
            Op::Xor | Op::Add => map.serialize_entry("result", &self.value)?,
        }
        map.serialize_entry("bytes", &self.bytes)?;
        map.end()
    }
}

/// What a program found: one result, or `{"results": […]}` for a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Results {
    /// One for each operation, in their order.
    pub results: Vec<OpResult>,
    /// Whether the program was written as a list.
    pub is_list: bool,
}

impl Serialize for Results {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.results.as_slice() {
            [only] if !self.is_list => only.serialize(serializer),
            several => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("results", several)?;
                map.end()
            }
        }
    }
}

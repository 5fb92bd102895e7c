//! Byte operations (counteq, crc32c, fnv64, xor, add) at memory speed
/// A program over bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Program { op: String, imm: Option<u8> }
impl Program {
    /// The binary form.
    pub fn encode(&self) -> Vec<u8> { self.op.clone().into_bytes() }
}

//! Frames: how records lie in a segment.
//!
//! `magic u32 · length u32 · CRC-32C u32 over the body · body`, all little-endian. A segment
//! begins with a header of its own and ends where no frame follows.

/// Begins every frame; zeros of preallocated space are none.
const MAGIC: u32 = 0x5746_5231;
/// Bytes before the body.
pub(crate) const HEAD_BYTES: usize = 12;
/// The largest body, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 20;

/// Appends a frame around a body that `write` produces.
pub(crate) fn write_frame(buffer: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.extend_from_slice(&[0; HEAD_BYTES]);
    write(buffer);
    let body = &buffer[start + HEAD_BYTES..];
    // Records are bounded well below 4 GiB when they are made.
    let (length, crc) = (body.len() as u32, crc32c::crc32c(body));
    buffer[start..start + 4].copy_from_slice(&MAGIC.to_le_bytes());
    buffer[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    buffer[start + 8..start + 12].copy_from_slice(&crc.to_le_bytes());
}

/// What is at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found<'a> {
    /// A whole frame with its body.
    Frame(&'a [u8]),
    /// Nothing was ever written here.
    End,
    /// Something that is no whole frame.
    Broken,
}

/// Looks at the beginning of some bytes.
pub(crate) fn frame_at(bytes: &[u8]) -> Found<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
        return if bytes.iter().all(|byte| *byte == 0) {
            Found::End
        } else {
            Found::Broken
        };
    };
    if head.iter().all(|byte| *byte == 0) {
        return Found::End;
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = word(4) as usize;
    if word(0) != MAGIC || length > MAX_BODY_BYTES || length > rest.len() {
        return Found::Broken;
    }
    let body = &rest[..length];
    if crc32c::crc32c(body) == word(8) {
        Found::Frame(body)
    } else {
        Found::Broken
    }
}

/// The place of the next whole frame at or after `from`.
pub(crate) fn next_frame(bytes: &[u8], from: usize) -> Option<usize> {
    let magic = MAGIC.to_le_bytes();
    let mut at = from;
    while let Some(offset) = bytes
        .get(at..)?
        .windows(4)
        .position(|window| window == magic)
    {
        at += offset;
        if matches!(frame_at(&bytes[at..]), Found::Frame(_)) {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Walks over all frames of some bytes, broken parts passed over; for tests and fuzzing.
pub fn scan(bytes: &[u8], mut each: impl FnMut(usize, &[u8])) {
    let mut at = 0;
    while at < bytes.len() {
        match frame_at(&bytes[at..]) {
            Found::Frame(body) => {
                each(at, body);
                at += HEAD_BYTES + body.len();
            }
            Found::End | Found::Broken => match next_frame(bytes, at + 1) {
                Some(next) => at = next,
                None => return,
            },
        }
    }
}

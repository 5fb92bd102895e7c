//! The end of an archive that was not written to its last block.
//!
//! A file's content is filled up to 512 bytes. Some writers leave that out after the last file, and
//! the marks of the end too; Go's `archive/tar`, with which every engine reads, takes that for the
//! end, so such layers are about.

use std::io::{self, Read};

const BLOCK_BYTES: u64 = 512;

/// What is read, and zeros up to a whole block after its end.
pub(super) struct Padded<R> {
    source: R,
    read: u64,
    has_ended: bool,
}

impl<R> Padded<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            read: 0,
            has_ended: false,
        }
    }

    pub(super) fn into_inner(self) -> R {
        self.source
    }
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let mut count = 0;
        if !self.has_ended {
            count = self.source.read(into)?;
            self.has_ended = count == 0;
        }
        if self.has_ended {
            let missing = (BLOCK_BYTES - self.read % BLOCK_BYTES) % BLOCK_BYTES;
            count = into.len().min(missing as usize);
            into[..count].fill(0);
        }
        self.read += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_within_a_block_is_filled_up_and_what_does_not_stays() {
        for (length, filled) in [(0, 0), (1, 512), (512, 512), (513, 1_024)] {
            let mut text = Vec::new();
            let source = vec![7u8; length];
            Padded::new(source.as_slice())
                .read_to_end(&mut text)
                .expect("it is read");
            assert_eq!(text.len(), filled, "{length}");
            assert!(text[length..].iter().all(|&byte| byte == 0));
        }
    }
}

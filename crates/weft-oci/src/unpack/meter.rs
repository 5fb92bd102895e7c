//! Counts and hashes what comes out of a compressed archive, and stops bombs.

use std::io::{self, Read};

use ring::digest::{Context, SHA256};

use super::Limits;
use super::decode::Decoder;
use crate::image::{Compression, Digest};

/// Counts what is read through it.
pub(super) struct Counted<R> {
    source: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(into)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// The uncompressed archive.
pub(super) struct Meter<R: Read> {
    decoder: Decoder<Counted<R>>,
    limits: Limits,
    bytes: u64,
    hash: Context,
}

impl<R: Read> Meter<R> {
    pub(super) fn new(archive: R, compression: Compression, limits: Limits) -> Self {
        let counted = Counted {
            source: archive,
            bytes: 0,
        };
        Self {
            decoder: Decoder::new(counted, compression),
            limits,
            bytes: 0,
            hash: Context::new(&SHA256),
        }
    }

    /// The digest and length of all that was read.
    pub(super) fn finish(self) -> (Digest, u64) {
        (Digest::from_ring(&self.hash.finish()), self.bytes)
    }

    fn check(&self) -> io::Result<()> {
        if self.bytes > self.limits.bytes {
            return Err(io::Error::other(format!(
                "it unpacks to more than {} bytes",
                self.limits.bytes
            )));
        }
        let source_bytes = self.decoder.source().bytes.max(1);
        if self.bytes > Limits::RATIO_FROM_BYTES && self.bytes / source_bytes > self.limits.ratio {
            return Err(io::Error::other(format!(
                "it unpacks to more than {} times its size",
                self.limits.ratio
            )));
        }
        Ok(())
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.decoder.read(into)?;
        self.bytes += read as u64;
        self.hash.update(&into[..read]);
        self.check()?;
        Ok(read)
    }
}

//! Compiled code on disk.
//!
//! One file a module, `<hash of the module>-<hash of the engine>.cwasm`: the engine's own format and then the BLAKE3
//! hash of it. Compiled code is executed as it is, so that the directory must be ours alone and a file that was torn
//! or has rotted must be noticed.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use wasmtime::Engine;
use weft_types::BlobHash;

use crate::Error;
use crate::workdir::private_dir;

const SUFFIX: &str = "cwasm";
const HASH_BYTES: usize = 32;
/// Code kept on disk; the oldest goes first.
const MAX_CACHE_BYTES: u64 = 1 << 30;

/// The cache of compiled code of one engine.
pub(super) struct CodeCache {
    dir: PathBuf,
    engine_hash: u64,
    next_temporary: AtomicU64,
}

impl CodeCache {
    pub(super) fn open(dir: PathBuf, engine: &Engine) -> Result<Self, Error> {
        private_dir(&dir)?;
        // Stable for one build of this program, which is all a cache needs.
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            dir,
            engine_hash: hasher.finish(),
            next_temporary: AtomicU64::new(0),
        })
    }

    fn path(&self, module: &BlobHash) -> PathBuf {
        self.dir
            .join(format!("{module}-{:016x}.{SUFFIX}", self.engine_hash))
    }

    /// The code of a module, if it is here and whole.
    pub(super) fn get(&self, module: &BlobHash) -> Option<Vec<u8>> {
        let mut bytes = fs::read(self.path(module)).ok()?;
        let code_bytes = bytes.len().checked_sub(HASH_BYTES)?;
        let hash = blake3::hash(&bytes[..code_bytes]);
        if hash.as_bytes() != &bytes[code_bytes..] {
            tracing::warn!(%module, "compiled code on disk is damaged; it is compiled again");
            return None;
        }
        bytes.truncate(code_bytes);
        Some(bytes)
    }

    /// Keeps the code of a module, and makes room for it.
    pub(super) fn put(&self, module: &BlobHash, code: &[u8]) -> io::Result<()> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self
            .dir
            .join(format!("{}-{number}.tmp", std::process::id()));
        let written =
            write(&temporary, code).and_then(|()| fs::rename(&temporary, self.path(module)));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        self.shrink(MAX_CACHE_BYTES)
    }

    /// Removes the oldest code until all of it takes at most `max_bytes`.
    fn shrink(&self, max_bytes: u64) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            files.push((meta.modified()?, meta.len(), entry.path()));
        }
        let mut total_bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        files.sort();
        for (_, bytes, path) in files {
            if total_bytes <= max_bytes {
                break;
            }
            fs::remove_file(path)?;
            total_bytes -= bytes;
        }
        Ok(())
    }
}

fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(code)?;
    file.write_all(blake3::hash(code).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path) -> CodeCache {
        CodeCache::open(dir.join("code"), &Engine::default()).unwrap()
    }

    #[test]
    fn code_with_any_byte_changed_or_missing_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let module = BlobHash([7; 32]);
        cache.put(&module, b"machine code").unwrap();
        assert_eq!(cache.get(&module).as_deref(), Some(&b"machine code"[..]));
        let whole = fs::read(cache.path(&module)).unwrap();
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            fs::write(cache.path(&module), damaged).unwrap();
            assert_eq!(cache.get(&module), None, "flipped at {position}");
            fs::write(cache.path(&module), &whole[..position]).unwrap();
            assert_eq!(cache.get(&module), None, "cut at {position}");
        }
    }

    #[test]
    fn the_cache_stays_within_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        for number in 0..5 {
            cache.put(&BlobHash([number; 32]), &[0; 100]).unwrap();
        }
        cache.shrink(300).unwrap();
        assert_eq!(
            (0..5)
                .filter(|&number| cache.get(&BlobHash([number; 32])).is_some())
                .count(),
            2
        );
    }
}

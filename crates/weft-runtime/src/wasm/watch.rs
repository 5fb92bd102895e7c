//! What is looked at while a program runs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wasmtime::{Store, UpdateDeadline};

use super::host::Host;

/// Ticks between two measurements of the disk.
const TICKS_PER_MEASUREMENT: u32 = 25;
/// Unit of `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;
/// What an entry of a directory counts for beside its content, so that empty files are not free.
const ENTRY_BYTES: u64 = 256;

/// A program wrote more than its disk limit.
#[derive(Debug, thiserror::Error)]
#[error("it used more than its disk limit of {limit_bytes} bytes")]
pub(super) struct DiskExceeded {
    pub(super) limit_bytes: u64,
}

/// Has the program give way at every tick, and measures its directory now and then. A `limit_bytes` of 0 is none.
pub(super) fn install(store: &mut Store<Host>, dir: PathBuf, limit_bytes: u64) {
    let mut ticks = 0;
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        ticks += 1;
        if ticks % TICKS_PER_MEASUREMENT == 0 {
            check_disk(&dir, limit_bytes)?;
        }
        Ok(UpdateDeadline::Yield(1))
    });
}

/// # Errors
/// When more is used beneath `dir` than `limit_bytes`; 0 is no limit.
pub(super) fn check_disk(dir: &Path, limit_bytes: u64) -> Result<(), DiskExceeded> {
    if limit_bytes > 0 && used_bytes(dir, limit_bytes) > limit_bytes {
        return Err(DiskExceeded { limit_bytes });
    }
    Ok(())
}

/// Disk used beneath `root`, counted no further than just beyond `enough_bytes`.
fn used_bytes(root: &Path, enough_bytes: u64) -> u64 {
    let mut used_bytes = 0;
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            // Of the entry itself: links are not followed. What is gone meanwhile uses nothing.
            let Ok(meta) = entry.metadata() else { continue };
            used_bytes += meta.blocks() * BLOCK_BYTES + ENTRY_BYTES;
            if used_bytes > enough_bytes {
                return used_bytes;
            }
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    used_bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_empty_entries_count_and_holes_do_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("hole"))
            .unwrap()
            .set_len(1 << 30)
            .unwrap();
        assert!(check_disk(dir.path(), 1 << 20).is_ok());
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/full"), vec![1; 2 << 20]).unwrap();
        assert!(check_disk(dir.path(), 1 << 20).is_err());
        assert!(check_disk(dir.path(), 0).is_ok());
        let many = tempfile::tempdir().unwrap();
        for number in 0..100 {
            fs::write(many.path().join(number.to_string()), "").unwrap();
        }
        assert!(check_disk(many.path(), 100 * ENTRY_BYTES - 1).is_err());
    }
}

//! Watching how much disk tasks use.
//!
//! No quota works on every file system, and `RLIMIT_FSIZE` bounds one file only. So the directories of tasks that run
//! for a while are measured every so often, in the agent, which has threads for it.

use crate::connection::Command;
use crate::frame::Request;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::sync::mpsc::WeakUnboundedSender;
use tokio::task::AbortHandle;

/// Between looks; also the age at which a task is first looked at.
const PERIOD: Duration = Duration::from_millis(250);
/// A directory is measured again after this many times what measuring it took.
const REST_FACTOR: u32 = 20;
/// Entries counted in one directory tree; a tree with more is over its limit by their metadata alone.
const MAX_ENTRIES: usize = 200_000;
/// Bytes of a block in `st_blocks` (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// Measures directories and has the spawner kill those whose limit is exceeded.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    watched: Mutex<BTreeMap<u64, Entry>>,
    added: Notify,
}

#[derive(Clone, Debug)]
struct Entry {
    directory: PathBuf,
    limit_bytes: u64,
    due: Instant,
}

/// Ends the watch on a process when dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.entries().remove(&self.id);
    }
}

impl Shared {
    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Entry>> {
        // Nothing panics while it holds the lock.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn due(&self, now: Instant) -> Vec<(u64, Entry)> {
        let entries = self.entries();
        let due = entries.iter().filter(|(_, entry)| entry.due <= now);
        due.map(|(id, entry)| (*id, entry.clone())).collect()
    }
}

impl DiskWatch {
    pub(crate) fn start(commands: WeakUnboundedSender<Command>, reserve_bytes: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(watch(Arc::clone(&shared), commands, reserve_bytes)).abort_handle();
        Self { shared, task }
    }

    /// Watches a process until the result is dropped.
    pub(crate) fn watch(&self, id: u64, directory: PathBuf, limit_bytes: u64) -> Watched {
        let entry = Entry {
            directory,
            limit_bytes,
            due: Instant::now() + PERIOD,
        };
        self.shared.entries().insert(id, entry);
        self.shared.added.notify_one();
        Watched {
            shared: Arc::clone(&self.shared),
            id,
        }
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(shared: Arc<Shared>, commands: WeakUnboundedSender<Command>, reserve_bytes: u64) {
    loop {
        if shared.entries().is_empty() {
            shared.added.notified().await;
        }
        tokio::time::sleep(PERIOD).await;
        for (id, entry) in shared.due(Instant::now()) {
            let measured =
                tokio::task::spawn_blocking(move || is_exceeded(&entry, reserve_bytes)).await;
            let Ok((exceeded, took)) = measured else {
                continue;
            };
            if let Some(entry) = shared.entries().get_mut(&id) {
                entry.due = Instant::now() + PERIOD.max(took * REST_FACTOR);
            }
            if exceeded {
                let Some(commands) = commands.upgrade() else {
                    return;
                };
                // When the connection is gone, so is the process.
                let _ = commands.send(Command::Send(Request::KillForDisk { id }));
            }
        }
    }
}

/// Whether the limit or the reserve is exceeded, and how long it took to find out.
fn is_exceeded(entry: &Entry, reserve_bytes: u64) -> (bool, Duration) {
    let start = Instant::now();
    let exceeded = free_bytes(&entry.directory).is_some_and(|free| free < reserve_bytes)
        || used_bytes(&entry.directory, entry.limit_bytes) > entry.limit_bytes;
    (exceeded, start.elapsed())
}

fn free_bytes(directory: &Path) -> Option<u64> {
    let state = rustix::fs::statvfs(directory).ok()?;
    Some(state.f_bavail.saturating_mul(state.f_frsize))
}

/// Bytes of disk used beneath a directory, not following links and not leaving its file system; it stops counting
/// when `enough` is exceeded.
fn used_bytes(directory: &Path, enough: u64) -> u64 {
    let Ok(device) = std::fs::symlink_metadata(directory).map(|state| state.dev()) else {
        return 0;
    };
    let mut used: u64 = 0;
    let mut entries_left = MAX_ENTRIES;
    let mut directories = vec![directory.to_path_buf()];
    while let Some(next) = directories.pop() {
        // What vanishes while it is counted uses nothing.
        let Ok(entries) = std::fs::read_dir(next) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(state) = entry.metadata() else {
                continue;
            };
            used = used.saturating_add(state.blocks().saturating_mul(BLOCK_BYTES));
            if state.is_dir() && state.dev() == device {
                directories.push(entry.path());
            }
            entries_left -= 1;
            if entries_left == 0 {
                return u64::MAX;
            }
            if used > enough {
                return used;
            }
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_subdirectories_count_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        std::fs::write(directory.path().join("below/file"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/usr", directory.path().join("usr")).unwrap();
        let used = used_bytes(directory.path(), u64::MAX);
        assert!((100_000..1_000_000).contains(&used), "{used}");
    }
}

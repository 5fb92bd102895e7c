//! Locks in files, that hold between agents, between instances of one, and end with their holder.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::Error;
use crate::error::During;
use crate::files;

const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hold {
    Shared,
    Exclusive,
}

/// A held lock.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: File,
}

impl FileLock {
    /// Takes the lock if nobody has it.
    pub(crate) fn try_take(path: &Path, hold: Hold) -> Result<Option<Self>, Error> {
        let what = || format!("lock {}", path.display());
        let operation = match hold {
            Hold::Shared => FlockOperation::NonBlockingLockShared,
            Hold::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .during(what)?;
        match rustix::fs::flock(&file, operation) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            other => other.during(what)?,
        }
        // The holder before may have removed the file, and others lock the next one.
        let mine = file.metadata().during(what)?;
        let is_current = std::fs::metadata(path).is_ok_and(|found| found.ino() == mine.ino());
        Ok(is_current.then_some(Self { _file: file }))
    }

    /// Waits for the lock. Holders keep it shortly, or while they fetch what the waiter wants too.
    pub(crate) async fn take(path: &Path, hold: Hold) -> Result<Self, Error> {
        let mut wait = FIRST_WAIT;
        loop {
            if let Some(lock) = Self::try_take(path, hold)? {
                return Ok(lock);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Waits for the lock on a thread that may wait.
    pub(crate) fn take_blocking(path: &Path) -> Result<Self, Error> {
        loop {
            if let Some(lock) = Self::try_take(path, Hold::Exclusive)? {
                return Ok(lock);
            }
            std::thread::sleep(FIRST_WAIT);
        }
    }

    /// Removes the file of a lock that is about to be given back.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), Error> {
        files::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = FileLock::try_take(&path, Hold::Exclusive).unwrap().unwrap();
        assert!(FileLock::try_take(&path, Hold::Shared).unwrap().is_none());
        held.remove(&path).unwrap();
        drop(held);
        let one = FileLock::try_take(&path, Hold::Shared).unwrap();
        let two = FileLock::try_take(&path, Hold::Shared).unwrap();
        assert!(one.is_some() && two.is_some());
        assert!(
            FileLock::try_take(&path, Hold::Exclusive)
                .unwrap()
                .is_none()
        );
    }
}

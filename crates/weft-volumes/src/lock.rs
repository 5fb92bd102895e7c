//! One at a time, also over processes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::Error;
use crate::error::At;

/// Held while anything of a workload is changed; let go of when dropped, also by death.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Waits for it. It is held for seconds at most: every program that runs meanwhile has a limit.
    pub fn take(path: &Path) -> Result<Self, Error> {
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .at(path)?;
            flock(&file, FlockOperation::LockExclusive).at(path)?;
            // Whoever held it may have removed the file meanwhile: then this lock locks nothing.
            let held = file.metadata().at(path)?.ino();
            if fs::metadata(path).is_ok_and(|now| now.ino() == held) {
                return Ok(Self { file });
            }
        }
    }

    /// Removes the file, for a workload that has nothing any more.
    pub fn remove(self, path: &Path) -> Result<(), Error> {
        let removed = fs::remove_file(path).at(path);
        drop(self.file);
        removed
    }
}

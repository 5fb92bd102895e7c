//! Tying an error of the system to the step that failed.

use crate::{SpawnFailure, Stage};
use rustix::io::Errno;

/// Adds the stage to an error.
pub(crate) trait At<T> {
    /// The result, failing at `stage`.
    fn at(self, stage: Stage) -> Result<T, SpawnFailure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage) -> Result<T, SpawnFailure> {
        self.map_err(|errno| SpawnFailure {
            stage,
            errno: errno.raw_os_error(),
        })
    }
}

impl<T> At<T> for Result<T, std::io::Error> {
    fn at(self, stage: Stage) -> Result<T, SpawnFailure> {
        self.map_err(|error| SpawnFailure {
            stage,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })
    }
}

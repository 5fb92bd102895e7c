//! What became of a task.

use std::time::Duration;

use bytes::Bytes;
use weft_types::{Failure, Reason};

use crate::{Captured, OutFile, WorkDir};

/// Exit code for a command that does not exist, as a shell has it.
pub(crate) const EXIT_NOT_FOUND: i32 = 127;
/// Exit code for a command that cannot be executed, as a shell has it.
pub(crate) const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Added to the number of the signal that ended a process, as a shell does.
pub(crate) const EXIT_SIGNAL_BASE: i32 = 128;

/// The end of one attempt of a task.
///
/// | what happened | reason | `exit_code` |
/// | --- | --- | --- |
/// | ended with 0 | completed | 0 |
/// | ended with n | `nonzero-exit` | n |
/// | ended by signal n | `nonzero-exit` | 128 + n |
/// | time limit | `timeout` | |
/// | memory limit | `oom-killed` | 128 + 9 for a process |
/// | disk limit, full disk, SIGXFSZ | `storage-error` | of the process, if it had one |
/// | somebody cancelled it | `cancelled` | |
/// | program not found | `invalid-spec` | 127 |
/// | program not executable | `permission-denied` | 126 |
/// | module or byte program malformed | `invalid-spec` | |
/// | module trapped | `runtime-error` | |
/// | sandbox not available | `runtime-unavailable` | |
#[derive(Debug, Default)]
pub struct Outcome {
    /// Why it failed; `None` when it completed.
    pub failure: Option<Failure>,
    /// JSON of a byte program's result.
    pub result: Option<Bytes>,
    /// Exit code as a shell would show it.
    pub exit_code: Option<i32>,
    /// The signal that ended the process.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: Captured,
    /// Standard error.
    pub stderr: Captured,
    /// Regular files it left in `$WEFT_OUT`, by path. They exist as long as this outcome.
    pub files: Vec<OutFile>,
    /// Why some of what it left in `$WEFT_OUT` is not among `files`; one sentence each, bounded.
    pub skipped_files: Vec<String>,
    /// What it used.
    pub used: Used,
    /// Its working directory, cleared on drop.
    pub(crate) work_dir: Option<WorkDir>,
}

/// What a task used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    /// CPU time, microseconds.
    pub cpu_us: u64,
    /// Largest memory, bytes; 0 when not measured.
    pub peak_memory_bytes: u64,
    /// Wall time from start to end, microseconds.
    pub run_us: u64,
}

impl Outcome {
    /// An attempt that failed before it ran.
    pub fn failed(failure: Failure) -> Self {
        Self {
            failure: Some(failure),
            ..Self::default()
        }
    }

    /// Why it failed; `None` when it completed.
    pub fn reason(&self) -> Option<Reason> {
        self.failure.as_ref().map(|failure| failure.reason)
    }
}

impl Used {
    pub(crate) fn wall(elapsed: Duration) -> u64 {
        u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
    }
}

pub(crate) fn cancelled() -> Failure {
    Failure::new(Reason::Cancelled, "it was cancelled")
}

pub(crate) fn timed_out(limit: Option<Duration>) -> Failure {
    let limit = limit.map_or_else(
        || "its time limit".to_owned(),
        |limit| format!("its time limit of {}", weft_types::format_duration(limit)),
    );
    Failure::new(
        Reason::Timeout,
        format!("it was still running after {limit}"),
    )
    .with_next("raise `timeout`")
}

/// The failure of an I/O operation on the node's disk.
pub(crate) fn storage(context: &str, error: &std::io::Error) -> Failure {
    Failure::new(Reason::StorageError, format!("{context}: {error}"))
}

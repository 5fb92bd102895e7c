//! What to run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use weft_types::{BlobHash, Failure, JobId, Program, Reason, Resources, RuntimeKind, SandboxMode};

use crate::{MAX_OUT_FILES_BYTES, MAX_OUTPUT_BYTES};

/// One attempt of one task, with everything it needs at hand.
#[derive(Clone, Debug)]
pub struct TaskRun {
    /// Its job.
    pub job: JobId,
    /// Its number within the job; replaces `{index}`.
    pub index: u32,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What to run.
    pub work: Work,
    /// Environment that the user asked for; the `WEFT_*` variables are added.
    pub env: BTreeMap<String, String>,
    /// Its input.
    pub input: Input,
    /// Wall time it may take; `None` for no limit.
    pub timeout: Option<Duration>,
    /// What it may use. Zero memory or disk is no limit.
    pub resources: Resources,
}

impl TaskRun {
    /// The variables that tell a task which one it is.
    pub(crate) fn identity(&self) -> [(&'static str, String); 4] {
        [
            ("WEFT_JOB", self.job.to_string()),
            ("WEFT_TASK", format!("{}/{}", self.job, self.index)),
            ("WEFT_TASK_INDEX", self.index.to_string()),
            ("WEFT_ATTEMPT", self.attempt.to_string()),
        ]
    }

    /// Output kept per stream: at most what the task may write to disk.
    pub(crate) fn output_limit_bytes(&self) -> u64 {
        self.out_files_limit_bytes().min(MAX_OUTPUT_BYTES)
    }

    /// Bytes of files taken: at most what the task may write to disk.
    pub(crate) fn out_files_limit_bytes(&self) -> u64 {
        match self.resources.disk.0 {
            0 => MAX_OUT_FILES_BYTES,
            disk_bytes => disk_bytes,
        }
    }
}

/// What to run, by runtime.
#[derive(Clone, Debug)]
pub enum Work {
    /// A byte program over the input.
    Op(Program),
    /// A WebAssembly program with WASI.
    Wasm {
        /// The program.
        module: Module,
        /// Its arguments, without its name. `{}` and `{index}` are replaced.
        args: Vec<String>,
    },
    /// A process.
    Process {
        /// Program and arguments. `{}` and `{index}` are replaced.
        command: Vec<String>,
        /// How strongly it is contained.
        sandbox: SandboxMode,
    },
}

impl Work {
    /// The runtime it needs.
    pub fn kind(&self) -> RuntimeKind {
        match self {
            Self::Op(_) => RuntimeKind::Op,
            Self::Wasm { .. } => RuntimeKind::Wasm,
            Self::Process { .. } => RuntimeKind::Process,
        }
    }
}

/// A WebAssembly program: a WASI preview 1 module or a WASI preview 2 command component, binary or text.
#[derive(Clone, Debug)]
pub struct Module {
    /// The address of its bytes, which the caller has verified.
    pub hash: BlobHash,
    /// Where its bytes are.
    pub source: ModuleSource,
}

/// Where the bytes of a module are.
#[derive(Clone, Debug)]
pub enum ModuleSource {
    /// In memory.
    Bytes(Bytes),
    /// In a file.
    File(PathBuf),
}

/// The input of a task.
///
/// A byte program reads it. A process or a module with a *named* input finds it as a file of that name in its
/// working directory, and the name replaces `{}` in its arguments; an input without a name is its standard input.
#[derive(Clone, Debug, Default)]
pub enum Input {
    /// Nothing.
    #[default]
    None,
    /// Bytes in memory.
    Bytes {
        /// The bytes.
        bytes: Bytes,
        /// The name in the working directory: a relative path without `..`.
        name: Option<String>,
    },
    /// A file on this machine, never changed.
    File {
        /// Where it is.
        path: PathBuf,
        /// The name in the working directory: a relative path without `..`.
        name: Option<String>,
        /// First byte of it to use.
        offset: u64,
        /// How many bytes of it to use; `None` for the rest.
        length: Option<u64>,
    },
}

impl Input {
    /// The name in the working directory.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Bytes { name, .. } | Self::File { name, .. } => name.as_deref(),
        }
    }
}

impl Input {
    /// The part of this input that begins at `offset` and has `length` bytes, or reaches to its end.
    ///
    /// # Errors
    /// `invalid-spec` when that reaches beyond it. Of a file this may show only when it is read.
    pub fn slice(self, offset: u64, length: Option<u64>) -> Result<Self, Failure> {
        match self {
            Self::None if offset == 0 && length.unwrap_or(0) == 0 => Ok(Self::None),
            Self::None => Err(beyond_input(offset, length)),
            Self::Bytes { bytes, name } => {
                let end = length.map_or(Some(bytes.len() as u64), |length| {
                    offset.checked_add(length)
                });
                match end {
                    Some(end) if offset <= end && end <= bytes.len() as u64 => {
                        let bytes = bytes.slice(offset as usize..end as usize);
                        Ok(Self::Bytes { bytes, name })
                    }
                    _ => Err(beyond_input(offset, length)),
                }
            }
            Self::File {
                path,
                name,
                offset: first,
                length: available,
            } => {
                if available
                    .is_some_and(|available| length.unwrap_or(0) > available.saturating_sub(offset))
                {
                    return Err(beyond_input(offset, length));
                }
                let length = length.or(available.map(|available| available.saturating_sub(offset)));
                Ok(Self::File {
                    path,
                    name,
                    offset: first.saturating_add(offset),
                    length,
                })
            }
        }
    }
}

pub(crate) fn beyond_input(offset: u64, length: Option<u64>) -> Failure {
    let detail = match length {
        Some(length) => format!("`offset` {offset} and `length` {length} reach beyond the input"),
        None => format!("`offset` {offset} is beyond the input"),
    };
    Failure::new(Reason::InvalidSpec, detail).with_next("correct `offset` and `length`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_stays_within_its_input() {
        let input = || Input::Bytes {
            bytes: Bytes::from_static(b"0123456789"),
            name: None,
        };
        for (offset, length, expected) in [
            (0, None, Some("0123456789")),
            (3, Some(2), Some("34")),
            (10, None, Some("")),
            (11, None, None),
            (9, Some(2), None),
            (u64::MAX, Some(u64::MAX), None),
        ] {
            let text = input().slice(offset, length).ok().map(|part| match part {
                Input::Bytes { bytes, .. } => String::from_utf8(bytes.to_vec()).unwrap(),
                other => panic!("{other:?}"),
            });
            assert_eq!(text.as_deref(), expected, "{offset} {length:?}");
        }
        assert!(Input::None.slice(0, Some(1)).is_err());
    }
}

//! One task of a job: what differs from its siblings.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{BlobHash, Program, TaskState};

/// What one task adds to or changes in its job; an empty object is a task like its job says.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TaskSpec {
    /// Input bytes, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Where to fetch the input from over HTTP(S).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_url: Option<String>,
    /// First byte of the input to use, with `data_url` as an HTTP range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Number of bytes of the input to use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// An artifact as the input.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub blob: Option<BlobHash>,
    /// The name under which the input appears in the working directory; replaces `{}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The program, in place of the job's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Object>))]
    pub op: Option<Program>,
    /// Arguments, in place of the job's (the command of a process, the arguments of a module).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment, over the job's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Tasks of the same job, by number, that must complete before this one begins. When one of
    /// them does not, this one is cancelled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<u32>,
    /// Time limit, in place of the job's.
    #[serde(
        with = "crate::serde_duration_opt",
        skip_serializing_if = "Option::is_none"
    )]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>, example = "5m"))]
    pub timeout: Option<Duration>,
}

/// Where a task's input bytes come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TaskInput {
    /// No input.
    None,
    /// Bytes carried with the task.
    Inline(Vec<u8>),
    /// An artifact.
    Blob(BlobHash),
    /// An HTTP(S) address.
    Url(String),
}

/// The most bytes of input a task may carry inline; larger inputs are artifacts.
pub const MAX_INLINE_DATA_BYTES: usize = 8 << 20;

/// The longest URL of an input, in bytes.
pub const MAX_URL_BYTES: usize = 4_096;

impl TaskSpec {
    /// The input, decoded.
    ///
    /// # Errors
    /// The field and a sentence, when it is not base64, too large, or given twice.
    pub fn input(&self) -> Result<TaskInput, (&'static str, String)> {
        let given = [
            self.data.is_some(),
            self.data_url.is_some(),
            self.blob.is_some(),
        ];
        if given.iter().filter(|g| **g).count() > 1 {
            return Err((
                "data",
                "give only one of `data`, `data_url` and `blob`".to_owned(),
            ));
        }
        if let Some(text) = &self.data {
            return decode_base64(text)
                .map(TaskInput::Inline)
                .map_err(|e| ("data", e));
        }
        if let Some(url) = &self.data_url {
            check_url(url).map_err(|message| ("data_url", message))?;
            return Ok(TaskInput::Url(url.clone()));
        }
        Ok(self.blob.map_or(TaskInput::None, TaskInput::Blob))
    }
}

/// What can be said of a URL without asking anybody; the node that fetches it parses it.
fn check_url(url: &str) -> Result<(), String> {
    if url.len() > MAX_URL_BYTES {
        return Err(format!("longer than {MAX_URL_BYTES} bytes"));
    }
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(format!("{url:?} is not an http or https address"));
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{url:?} has characters that a URL does not have; escape them as %XX"
        ));
    }
    Ok(())
}

fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    use base64::Engine;
    if text.len() / 4 * 3 > MAX_INLINE_DATA_BYTES + 3 {
        return Err(format!(
            "larger than {MAX_INLINE_DATA_BYTES} bytes; upload it as an artifact and use `blob`"
        ));
    }
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| format!("not base64: {error}"))
}

/// How many tasks of a job are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TaskCounts {
    /// All of them.
    pub total: u64,
    /// Waiting for a node.
    pub queued: u64,
    /// Handed to a node, not started.
    pub assigned: u64,
    /// Running.
    pub running: u64,
    /// Ended well.
    pub completed: u64,
    /// Ended badly.
    pub failed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Among the dead letters.
    pub dead: u64,
}

impl TaskCounts {
    /// The count of one state.
    pub fn get(&self, state: TaskState) -> u64 {
        match state {
            TaskState::Queued => self.queued,
            TaskState::Assigned => self.assigned,
            TaskState::Running => self.running,
            TaskState::Completed => self.completed,
            TaskState::Failed => self.failed,
            TaskState::Cancelled => self.cancelled,
            TaskState::Dead => self.dead,
        }
    }

    /// The count of one state, to change it.
    pub fn get_mut(&mut self, state: TaskState) -> &mut u64 {
        match state {
            TaskState::Queued => &mut self.queued,
            TaskState::Assigned => &mut self.assigned,
            TaskState::Running => &mut self.running,
            TaskState::Completed => &mut self.completed,
            TaskState::Failed => &mut self.failed,
            TaskState::Cancelled => &mut self.cancelled,
            TaskState::Dead => &mut self.dead,
        }
    }

    /// How many are final.
    pub fn finished(&self) -> u64 {
        self.completed + self.failed + self.cancelled + self.dead
    }
}

//! Jobs, tasks and results.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{Class, JobId, JobState, Reason, TaskCounts, TaskState};

/// The largest JSON body of a request, in bytes; NDJSON streams have no such bound.
pub const MAX_BODY_BYTES: usize = 32 << 20;

/// A job as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JobView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: JobId,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// How its tasks are run.
    pub runtime: String,
    /// Where it is in its life.
    pub state: JobState,
    /// How many tasks are in which state.
    pub tasks: TaskCounts,
    /// Larger runs first.
    pub priority: i32,
    /// When it was acknowledged.
    pub created_at: String,
    /// When its first task was handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When its last task became final.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// Why it waits or failed.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
}

/// Why something waits or failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WhyView {
    /// Which of the reasons.
    pub reason: Reason,
    /// Who can do something about it.
    pub class: Class,
    /// What happened, in a sentence.
    pub detail: String,
    /// One suggested command or change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A task as the API shows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskView {
    /// Its number in the job, from 0.
    pub task: u32,
    /// Where it is in its life.
    pub state: TaskState,
    /// How many times it was handed to a node.
    pub attempts: u32,
    /// The node that has or had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it waits or failed.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
}

/// What a task left behind: a line of the results stream.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResultView {
    /// Its number in the job, from 0.
    pub task: u32,
    /// Its final state.
    pub state: TaskState,
    /// The name of its input file, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What a byte operation found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<Box<serde_json::value::RawValue>>,
    /// The exit code of a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u32>,
    /// Standard output.
    #[serde(
        default,
        flatten,
        with = "stdout",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Object>)]
    pub stdout: Option<Text>,
    /// Standard error.
    #[serde(
        default,
        flatten,
        with = "stderr",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<Object>)]
    pub stderr: Option<Text>,
    /// Files the program wrote to `$WEFT_OUT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<OutputFileView>,
    /// Why it failed.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
    /// The node that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// How many times it was handed to a node.
    pub attempts: u32,
    /// Microseconds from start to end of the last attempt.
    #[serde(default)]
    pub run_us: u64,
    /// The most memory it used, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
}

/// A file that a task wrote to `$WEFT_OUT`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct OutputFileView {
    /// Its path beneath `$WEFT_OUT`.
    pub path: String,
    /// The artifact with its bytes.
    pub blob: String,
    /// Its size in bytes.
    pub size: u64,
}

/// What a task printed: text when it is UTF-8, else base64, or an artifact when it is large.
///
/// On the wire these are the fields `stdout`, `stdout_encoding` (`base64`; absent for text),
/// `stdout_blob` and `stdout_truncated`, and the same for `stderr`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Text {
    /// The bytes themselves.
    Inline {
        /// What was printed.
        bytes: Vec<u8>,
        /// Whether more was printed than is kept.
        truncated: bool,
    },
    /// The artifact with the bytes.
    Blob {
        /// Its hash.
        hash: String,
        /// Whether more was printed than is kept.
        truncated: bool,
    },
}

impl Text {
    /// The bytes, when they are carried inline.
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Inline { bytes, .. } => Some(bytes),
            Self::Blob { .. } => None,
        }
    }
}

fn encode(name: &'static str, text: &Text) -> BTreeMap<String, serde_json::Value> {
    use base64::Engine;
    let mut fields = BTreeMap::new();
    let truncated = match text {
        Text::Inline { bytes, truncated } => {
            let value = match std::str::from_utf8(bytes) {
                Ok(utf8) => Cow::Borrowed(utf8),
                Err(_) => {
                    fields.insert(format!("{name}_encoding"), "base64".into());
                    Cow::Owned(base64::engine::general_purpose::STANDARD.encode(bytes))
                }
            };
            fields.insert(name.to_owned(), value.into());
            *truncated
        }
        Text::Blob { hash, truncated } => {
            fields.insert(format!("{name}_blob"), hash.clone().into());
            *truncated
        }
    };
    if truncated {
        fields.insert(format!("{name}_truncated"), true.into());
    }
    fields
}

macro_rules! text_field {
    ($name:ident) => {
        mod $name {
            use serde::de::Error;
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            use super::{Text, encode};

            pub(super) fn serialize<S: Serializer>(
                text: &Option<Text>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                text.as_ref()
                    .map(|text| encode(stringify!($name), text))
                    .serialize(serializer)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<Text>, D::Error> {
                use base64::Engine;
                let fields = std::collections::BTreeMap::<String, serde_json::Value>::deserialize(
                    deserializer,
                )?;
                let get = |suffix: &str| fields.get(&format!("{}{suffix}", stringify!($name)));
                let truncated = get("_truncated")
                    .and_then(serde_json::Value::as_bool)
                    .unwrap_or(false);
                if let Some(hash) = get("_blob").and_then(serde_json::Value::as_str) {
                    return Ok(Some(Text::Blob {
                        hash: hash.to_owned(),
                        truncated,
                    }));
                }
                let Some(value) = get("").and_then(serde_json::Value::as_str) else {
                    return Ok(None);
                };
                let bytes = if get("_encoding").is_some() {
                    base64::engine::general_purpose::STANDARD
                        .decode(value)
                        .map_err(D::Error::custom)?
                } else {
                    value.as_bytes().to_vec()
                };
                Ok(Some(Text::Inline { bytes, truncated }))
            }
        }
    };
}

text_field!(stdout);
text_field!(stderr);

/// A piece of a task's output.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// The number of the task.
    pub task: u32,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// Where in the stream the piece begins, in bytes.
    pub offset: u64,
    /// The bytes, base64.
    pub data: String,
    /// The node that ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The answer to an uploaded artifact.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UploadedView {
    /// Its BLAKE3 hash.
    pub blob: String,
    /// Its size in bytes.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(stdout: Option<Text>) -> ResultView {
        ResultView {
            task: 1,
            state: TaskState::Completed,
            file: None,
            result: None,
            exit_code: Some(0),
            signal: None,
            stdout,
            stderr: None,
            files: Vec::new(),
            why: None,
            node: None,
            attempts: 1,
            run_us: 5,
            peak_memory_bytes: None,
        }
    }

    #[test]
    fn output_that_is_not_utf8_round_trips_as_base64() {
        for bytes in [b"plain\n".to_vec(), vec![0xff, 0x00, 0xfe], Vec::new()] {
            let text = Text::Inline {
                bytes,
                truncated: true,
            };
            let json = serde_json::to_string(&view(Some(text.clone()))).unwrap();
            let back: ResultView = serde_json::from_str(&json).unwrap();
            assert_eq!(back.stdout, Some(text), "{json}");
        }
        let json = serde_json::to_string(&view(None)).unwrap();
        assert!(!json.contains("stdout"), "{json}");
    }
}

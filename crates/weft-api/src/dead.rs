//! Dead letters, and the history of attempts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{Class, JobId, Reason, TaskState};

use crate::WhyView;

/// One attempt of a task.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct AttemptView {
    /// Which; gaps are assignments that were taken back before they ran.
    pub attempt: u32,
    /// The node that had it; absent when none reported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When it started, by the clock of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When it ended, by the clock of its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<String>,
    /// Microseconds from start to end.
    pub run_us: u64,
    /// Why it failed; absent when it completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Who can do something about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// What happened, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The exit code of a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<u32>,
    /// The end of what it printed to standard output; only of a single task.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout_tail: String,
    /// The end of what it printed to standard error; only of a single task.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr_tail: String,
}

/// A task that used up its attempts and waits for a person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Its job.
    #[schema(value_type = String)]
    pub job: JobId,
    /// Its number in the job, from 0.
    pub task: u32,
    /// The name of its job.
    pub name: String,
    /// The namespace of its job.
    pub namespace: String,
    /// The name of its input file, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why it died, and what to do.
    #[serde(flatten)]
    pub why: WhyView,
    /// When it died, by the clock of its last node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub died_at: Option<String>,
    /// Every attempt that is known, in order, those from before a requeue included.
    pub attempts: Vec<AttemptView>,
}

/// A task with the history of its attempts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct TaskHistoryView {
    /// Its job.
    #[schema(value_type = String)]
    pub job: JobId,
    /// Its number in the job, from 0.
    pub task: u32,
    /// Where it is in its life.
    pub state: TaskState,
    /// The node that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it failed, and what to do.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView>,
    /// Every attempt that is known to have ended, in order.
    pub attempts: Vec<AttemptView>,
}

/// Which dead letters to queue again: those of a job, or `all`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RequeueRequest {
    /// Those of this job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub job: Option<JobId>,
    /// Only these tasks of the job; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<u32>>,
    /// Only those that died for this reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Only those of this namespace; with `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Those of every job; instead of `job`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
}

/// How many dead letters were queued again or dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// So many.
    pub changed: u64,
    /// So many of the tasks that were named are no dead letters, or not any more.
    pub skipped: u64,
}

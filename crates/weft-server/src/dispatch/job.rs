//! What the shell remembers of a job beside the machine's state.

use std::time::Instant;

use bytes::Bytes;
use weft_api::{JobView, rfc3339};
use weft_types::{JobId, JobState, Namespace, Reason, TaskCounts, Timestamp};

use crate::outcome::why;

/// Why a job was cancelled.
#[derive(Debug, Clone)]
pub struct Cancellation {
    /// `cancelled`, or `timeout` when its deadline passed.
    pub reason: Reason,
    /// A sentence; empty when the reason says it all.
    pub detail: Box<str>,
}

/// Names, times and the specification of a job.
#[derive(Debug, Clone)]
pub(super) struct JobRecord {
    pub(super) name: Box<str>,
    pub(super) namespace: Namespace,
    pub(super) runtime: &'static str,
    pub(super) priority: i32,
    /// The encoded `JobSpec`, shared with the sessions that need it.
    pub(super) spec: Bytes,
    pub(super) created: Timestamp,
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Option<Timestamp>,
    /// When it was on disk, for how long its tasks wait; unknown after a restart.
    pub(super) accepted: Option<Instant>,
    /// The idempotency key it was submitted with.
    pub(super) key: Option<Box<str>>,
    /// Why it was cancelled.
    pub(super) cancelled: Option<Cancellation>,
    /// Whether some of its tasks wait for others.
    pub(super) dependent_tasks: bool,
}

/// A job's record and counts at one moment.
#[derive(Debug, Clone)]
pub struct JobStats {
    /// Its id.
    pub id: JobId,
    /// Where it is in its life.
    pub state: JobState,
    /// How many tasks are in which state.
    pub counts: TaskCounts,
    pub(super) record: JobRecord,
}

impl JobStats {
    /// As the API shows it.
    pub fn view(&self) -> JobView {
        JobView {
            id: self.id,
            name: self.record.name.to_string(),
            namespace: self.record.namespace.to_string(),
            runtime: self.record.runtime.to_owned(),
            state: self.state,
            tasks: self.counts,
            priority: self.record.priority,
            created_at: rfc3339(self.record.created),
            started_at: self.record.started.map(rfc3339),
            finished_at: self.record.finished.map(rfc3339),
            why: self
                .record
                .cancelled
                .as_ref()
                .filter(|_| self.state == JobState::Cancelled)
                .map(|cancelled| why(cancelled.reason, &cancelled.detail)),
        }
    }
}

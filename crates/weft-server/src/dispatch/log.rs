//! The journal as the dispatcher uses it: jobs and outcomes instead of bytes.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use weft_core::dispatch::TaskRef;
use weft_proto::v1;
use weft_queue::{JobKey, Journal, Options, Record, Recovery, ResultEntry, SyncObserver};
use weft_types::{JobId, Reason, TaskGraph, TaskGraphBuilder, TaskState, Timestamp};

use super::command::NewJob;
use crate::metrics::Metrics;
use crate::{Error, handover};

/// How many payloads are read at once when a job's dependencies are read back.
const PAYLOADS_AT_ONCE: u32 = 65_536;
/// In the place of a packed state: dead, and dropped from the list of dead letters.
pub(super) const DROPPED: u8 = 7;

/// A task's final outcome on its way into the journal.
#[derive(Debug, Clone)]
pub struct TaskRecord {
    /// Which attempt of which task.
    pub at: TaskRef,
    /// Its final state.
    pub state: TaskState,
    /// Why, unless completed.
    pub reason: Option<Reason>,
    /// The encoded `TaskOutcome`, empty when no agent reported one.
    pub outcome: Bytes,
}

/// A result as the journal has it.
#[derive(Debug, Clone)]
pub struct StoredResult {
    /// The attempt that made it final.
    pub attempt: u32,
    /// State and reason, packed.
    pub state: u8,
    /// The encoded `TaskOutcome`.
    pub outcome: Bytes,
}

/// State in the low three bits, reason in the others: one byte a task.
pub fn pack_state(state: TaskState, reason: Option<Reason>) -> u8 {
    state.code() | reason.map_or(0, Reason::code) << 3
}

/// The inverse of [`pack_state`]; `None` for bytes it does not make.
pub fn unpack_state(packed: u8) -> Option<(TaskState, Option<Reason>)> {
    let state = match packed & 7 {
        DROPPED => TaskState::Dead,
        code => TaskState::from_code(code)?,
    };
    match packed >> 3 {
        0 => Some((state, None)),
        code => Reason::from_code(code).map(|reason| (state, Some(reason))),
    }
}

/// Whether a packed state says that somebody dropped the dead letter.
pub(super) fn is_dropped(packed: u8) -> bool {
    packed & 7 == DROPPED
}

/// The journal; cloning shares it.
#[derive(Clone)]
pub struct Log {
    pub(super) journal: Arc<Journal>,
}

impl Log {
    /// Opens the journal and reads what it has.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open(dir: &Path, metrics: Arc<Metrics>) -> Result<(Self, Recovery), Error> {
        let dir = dir.to_path_buf();
        let options = Options {
            on_sync: Some(SyncObserver(Arc::new(move |took| {
                metrics.journal_sync_s.observe(took.as_secs_f64());
            }))),
            ..Options::default()
        };
        let opened = tokio::task::spawn_blocking(move || {
            handover::open(
                || Journal::open(&dir, options.clone()),
                |error| matches!(error, weft_queue::Error::Locked(_)),
            )
        })
        .await;
        let (journal, recovery) = opened.map_err(|error| Error::Corrupt {
            what: "journal".to_owned(),
            detail: error.to_string(),
        })??;
        for damage in &recovery.damage {
            tracing::error!(
                segment = damage.segment,
                from = damage.offset,
                until = damage.until,
                "a part of the journal is damaged and was passed over; what it said is lost"
            );
        }
        Ok((
            Self {
                journal: Arc::new(journal),
            },
            recovery,
        ))
    }

    /// Appends a job with all its tasks.
    pub fn append_job(
        &self,
        id: JobId,
        job: &NewJob,
        now: Timestamp,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let record = Record::Job {
            job: JobKey(id.0),
            header: header(job, now),
            tasks: Some(job.submission.tasks),
            payloads: job.payloads.clone(),
        };
        let mut records = vec![record];
        if job.submission.graph.is_some() {
            records.push(has_dependent_tasks(id));
        }
        self.journal
            .append(&records, move |result| done(result.map_err(Error::from)));
    }

    /// Begins a job whose tasks follow.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn open_job(&self, id: JobId, job: &NewJob, now: Timestamp) -> Result<(), Error> {
        let record = Record::Job {
            job: JobKey(id.0),
            header: header(job, now),
            tasks: None,
            payloads: Vec::new(),
        };
        Ok(self.journal.append_durable(&[record]).await?)
    }

    /// Appends tasks of a job that was begun.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn append_tasks(
        &self,
        id: JobId,
        first: u32,
        payloads: Vec<Bytes>,
    ) -> Result<(), Error> {
        Ok(self
            .journal
            .append_durable(&[Record::Tasks {
                job: JobKey(id.0),
                first,
                payloads,
            }])
            .await?)
    }

    /// Completes a job that was begun; `dependent` when some of its tasks wait for others.
    pub fn seal_job(
        &self,
        id: JobId,
        tasks: u32,
        dependent: bool,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let mut records = Vec::new();
        if dependent {
            records.push(has_dependent_tasks(id));
        }
        records.push(Record::Sealed {
            job: JobKey(id.0),
            tasks,
        });
        self.journal
            .append(&records, move |result| done(result.map_err(Error::from)));
    }

    /// What the tasks of a job wait for, from their payloads; `None` when one cannot be read.
    pub(super) fn task_graph(&self, id: JobId, tasks: u32) -> Option<TaskGraph> {
        let mut builder = TaskGraphBuilder::default();
        let mut first = 0;
        while first < tasks {
            let count = PAYLOADS_AT_ONCE.min(tasks - first);
            for payload in self.journal.payloads(JobKey(id.0), first, count)? {
                let payload = v1::TaskPayload::decode(payload).ok()?;
                builder.push(&payload.after).ok()?;
            }
            first += count;
        }
        builder.finish().ok()?
    }

    /// Appends outcomes.
    pub fn append_results(
        &self,
        records: Vec<TaskRecord>,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let entries = records
            .into_iter()
            .map(|record| ResultEntry {
                job: JobKey(record.at.job.0),
                task: record.at.task,
                attempt: record.at.attempt,
                state: pack_state(record.state, record.reason),
                body: record.outcome,
            })
            .collect();
        self.journal
            .append(&[Record::Results(entries)], move |result| {
                done(result.map_err(Error::from))
            });
    }

    /// Appends what became of a job, and tells when that is on disk.
    pub fn append_state(
        &self,
        id: JobId,
        state: v1::StoredJobState,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let records = [state_record(id, &state)];
        self.journal
            .append(&records, move |result| done(result.map_err(Error::from)));
    }

    /// The same when nobody waits for it, because what it says follows from the results.
    pub fn append_state_unhurried(&self, id: JobId, state: &v1::StoredJobState) {
        self.journal
            .append_unhurried(&[state_record(id, state)], |_| {});
    }

    /// Forgets a job.
    pub fn remove(&self, id: JobId) {
        let removed = Record::Removed { job: JobKey(id.0) };
        self.journal.append_unhurried(&[removed], |result| {
            if let Err(error) = result {
                tracing::warn!(%error, "a job could not be forgotten and comes back with the next start");
            }
        });
    }

    /// The payloads of some tasks of a job; `None` when it is not known.
    pub async fn payloads(&self, id: JobId, first: u32, count: u32) -> Option<Vec<Bytes>> {
        // What was written last is in memory or in the page cache.
        self.journal.payloads(JobKey(id.0), first, count)
    }

    /// The tasks that were written together with this one, and their payloads; none when all are
    /// empty.
    pub async fn payloads_beside(&self, id: JobId, task: u32) -> Option<(Range<u32>, Vec<Bytes>)> {
        self.journal.payloads_beside(JobKey(id.0), task)
    }

    /// The result of a task.
    pub async fn result(&self, id: JobId, task: u32) -> Option<StoredResult> {
        let entry = self.journal.result(JobKey(id.0), task)?;
        // What was queued again has no result, though the one before is still there.
        unpack_state(entry.state).filter(|(state, _)| *state != TaskState::Queued)?;
        Some(StoredResult {
            attempt: entry.attempt,
            state: entry.state,
            outcome: entry.body,
        })
    }
}

/// Tells a start to read what tasks wait for.
fn state_record(id: JobId, state: &v1::StoredJobState) -> Record {
    Record::State {
        job: JobKey(id.0),
        bytes: state.encode_to_vec().into(),
    }
}

fn has_dependent_tasks(id: JobId) -> Record {
    let state = v1::StoredJobState {
        dependent_tasks: true,
        ..v1::StoredJobState::default()
    };
    Record::State {
        job: JobKey(id.0),
        bytes: state.encode_to_vec().into(),
    }
}

fn header(job: &NewJob, now: Timestamp) -> Bytes {
    let stored = v1::StoredJob {
        spec: job.spec.clone(),
        created_ms: now.as_millis(),
        idempotency_key: job.idempotency_key.clone().unwrap_or_default(),
    };
    stored.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_reason_fits_into_a_byte() {
        for &state in TaskState::ALL {
            assert_eq!(unpack_state(pack_state(state, None)), Some((state, None)));
            for &reason in Reason::ALL {
                assert_eq!(
                    unpack_state(pack_state(state, Some(reason))),
                    Some((state, Some(reason)))
                );
            }
        }
        let dropped = DROPPED | Reason::Timeout.code() << 3;
        assert_eq!(
            unpack_state(dropped),
            Some((TaskState::Dead, Some(Reason::Timeout)))
        );
        assert!(is_dropped(dropped) && !is_dropped(pack_state(TaskState::Dead, None)));
        assert_eq!(unpack_state(31 << 3), None);
    }
}

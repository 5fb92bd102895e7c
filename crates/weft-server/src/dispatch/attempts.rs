//! The history of attempts: noted in the journal as they fail, read back for people.

use bytes::Bytes;
use prost::Message;
use weft_core::dispatch::TaskRef;
use weft_proto::v1;
use weft_queue::{JobKey, Record, ResultEntry};
use weft_types::{JobId, NodeId, Reason, TaskState, Timestamp};

use super::log::{DROPPED, Log, pack_state};
use crate::Error;

/// What is kept of what a failed attempt printed: its end, in bytes.
const MAX_NOTED_OUTPUT_BYTES: usize = 2_048;
/// What is kept of the sentence that says why it failed, in bytes.
const MAX_NOTED_DETAIL_BYTES: usize = 1_024;
/// Set in the code of a note whose attempt does not use up one of the retry policy's.
const UNCOUNTED: u8 = 0x80;

/// An attempt on its way into the journal.
#[derive(Debug, Clone)]
pub struct AttemptNote {
    /// Which.
    pub at: TaskRef,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// Whether it uses up one of the attempts of the retry policy.
    pub counted: bool,
    /// The encoded `TaskOutcome`.
    pub outcome: Bytes,
}

impl AttemptNote {
    /// An attempt that no node reported: the server itself says what became of it.
    pub fn unreported(at: TaskRef, reason: Reason, node: &NodeId, now: Timestamp) -> Self {
        let detail = match reason {
            Reason::NodeLost => format!("node {node} was lost while it ran"),
            _ => format!("node {node} gave it back: {}", reason.sentence()),
        };
        Self {
            at,
            reason: Some(reason),
            counted: false,
            outcome: own_outcome(node.as_str(), detail, now),
        }
    }

    fn record(self) -> Record {
        let flag = if self.counted { 0 } else { UNCOUNTED };
        Record::Note {
            job: JobKey(self.at.job.0),
            task: self.at.task,
            attempt: self.at.attempt,
            code: self.reason.map_or(0, Reason::code) | flag,
            bytes: shortened(&self.outcome),
        }
    }
}

/// The outcome that the server writes down for an attempt which no node reported.
pub(super) fn own_outcome(node: &str, detail: String, now: Timestamp) -> Bytes {
    let outcome = v1::TaskOutcome {
        node: node.to_owned(),
        detail,
        finished_ms: now.as_millis(),
        ..v1::TaskOutcome::default()
    };
    outcome.encode_to_vec().into()
}

/// An attempt as the journal has it.
#[derive(Debug, Clone)]
pub struct StoredAttempt {
    /// Which.
    pub attempt: u32,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// What it left behind, shortened.
    pub outcome: v1::TaskOutcome,
}

/// What a note's code says: why, and whether it uses up an attempt of the policy.
pub(super) fn unpack_code(code: u8) -> (Option<Reason>, bool) {
    (Reason::from_code(code & !UNCOUNTED), code & UNCOUNTED == 0)
}

/// An outcome without what a history does not need. What cannot be understood is left out.
fn shortened(outcome: &[u8]) -> Bytes {
    let mut outcome = v1::TaskOutcome::decode(outcome).unwrap_or_default();
    outcome.result = Bytes::new();
    outcome.files = Vec::new();
    for (output, truncated) in [
        (&mut outcome.stdout, &mut outcome.stdout_truncated),
        (&mut outcome.stderr, &mut outcome.stderr_truncated),
    ] {
        let cut = output.len().saturating_sub(MAX_NOTED_OUTPUT_BYTES);
        *truncated |= cut > 0;
        *output = output.slice(cut..);
    }
    let end = outcome.detail.floor_char_boundary(MAX_NOTED_DETAIL_BYTES);
    outcome.detail.truncate(end);
    outcome.encode_to_vec().into()
}

impl Log {
    /// Notes attempts that did not make their tasks final. Nothing waits for it: a note that is
    /// lost costs one more attempt at most.
    pub fn note_attempts(&self, attempts: Vec<AttemptNote>) {
        let records: Vec<Record> = attempts.into_iter().map(AttemptNote::record).collect();
        self.journal.append(&records, |result| {
            if let Err(error) = result {
                tracing::warn!(%error, "failed attempts could not be noted");
            }
        });
    }

    /// Marks that the results of tasks do not count any more; what they said goes into the
    /// history of attempts.
    pub fn append_requeued(
        &self,
        tasks: Vec<AttemptNote>,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let queued = tasks.iter().map(|task| ResultEntry {
            job: JobKey(task.at.job.0),
            task: task.at.task,
            attempt: task.at.attempt,
            state: pack_state(TaskState::Queued, None),
            body: Bytes::new(),
        });
        let queued = Record::Results(queued.collect());
        let notes = tasks.into_iter().map(AttemptNote::record);
        let records: Vec<Record> = notes.chain([queued]).collect();
        self.journal
            .append(&records, move |result| done(result.map_err(Error::from)));
    }

    /// Marks dead letters as dropped; their results stay as they are.
    pub fn append_dropped(
        &self,
        tasks: Vec<AttemptNote>,
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        let entries = tasks.into_iter().map(|task| ResultEntry {
            job: JobKey(task.at.job.0),
            task: task.at.task,
            attempt: task.at.attempt,
            state: DROPPED | task.reason.map_or(0, Reason::code) << 3,
            body: task.outcome,
        });
        let record = Record::Results(entries.collect());
        self.journal
            .append(&[record], move |result| done(result.map_err(Error::from)));
    }

    /// Every attempt of a task that is known, in order: those that were noted, and the one that
    /// made it final.
    pub fn attempts(&self, job: JobId, task: u32) -> Vec<StoredAttempt> {
        let notes = self.journal.notes(JobKey(job.0), task).into_iter();
        let mut attempts: Vec<StoredAttempt> = notes
            .map(|note| StoredAttempt {
                attempt: note.attempt,
                reason: unpack_code(note.code).0,
                outcome: v1::TaskOutcome::decode(note.body).unwrap_or_default(),
            })
            .collect();
        attempts.extend(self.last_attempt(job, task, &attempts));
        attempts
    }

    fn last_attempt(
        &self,
        job: JobId,
        task: u32,
        noted: &[StoredAttempt],
    ) -> Option<StoredAttempt> {
        let last = self.journal.result(JobKey(job.0), task)?;
        let (state, reason) = super::log::unpack_state(last.state)?;
        // The result of a task that was queued again is among the notes.
        let is_noted = noted.iter().any(|note| note.attempt == last.attempt);
        (state.is_final() && !is_noted).then(|| StoredAttempt {
            attempt: last.attempt,
            reason,
            outcome: v1::TaskOutcome::decode(shortened(&last.body)).unwrap_or_default(),
        })
    }
}

/// What the machine needs to know of a recovered task's attempts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Task and how often it failed since it was queued last by a person.
    pub(super) failures: Vec<(u32, u32)>,
    /// Task and its greatest known attempt.
    pub(super) attempts: Vec<(u32, u32)>,
}

/// Counts the attempts of a job. `notes` are task, attempt and code, `results` task, attempt and
/// packed state, both by task; `counts_lost` says whether a lost node uses up an attempt.
pub(super) fn count(
    notes: &[(u32, u32, u8)],
    results: &[(u32, u32, u8)],
    counts_lost: bool,
) -> Counted {
    let mut counted = Counted::default();
    for of_task in notes.chunk_by(|a, b| a.0 == b.0) {
        let task = of_task[0].0;
        let result = results.binary_search_by_key(&task, |result| result.0);
        let result = result.ok().map(|position| results[position]);
        let is_requeued = |packed: u8| packed == pack_state(TaskState::Queued, None);
        let since = result
            .filter(|result| is_requeued(result.2))
            .map_or(0, |r| r.1);
        let uses_up = |code: u8| match unpack_code(code) {
            (Some(Reason::NodeLost), _) => counts_lost,
            (_, counted) => counted,
        };
        let later = of_task.iter().filter(|note| note.1 > since);
        let failures = later.filter(|note| uses_up(note.2)).count();
        if failures > 0 {
            let failures = u32::try_from(failures).unwrap_or(u32::MAX);
            counted.failures.push((task, failures));
        }
        let greatest = of_task.iter().map(|note| note.1).max();
        counted
            .attempts
            .extend(greatest.map(|attempt| (task, attempt)));
    }
    // Completed at the first attempt, as nearly all are, says nothing that matters later.
    let completed = pack_state(TaskState::Completed, None);
    let notable = results.iter().filter(|r| r.1 > 1 || r.2 != completed);
    counted
        .attempts
        .extend(notable.map(|(task, attempt, _)| (*task, *attempt)));
    counted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outcome_is_cut_and_can_still_be_read() {
        let outcome = v1::TaskOutcome {
            node: "n1".to_owned(),
            detail: "ä".repeat(MAX_NOTED_DETAIL_BYTES),
            stderr: [b"start".as_slice(), &[b'x'; 100_000], b"end"]
                .concat()
                .into(),
            ..v1::TaskOutcome::default()
        };
        let cut = shortened(&outcome.encode_to_vec());
        assert!(cut.len() < MAX_NOTED_OUTPUT_BYTES + MAX_NOTED_DETAIL_BYTES + 64);
        let cut = v1::TaskOutcome::decode(cut).unwrap();
        assert_eq!(cut.node, "n1");
        assert!(cut.stderr.ends_with(b"end") && cut.stderr_truncated);
        assert!(!cut.stdout_truncated);
        assert!(shortened(&[0xff; 9]).is_empty(), "garbage is left out");
    }

    #[test]
    fn attempts_from_before_a_requeue_do_not_count_and_moves_neither() {
        let code = Reason::NonzeroExit.code();
        let lost = Reason::NodeLost.code() | UNCOUNTED;
        let notes = [
            (0, 1, code),
            (0, 2, code),
            (0, 3, code),
            (0, 4, code),
            (2, 1, lost),
        ];
        let queued = pack_state(TaskState::Queued, None);
        let completed = pack_state(TaskState::Completed, None);
        let results = [(0, 3, queued), (1, 1, completed), (3, 2, completed)];
        let counted = count(&notes, &results, false);
        assert_eq!(counted.failures, [(0, 1)]);
        assert_eq!(counted.attempts, [(0, 4), (2, 1), (0, 3), (3, 2)]);
        let counted = count(&notes, &results, true);
        assert_eq!(counted.failures, [(0, 1), (2, 1)]);
    }
}

//! The server's journal: what was appended, what is on disk, what a crash leaves.

use std::collections::BTreeMap;

use weft_core::dispatch::{BatchId, FinalRun, FinalTask, Recovered, Submission, TaskRef};
use weft_types::{JobId, Reason};

use crate::random::Random;

/// One record.
#[derive(Clone, Debug)]
pub enum Record {
    /// A job.
    Job(Box<Submission>),
    /// A task that is final.
    Final(FinalTask),
    /// A failed attempt that is tried again.
    Note(TaskRef),
    /// A job that is cancelled.
    Cancel(JobId, Reason),
}

/// Who waits for a record to be on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Waiter {
    /// The client of a job.
    Job(JobId),
    /// A batch of the dispatcher.
    Batch(BatchId),
    /// Whoever cancelled.
    Cancel(JobId, Reason),
}

/// An append-only log with group commit.
#[derive(Default, Debug)]
pub struct Journal {
    records: Vec<Record>,
    synced: usize,
    /// Who waits, with the length of the log that they wait for.
    waiters: Vec<(usize, Waiter)>,
    /// Whether the disk is full.
    pub is_full: bool,
}

impl Journal {
    /// Appends records. Answers whether there was room.
    pub fn append(
        &mut self,
        records: impl IntoIterator<Item = Record>,
        waiter: Option<Waiter>,
    ) -> bool {
        if self.is_full {
            return false;
        }
        self.records.extend(records);
        self.waiters
            .extend(waiter.map(|waiter| (self.records.len(), waiter)));
        true
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Everything up to `len` is on disk. Answers who waited for it, in order.
    pub fn sync(&mut self, len: usize) -> Vec<Waiter> {
        self.synced = self.synced.max(len.min(self.records.len()));
        let synced = self.synced;
        let (done, waiting) = self.waiters.drain(..).partition(|(len, _)| *len <= synced);
        self.waiters = waiting;
        done.into_iter()
            .map(|(_, waiter): (usize, Waiter)| waiter)
            .collect()
    }

    /// Power is lost: of what was not synced, a random part from its beginning is left.
    pub fn crash(&mut self, random: &mut Random) {
        let unsynced = (self.records.len() - self.synced) as u64;
        let left = random.between(0, unsynced) as usize;
        self.records.truncate(self.synced + left);
        self.synced = self.records.len();
        self.waiters.clear();
    }

    /// What is on disk.
    pub fn durable(&self) -> &[Record] {
        &self.records[..self.synced]
    }

    /// The jobs as a server reads them back, in the order of their ids.
    pub fn replay(&self) -> Vec<Recovered> {
        let mut jobs: BTreeMap<JobId, Recovered> = BTreeMap::new();
        for record in self.durable() {
            match record {
                Record::Job(submission) => {
                    let recovered = Recovered {
                        submission: (**submission).clone(),
                        finals: Vec::new(),
                        failures: Vec::new(),
                        attempts: Vec::new(),
                        cancelled: None,
                    };
                    jobs.insert(submission.id, recovered);
                }
                Record::Final(done) => {
                    if let Some(job) = jobs.get_mut(&done.at.job) {
                        job.finals.push(FinalRun {
                            first: done.at.task,
                            len: 1,
                            state: done.state,
                            reason: done.reason,
                        });
                    }
                }
                Record::Note(at) => {
                    if let Some(job) = jobs.get_mut(&at.job) {
                        let known = job.failures.iter_mut().find(|(task, _)| *task == at.task);
                        match known {
                            Some((_, failures)) => *failures += 1,
                            None => job.failures.push((at.task, 1)),
                        }
                    }
                }
                Record::Cancel(id, reason) => {
                    if let Some(job) = jobs.get_mut(id) {
                        job.cancelled = Some(*reason);
                    }
                }
            }
        }
        jobs.into_values().collect()
    }
}

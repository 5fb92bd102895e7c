//! Where everything is: jobs, chunks of payloads, results, in memory.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::record::{JobKey, PayloadsAt, View};
use crate::segment::SegmentNo;

/// A place in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Location {
    pub(crate) segment: SegmentNo,
    pub(crate) offset: u32,
}

/// No result yet.
const NOWHERE: Location = Location {
    segment: SegmentNo(u32::MAX),
    offset: u32::MAX,
};
/// How many noted attempts of a task are remembered: the first ones.
const MAX_NOTES: usize = 1_000;

/// A noted attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Noted {
    pub(crate) attempt: u32,
    pub(crate) code: u8,
    pub(crate) frame: Location,
}

/// Payloads of consecutive tasks in one record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) first: u32,
    pub(crate) count: u32,
    /// The frame.
    pub(crate) frame: Location,
    /// Where in its body; `None` when all are empty.
    pub(crate) payloads: Option<PayloadsAt>,
}

/// A job.
#[derive(Debug)]
pub(crate) struct JobIndex {
    /// The frame that began it, nowhere while that was not read yet, and where in its body the header is.
    pub(crate) frame: Location,
    pub(crate) header: std::ops::Range<usize>,
    /// Known once it is complete.
    pub(crate) tasks: Option<u32>,
    pub(crate) chunks: Vec<Chunk>,
    /// A place a task, grown as results come.
    results: Vec<Location>,
    pub(crate) state: Option<Bytes>,
    /// What was noted of which task.
    pub(crate) notes: BTreeMap<u32, Vec<Noted>>,
    /// In how many of which segment's records it is.
    segments: BTreeMap<SegmentNo, u32>,
}

impl JobIndex {
    fn new() -> Self {
        Self {
            frame: NOWHERE,
            header: 0..0,
            tasks: None,
            chunks: Vec::new(),
            results: Vec::new(),
            state: None,
            notes: BTreeMap::new(),
            segments: BTreeMap::new(),
        }
    }

    /// Whether it was begun and completed: others were never acknowledged.
    pub(crate) fn is_complete(&self) -> bool {
        self.frame != NOWHERE && self.tasks.is_some()
    }

    pub(crate) fn result(&self, task: u32) -> Option<Location> {
        self.results
            .get(task as usize)
            .copied()
            .filter(|location| *location != NOWHERE)
    }

    /// Tasks with results, and where these are.
    pub(crate) fn results(&self) -> impl Iterator<Item = (u32, Location)> {
        (0u32..)
            .zip(&self.results)
            .filter(|(_, location)| **location != NOWHERE)
            .map(|(task, location)| (task, *location))
    }

    fn set_result(&mut self, task: u32, location: Location) {
        let index = task as usize;
        if index >= self.results.len() {
            // A complete job's table is made once, in its right size.
            let size = self
                .tasks
                .map_or(index + 1, |tasks| (tasks as usize).max(index + 1));
            self.results.resize(size, NOWHERE);
        }
        self.results[index] = location;
    }

    /// A note that was copied from one segment to another replaces itself.
    fn note(&mut self, task: u32, noted: Noted) {
        let notes = self.notes.entry(task).or_default();
        match notes.binary_search_by_key(&noted.attempt, |known| known.attempt) {
            Ok(position) => notes[position] = noted,
            Err(position) if notes.len() < MAX_NOTES => notes.insert(position, noted),
            Err(_) => {}
        }
    }

    /// The chunk that has a task.
    pub(crate) fn chunk(&self, task: u32) -> Option<&Chunk> {
        let position = self.chunks.partition_point(|chunk| chunk.first <= task);
        let chunk = self.chunks.get(position.checked_sub(1)?)?;
        (task - chunk.first < chunk.count).then_some(chunk)
    }

    fn add_chunk(&mut self, chunk: Chunk) {
        match self
            .chunks
            .binary_search_by_key(&chunk.first, |known| known.first)
        {
            Ok(position) => self.chunks[position] = chunk,
            Err(position) => self.chunks.insert(position, chunk),
        }
    }
}

/// How many jobs have records in a segment, and how many had.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Use {
    pub(crate) live: u64,
    pub(crate) ever: u64,
}

impl Use {
    /// Whether little enough is needed to copy it.
    pub(crate) fn is_mostly_dead(self) -> bool {
        self.live * 4 <= self.ever
    }
}

/// All jobs.
#[derive(Default, Debug)]
pub(crate) struct Index {
    pub(crate) jobs: HashMap<JobKey, JobIndex>,
    pub(crate) uses: BTreeMap<SegmentNo, Use>,
    /// While the log is read from its beginning.
    pub(crate) is_recovering: bool,
}

impl Index {
    /// Takes a record in that is on disk at `frame`; its body begins `body_at` bytes after that.
    pub(crate) fn apply(&mut self, frame: Location, body_at: u32, view: View<'_>) {
        match view {
            View::Job {
                job,
                tasks,
                header,
                payloads,
            } => {
                let index = self.jobs.entry(job).or_insert_with(JobIndex::new);
                (index.frame, index.header) = (frame, header);
                if let Some(tasks) = tasks {
                    index.tasks = Some(tasks);
                    index.add_chunk(Chunk {
                        first: 0,
                        count: tasks,
                        frame,
                        payloads,
                    });
                }
                self.refer(job, frame.segment);
            }
            View::Tasks {
                job,
                first,
                payloads,
            } => {
                if let (Some(index), Some(at)) = (self.job(job), payloads) {
                    index.add_chunk(Chunk {
                        first,
                        count: at.count,
                        frame,
                        payloads: Some(at),
                    });
                    self.refer(job, frame.segment);
                }
            }
            View::Sealed { job, tasks } => {
                if let Some(index) = self.job(job) {
                    index.tasks = Some(tasks);
                    self.refer(job, frame.segment);
                }
            }
            View::Results(entries) => {
                let mut last = None;
                for (at, job, task, _, _) in entries {
                    let Some(index) = self.job(job) else {
                        continue;
                    };
                    let offset = frame.offset + body_at + at as u32;
                    index.set_result(
                        task,
                        Location {
                            segment: frame.segment,
                            offset,
                        },
                    );
                    // A batch has many results of few jobs.
                    if last != Some(job) {
                        last = Some(job);
                        self.refer(job, frame.segment);
                    }
                }
            }
            View::State { job, bytes } => {
                if let Some(index) = self.job(job) {
                    index.state = Some(Bytes::copy_from_slice(bytes));
                    self.refer(job, frame.segment);
                }
            }
            View::Note {
                job,
                task,
                attempt,
                code,
                ..
            } => {
                if let Some(index) = self.job(job) {
                    index.note(
                        task,
                        Noted {
                            attempt,
                            code,
                            frame,
                        },
                    );
                    self.refer(job, frame.segment);
                }
            }
            View::Removed { job } => self.remove(job),
            View::Synced { .. } => {}
        }
    }

    /// A job that a record belongs to. The record that began it may have been copied behind the
    /// others when its segment was cleaned, so that they come first when the log is read again.
    fn job(&mut self, job: JobKey) -> Option<&mut JobIndex> {
        match self.is_recovering {
            true => Some(self.jobs.entry(job).or_insert_with(JobIndex::new)),
            false => self.jobs.get_mut(&job),
        }
    }

    /// The whole log was read: what is left of jobs that were removed or never acknowledged goes.
    pub(crate) fn recovered(&mut self) {
        self.is_recovering = false;
        let incomplete = self.jobs.iter().filter(|(_, job)| !job.is_complete());
        for job in incomplete.map(|(job, _)| *job).collect::<Vec<_>>() {
            self.remove(job);
        }
    }

    fn refer(&mut self, job: JobKey, segment: SegmentNo) {
        let Some(index) = self.jobs.get_mut(&job) else {
            return;
        };
        let count = index.segments.entry(segment).or_default();
        *count += 1;
        if *count == 1 {
            let used = self.uses.entry(segment).or_default();
            used.live += 1;
            used.ever += 1;
        }
    }

    pub(crate) fn remove(&mut self, job: JobKey) {
        let Some(index) = self.jobs.remove(&job) else {
            return;
        };
        for segment in index.segments.keys() {
            if let Some(used) = self.uses.get_mut(segment) {
                used.live = used.live.saturating_sub(1);
            }
        }
    }

    /// Forgets that a job was in a segment whose records were copied elsewhere.
    pub(crate) fn moved_out_of(&mut self, segment: SegmentNo) {
        for index in self.jobs.values_mut() {
            index.segments.remove(&segment);
        }
        self.uses.remove(&segment);
    }

    /// How many jobs a segment has.
    pub(crate) fn used(&self, segment: SegmentNo) -> Use {
        self.uses.get(&segment).copied().unwrap_or_default()
    }

    /// Jobs that have records in a segment.
    pub(crate) fn jobs_in(&self, segment: SegmentNo) -> Vec<JobKey> {
        let mut jobs: Vec<JobKey> = self
            .jobs
            .iter()
            .filter(|(_, index)| index.segments.contains_key(&segment))
            .map(|(job, _)| *job)
            .collect();
        jobs.sort_unstable();
        jobs
    }
}

//! The thread that writes: everything that waits, in one write and one sync.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::Error;
use crate::frame::{Found, HEAD_BYTES, frame_at};
use crate::index::{Index, Location};
use crate::journal::{Options, SyncObserver};
use crate::reader::Reader;
use crate::record::{JobKey, Record, View, entry, view};
use crate::recovery::End;
use crate::segment::{self, START, SegmentNo};

/// Told what became of an append.
pub(crate) type Done = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// How many segments must be mostly forgotten before others are copied for their sake.
const MIN_DEAD_SEGMENTS: usize = 2;

/// How long records wait for others to be written with when nobody waits for them.
const UNHURRIED_DELAY: Duration = Duration::from_millis(10);

/// Frames that wait to be written together.
pub(crate) struct Waiting {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_urgent: bool,
    pub(crate) done: Done,
}

/// What waits for the writer.
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    wake: Condvar,
    limit_bytes: usize,
}

#[derive(Default)]
struct QueueState {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// Somebody waits for one of them.
    is_urgent: bool,
    closed: bool,
}

impl Queue {
    pub(crate) fn new(limit_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            limit_bytes,
        }
    }

    pub(crate) fn push(&self, waiting: Waiting) {
        let mut state = self.state.lock();
        let refused = if state.closed {
            Some(Error::Closed)
        } else {
            let full = state.bytes.saturating_add(waiting.bytes.len()) > self.limit_bytes
                && state.bytes > 0;
            full.then_some(Error::Full {
                limit_bytes: self.limit_bytes,
            })
        };
        if let Some(error) = refused {
            drop(state);
            return (waiting.done)(Err(error));
        }
        let wakes = waiting.is_urgent || state.waiting.is_empty();
        state.bytes += waiting.bytes.len();
        state.is_urgent |= waiting.is_urgent;
        state.waiting.push(waiting);
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.wake.notify_one();
    }

    fn is_empty(&self) -> bool {
        self.state.lock().waiting.is_empty()
    }

    /// Everything that waits, once something of it is urgent or the first has waited long enough;
    /// `None` when the journal is closed and nothing waits.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut state = self.state.lock();
        while !state.is_urgent && !state.closed {
            if state.waiting.is_empty() {
                self.wake.wait(&mut state);
            } else if self.wake.wait_for(&mut state, UNHURRIED_DELAY).timed_out() {
                break;
            }
        }
        if state.waiting.is_empty() {
            return None;
        }
        (state.bytes, state.is_urgent) = (0, false);
        Some(std::mem::take(&mut state.waiting))
    }
}

/// The thread that writes.
pub(crate) struct Writer {
    dir: PathBuf,
    segment_bytes: u32,
    index: Arc<RwLock<Index>>,
    reader: Arc<Reader>,
    queue: Arc<Queue>,
    on_sync: Option<SyncObserver>,
    segment: SegmentNo,
    /// All segments before that one, the oldest first.
    older: VecDeque<SegmentNo>,
    /// The log is cleaned until no more than half of it is wasted.
    is_sweeping: bool,
    file: Option<File>,
    /// Up to here everything is synced.
    offset: u32,
}

impl Writer {
    pub(crate) fn new(
        dir: &Path,
        options: &Options,
        end: End,
        index: Arc<RwLock<Index>>,
        reader: Arc<Reader>,
        queue: Arc<Queue>,
    ) -> Result<Self, Error> {
        let mut older = VecDeque::from(segment::list(dir)?);
        older.retain(|segment| Some(*segment) != end.segment);
        let mut writer = Self {
            dir: dir.to_path_buf(),
            segment_bytes: options.segment_bytes.max(START * 2),
            index,
            reader,
            queue,
            on_sync: options.on_sync.clone(),
            segment: end.segment.unwrap_or(SegmentNo(0)),
            older,
            is_sweeping: true,
            file: None,
            offset: end.offset,
        };
        match end.segment {
            Some(segment) => writer.reopen(segment)?,
            None => writer.roll()?,
        }
        Ok(writer)
    }

    /// Goes on in the last segment, behind its last whole record.
    fn reopen(&mut self, segment: SegmentNo) -> Result<(), Error> {
        let path = segment.path(&self.dir);
        let opened = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .and_then(|file| {
                // What is torn must not be taken for damage once something is written behind it.
                file.set_len(u64::from(self.offset))?;
                file.sync_all()?;
                Ok(file)
            });
        self.file = Some(opened.map_err(|error| Error::io(&path, &error))?);
        Ok(())
    }

    /// Begins the next segment.
    fn roll(&mut self) -> Result<(), Error> {
        self.file = None;
        let next = SegmentNo(self.segment.0 + 1);
        self.file = Some(segment::create(&self.dir, next, self.segment_bytes.into())?);
        if self.segment > SegmentNo(0) {
            self.older.push_back(self.segment);
        }
        (self.segment, self.offset) = (next, START);
        self.is_sweeping = true;
        Ok(())
    }

    pub(crate) fn run(mut self) {
        while let Some(waiting) = self.queue.take() {
            let mut dones = Vec::with_capacity(waiting.len());
            let mut group = Vec::new();
            for Waiting { bytes, done, .. } in waiting {
                // A record must not reach beyond what a location can name.
                if !group.is_empty() && group.len() + bytes.len() > self.segment_bytes as usize {
                    self.commit(std::mem::take(&mut group), std::mem::take(&mut dones));
                }
                if group.is_empty() {
                    group = bytes;
                } else {
                    group.extend_from_slice(&bytes);
                }
                dones.push(done);
            }
            self.commit(group, dones);
            // Nobody waits for more than one segment to be cleaned.
            while self.clean() && self.queue.is_empty() {}
        }
    }

    fn commit(&mut self, group: Vec<u8>, dones: Vec<Done>) {
        let result = self.write(&group);
        if let Err(error) = &result {
            tracing::error!(%error, "the journal could not be written");
        }
        for done in dones {
            done(result.clone());
        }
    }

    /// Writes frames, syncs them and takes them into the index.
    fn write(&mut self, frames: &[u8]) -> Result<(), Error> {
        let mut group = Vec::with_capacity(frames.len() + 64);
        let size = group.capacity() as u64;
        let is_fresh = self.offset == START;
        if self.file.is_none()
            || (!is_fresh && u64::from(self.offset) + size > u64::from(self.segment_bytes))
        {
            self.roll()?;
        }
        Record::Synced { to: self.offset }.write(&mut group)?;
        group.extend_from_slice(frames);
        let Some(file) = &self.file else {
            return Err(Error::Closed);
        };
        let path = self.segment.path(&self.dir);
        if let Err(error) = file.write_all_at(&group, self.offset.into()) {
            // The next group goes over what was written of this one.
            return Err(Error::io(&path, &error));
        }
        let started = std::time::Instant::now();
        let synced = file.sync_data();
        if let Some(SyncObserver(told)) = &self.on_sync {
            told(started.elapsed());
        }
        if let Err(error) = synced {
            // What the disk has of this segment's end is not known any more: go on in another, and
            // leave nothing behind that looks as if it had been kept.
            let _ = file.set_len(self.offset.into());
            self.file = None;
            return Err(Error::io(&path, &error));
        }
        self.take_in(&group);
        self.offset += group.len() as u32;
        Ok(())
    }

    fn take_in(&self, group: &[u8]) {
        let mut index = self.index.write();
        let mut at = 0;
        while let Found::Frame(body) = frame_at(&group[at..]) {
            let frame = Location {
                segment: self.segment,
                offset: self.offset + at as u32,
            };
            if let Some(view) = view(body) {
                index.apply(frame, HEAD_BYTES as u32, view);
            }
            at += HEAD_BYTES + body.len();
        }
    }

    /// Removes the oldest segment, and says whether it did, when most of it is forgotten or most of
    /// the log is; what is needed of it is copied to the end before. Always the oldest: a record that
    /// a job was removed must not go before what it removes.
    fn clean(&mut self) -> bool {
        let Some(&oldest) = self.older.front() else {
            return false;
        };
        let used = self.index.read().used(oldest);
        if !used.is_mostly_dead() && !self.sweeps() {
            return false;
        }
        if used.live > 0
            && let Err(error) = self.copy_out(oldest)
        {
            tracing::error!(%error, "the journal could not be compacted");
            return false;
        }
        self.index.write().moved_out_of(oldest);
        self.reader.forget(oldest);
        self.older.pop_front();
        if let Err(error) = std::fs::remove_file(oldest.path(&self.dir)) {
            tracing::error!(%error, segment = oldest.0, "a segment could not be removed");
        }
        true
    }

    /// Whether so much of the log is forgotten that even what is needed of its oldest segments is
    /// worth copying: one job that lives long must not keep everything that came after it. Looked at
    /// when the log grows.
    fn sweeps(&mut self) -> bool {
        if self.is_sweeping {
            let index = self.index.read();
            let is_dead = |segment: &&SegmentNo| index.used(**segment).is_mostly_dead();
            let dead = self.older.iter().filter(is_dead).count();
            self.is_sweeping = dead >= MIN_DEAD_SEGMENTS && dead * 2 > self.older.len();
        }
        self.is_sweeping
    }

    /// Appends anew what live jobs have in a segment.
    fn copy_out(&mut self, oldest: SegmentNo) -> Result<(), Error> {
        let jobs = self.index.read().jobs_in(oldest);
        let path = oldest.path(&self.dir);
        let bytes = std::fs::read(&path).map_err(|error| Error::io(&path, &error))?;
        let mut copies = Vec::new();
        crate::frame::scan(&bytes[START as usize..], |at, body| {
            let frame = Location {
                segment: oldest,
                offset: START + at as u32,
            };
            self.copy(&jobs, frame, body, &mut copies);
        });
        for copy in copies.chunks(COPIES_A_GROUP) {
            self.write(&copy.concat())?;
        }
        Ok(())
    }

    fn copy(&self, jobs: &[JobKey], frame: Location, body: &[u8], copies: &mut Vec<Vec<u8>>) {
        let index = self.index.read();
        let is_live = |job: JobKey| jobs.binary_search(&job).is_ok();
        let keep = match view(body) {
            None | Some(View::Synced { .. } | View::Removed { .. }) => false,
            Some(
                View::Job { job, .. }
                | View::Tasks { job, .. }
                | View::Sealed { job, .. }
                | View::Note { job, .. },
            ) => is_live(job),
            // An older state must not come after a newer one.
            Some(View::State { job, bytes }) => {
                is_live(job)
                    && index.jobs.get(&job).and_then(|job| job.state.as_deref()) == Some(bytes)
            }
            Some(View::Results(entries)) => {
                let shared = bytes::Bytes::copy_from_slice(body);
                let current = entries.filter(|(at, job, task, _, _)| {
                    let offset = frame.offset + (HEAD_BYTES + at) as u32;
                    let location = Location {
                        segment: frame.segment,
                        offset,
                    };
                    index.jobs.get(job).and_then(|job| job.result(*task)) == Some(location)
                });
                let results: Vec<_> = current
                    .filter_map(|(at, ..)| entry(&shared.slice(at..)))
                    .collect();
                let mut copy = Vec::new();
                if !results.is_empty() && Record::Results(results).write(&mut copy).is_ok() {
                    copies.push(copy);
                }
                false
            }
        };
        if keep {
            let mut copy = Vec::with_capacity(body.len() + HEAD_BYTES);
            crate::frame::write_frame(&mut copy, |buffer| buffer.extend_from_slice(body));
            copies.push(copy);
        }
    }
}

/// Records that are copied with one sync.
const COPIES_A_GROUP: usize = 256;

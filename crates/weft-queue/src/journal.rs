//! The journal as the rest of the system sees it.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use crate::Error;
use crate::index::{Chunk, Index, Noted};
use crate::reader::Reader;
use crate::record::{JobKey, NoteEntry, Record, ResultEntry, View, payloads, view};
use crate::recovery::{RecoveredJob, Recovery, recover};
use crate::writer::{Done, Queue, Waiting, Writer};

/// The format of the directory; a newer one is refused.
const FORMAT: u32 = 1;

/// Told how long each sync of the log took; called on the writer's thread, must not block.
#[derive(Clone)]
pub struct SyncObserver(pub Arc<dyn Fn(std::time::Duration) + Send + Sync>);

impl std::fmt::Debug for SyncObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SyncObserver")
    }
}

/// Settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment is followed by another when it has this size, in bytes.
    pub segment_bytes: u32,
    /// The most bytes that wait to be written.
    pub max_waiting_bytes: usize,
    /// Who is told how long each sync took.
    pub on_sync: Option<SyncObserver>,
}

impl Default for Options {
    /// Segments of 64 MiB, 256 MiB waiting.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            max_waiting_bytes: 256 << 20,
            on_sync: None,
        }
    }
}

/// The journal; cloning shares it. The writer ends when the last one is gone, which waits for it.
#[derive(Clone)]
pub struct Journal {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<Queue>,
    index: Arc<RwLock<Index>>,
    reader: Arc<Reader>,
    writer: Option<JoinHandle<()>>,
}

impl Drop for Shared {
    /// Waits until all that was appended is written, so that the directory may be opened again.
    fn drop(&mut self) {
        self.queue.close();
        let writer = self.writer.take();
        // The last handle may be gone with a callback, which runs on the writer itself.
        let other = writer.filter(|writer| writer.thread().id() != std::thread::current().id());
        if let Some(writer) = other {
            let _ = writer.join();
        }
    }
}

impl Journal {
    /// Opens or makes the journal in a directory and reads what it has.
    ///
    /// # Errors
    /// When the directory cannot be used, is open elsewhere, or has a newer format.
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery), Error> {
        std::fs::create_dir_all(dir).map_err(|error| Error::io(dir, &error))?;
        let lock = lock(dir)?;
        check_format(dir)?;
        let (index, end, damage) = recover(dir)?;
        let reader = Arc::new(Reader::new(dir.to_path_buf()));
        let recovery = Recovery {
            jobs: recovered(&index, &reader),
            damage,
        };
        let index = Arc::new(RwLock::new(index));
        let queue = Arc::new(Queue::new(options.max_waiting_bytes));
        let writer = Writer::new(
            dir,
            &options,
            end,
            Arc::clone(&index),
            Arc::clone(&reader),
            Arc::clone(&queue),
        )?;
        let writer = std::thread::Builder::new()
            .name("weft-journal".to_owned())
            .spawn(move || {
                let _held_until_the_last_write = lock;
                writer.run();
            })
            .map_err(|error| Error::Storage(error.to_string()))?;
        Ok((
            Self {
                shared: Arc::new(Shared {
                    queue,
                    index,
                    reader,
                    writer: Some(writer),
                }),
            },
            recovery,
        ))
    }

    /// Appends records together; `done` is told once they are on disk, or why they are not. It is
    /// called on the writer's thread and must not block. Records of several calls are written in
    /// the order of the calls.
    pub fn append(
        &self,
        records: &[Record],
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        self.push(records, true, Box::new(done));
    }

    /// Appends records that nobody waits for: they are written with those that come next, or a few
    /// milliseconds later, in the order of all calls.
    pub fn append_unhurried(
        &self,
        records: &[Record],
        done: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        self.push(records, false, Box::new(done));
    }

    fn push(&self, records: &[Record], is_urgent: bool, done: Done) {
        let mut bytes = Vec::with_capacity(records.iter().map(Record::size).sum());
        for record in records {
            if let Err(error) = record.write(&mut bytes) {
                return done(Err(error));
            }
        }
        self.shared.queue.push(Waiting {
            bytes,
            is_urgent,
            done,
        });
    }

    /// Appends records together and waits until they are on disk.
    ///
    /// # Errors
    /// When they could not be written.
    pub async fn append_durable(&self, records: &[Record]) -> Result<(), Error> {
        let (sender, receiver) = oneshot::channel();
        self.append(records, move |result| drop(sender.send(result)));
        receiver.await.map_err(|_| Error::Closed)?
    }

    /// The payloads of some tasks of a job; `None` when the job or a task is not known, or a
    /// record is damaged.
    pub fn payloads(&self, job: JobKey, first: u32, count: u32) -> Option<Vec<Bytes>> {
        settled(|| self.payloads_once(job, first, count))
    }

    fn payloads_once(&self, job: JobKey, first: u32, count: u32) -> Option<Vec<Bytes>> {
        let chunks: Vec<Chunk> = {
            let index = self.shared.index.read();
            let job = index.jobs.get(&job)?;
            let mut chunks = Vec::new();
            let mut task = first;
            let end = first.checked_add(count)?;
            while task < end {
                let chunk = job.chunk(task)?;
                chunks.push(*chunk);
                task = chunk.first.saturating_add(chunk.count);
            }
            chunks
        };
        let mut found = Vec::with_capacity(count as usize);
        for chunk in chunks {
            let from = first.max(chunk.first);
            let to = (first + count).min(chunk.first.saturating_add(chunk.count));
            match chunk.payloads {
                None => found.extend((from..to).map(|_| Bytes::new())),
                Some(at) => {
                    let body = self.shared.reader.body(chunk.frame)?;
                    let all = payloads(&body, at)?;
                    found.extend_from_slice(
                        all.get((from - chunk.first) as usize..(to - chunk.first) as usize)?,
                    );
                }
            }
        }
        Some(found)
    }

    /// The tasks that were written together with this one, and their payloads; none when all are
    /// empty. A record is decoded as a whole, so that asking for its tasks one by one would take
    /// time with the square of their number. `None` when the job or the task is not known, or the
    /// record is damaged.
    pub fn payloads_beside(&self, job: JobKey, task: u32) -> Option<(Range<u32>, Vec<Bytes>)> {
        settled(|| self.payloads_beside_once(job, task))
    }

    fn payloads_beside_once(&self, job: JobKey, task: u32) -> Option<(Range<u32>, Vec<Bytes>)> {
        let chunk = *self.shared.index.read().jobs.get(&job)?.chunk(task)?;
        let found = match chunk.payloads {
            None => Vec::new(),
            Some(at) => payloads(&self.shared.reader.body(chunk.frame)?, at)?,
        };
        let tasks = chunk.first..chunk.first.saturating_add(chunk.count);
        Some((tasks, found))
    }

    /// The result of a task; `None` when there is none or it is damaged.
    pub fn result(&self, job: JobKey, task: u32) -> Option<ResultEntry> {
        settled(|| {
            let location = self.shared.index.read().jobs.get(&job)?.result(task)?;
            let entry = self.shared.reader.result(location)?;
            (entry.job == job && entry.task == task).then_some(entry)
        })
    }

    /// The attempts of a task that were noted, in their order; those that are damaged are left out.
    pub fn notes(&self, job: JobKey, task: u32) -> Vec<NoteEntry> {
        let whole = settled(|| {
            let (notes, missing) = self.notes_once(job, task);
            (missing == 0).then_some(notes)
        });
        whole.unwrap_or_else(|| self.notes_once(job, task).0)
    }

    /// What can be read, and how many cannot.
    fn notes_once(&self, job: JobKey, task: u32) -> (Vec<NoteEntry>, usize) {
        let noted: Vec<Noted> = {
            let index = self.shared.index.read();
            let job = index.jobs.get(&job);
            job.and_then(|job| job.notes.get(&task))
                .cloned()
                .unwrap_or_default()
        };
        let read = |noted: &Noted| {
            let body = self.shared.reader.body_once(noted.frame)?;
            match view(&body)? {
                View::Note {
                    job: of,
                    task: at,
                    attempt,
                    code,
                    bytes,
                } if of == job && at == task => Some(NoteEntry {
                    attempt,
                    code,
                    body: body.slice_ref(bytes),
                }),
                _ => None,
            }
        };
        let notes: Vec<NoteEntry> = noted.iter().filter_map(read).collect();
        let missing = noted.len() - notes.len();
        (notes, missing)
    }
}

/// Reads again what could not be read: its segment may have been copied away and removed after the
/// look at the index, which knows the new place since.
fn settled<T>(read: impl Fn() -> Option<T>) -> Option<T> {
    (0..3).find_map(|_| read())
}

fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|error| Error::io(&path, &error))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| Error::Locked(dir.display().to_string()))?;
    Ok(file)
}

fn check_format(dir: &Path) -> Result<(), Error> {
    let path: PathBuf = dir.join("format");
    match std::fs::read_to_string(&path) {
        Ok(found) => match found.trim().parse::<u32>() {
            Ok(number) if number <= FORMAT => Ok(()),
            _ => Err(Error::NewerFormat {
                found: found.trim().to_owned(),
                supported: FORMAT,
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::write(&path, FORMAT.to_string()).map_err(|error| Error::io(&path, &error))
        }
        Err(error) => Err(Error::io(&path, &error)),
    }
}

fn recovered(index: &Index, reader: &Reader) -> Vec<RecoveredJob> {
    let mut jobs: Vec<RecoveredJob> = index
        .jobs
        .iter()
        .filter_map(|(key, job)| {
            let header = reader
                .body(job.frame)?
                .get(job.header.clone())
                .map(Bytes::copy_from_slice)?;
            let results = job.results().filter_map(|(task, at)| {
                let entry = reader.result(at)?;
                Some((task, entry.attempt, entry.state))
            });
            Some(RecoveredJob {
                job: *key,
                header,
                tasks: job.tasks?,
                results: results.collect(),
                state: job.state.clone(),
                notes: job
                    .notes
                    .iter()
                    .flat_map(|(task, notes)| {
                        notes.iter().map(|noted| (*task, noted.attempt, noted.code))
                    })
                    .collect(),
            })
        })
        .collect();
    jobs.sort_unstable_by_key(|job| job.job);
    jobs
}

#[cfg(test)]
mod tests;

//! Records: what the bodies of frames say. Numbers are little-endian.

use bytes::Bytes;

use crate::Error;
use crate::frame::{MAX_BODY_BYTES, write_frame};

/// A job's number; grows with each job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobKey(pub u64);

/// A task's final outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResultEntry {
    /// Its job.
    pub job: JobKey,
    /// Its number in the job.
    pub task: u32,
    /// The attempt that made it final.
    pub attempt: u32,
    /// The caller's code of its state.
    pub state: u8,
    /// What it left behind.
    pub body: Bytes,
}

/// An attempt that did not make its task final, as it was noted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NoteEntry {
    /// Which attempt.
    pub attempt: u32,
    /// The caller's code of how it ended.
    pub code: u8,
    /// What happened.
    pub body: Bytes,
}

/// Something to keep.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A job begins. With `tasks` it is complete at once: so many tasks with these payloads, or,
    /// when there are none, with empty ones.
    Job {
        /// Which.
        job: JobKey,
        /// What the caller wants to find again.
        header: Bytes,
        /// How many tasks it has; `None` for a job whose tasks follow.
        tasks: Option<u32>,
        /// The payloads of all tasks, or none.
        payloads: Vec<Bytes>,
    },
    /// Consecutive tasks of a job that is not sealed.
    Tasks {
        /// Which job.
        job: JobKey,
        /// The first of them.
        first: u32,
        /// Their payloads.
        payloads: Vec<Bytes>,
    },
    /// A job is complete.
    Sealed {
        /// Which job.
        job: JobKey,
        /// How many tasks it has.
        tasks: u32,
    },
    /// Outcomes; of the same task the last counts.
    Results(Vec<ResultEntry>),
    /// What the caller wants to know of a job; the last counts.
    State {
        /// Which job.
        job: JobKey,
        /// What.
        bytes: Bytes,
    },
    /// An attempt of a task that did not make it final.
    Note {
        /// Which job.
        job: JobKey,
        /// Which task.
        task: u32,
        /// Which attempt; of the same attempt the last note counts.
        attempt: u32,
        /// The caller's code of how it ended.
        code: u8,
        /// What happened.
        bytes: Bytes,
    },
    /// A job is forgotten.
    Removed {
        /// Which job.
        job: JobKey,
    },
    /// Everything up to this place of the segment had been synced when the group began.
    Synced {
        /// Offset in the segment.
        to: u32,
    },
}

const JOB: u8 = 1;
const TASKS: u8 = 2;
const SEALED: u8 = 3;
const RESULTS: u8 = 4;
const STATE: u8 = 5;
const NOTE: u8 = 6;
const REMOVED: u8 = 7;
const SYNCED: u8 = 8;
/// Stands for `None` where a number of tasks is optional.
const NO_COUNT: u32 = u32::MAX;

impl Record {
    /// Appends the record as a frame.
    ///
    /// # Errors
    /// When it is larger than a frame may be.
    pub(crate) fn write(&self, buffer: &mut Vec<u8>) -> Result<(), Error> {
        let bytes = self.size();
        if bytes > MAX_BODY_BYTES {
            return Err(Error::TooLarge {
                bytes,
                limit_bytes: MAX_BODY_BYTES,
            });
        }
        write_frame(buffer, |body| self.write_body(body));
        Ok(())
    }

    /// About how many bytes it takes, never less.
    pub(crate) fn size(&self) -> usize {
        let all = |payloads: &[Bytes]| {
            payloads
                .iter()
                .map(|payload| payload.len() + 4)
                .sum::<usize>()
        };
        64 + match self {
            Self::Job {
                header, payloads, ..
            } => header.len() + all(payloads),
            Self::Tasks { payloads, .. } => all(payloads),
            Self::Results(entries) => entries
                .iter()
                .map(|entry| entry.body.len() + ENTRY_HEAD_BYTES)
                .sum(),
            Self::State { bytes, .. } | Self::Note { bytes, .. } => bytes.len(),
            Self::Sealed { .. } | Self::Removed { .. } | Self::Synced { .. } => 0,
        }
    }

    fn write_body(&self, body: &mut Vec<u8>) {
        match self {
            Self::Job {
                job,
                header,
                tasks,
                payloads,
            } => {
                body.push(JOB);
                put_u64(body, job.0);
                put_u32(body, tasks.unwrap_or(NO_COUNT));
                put_part(body, header);
                put_payloads(body, payloads);
            }
            Self::Tasks {
                job,
                first,
                payloads,
            } => {
                body.push(TASKS);
                put_u64(body, job.0);
                put_u32(body, *first);
                put_payloads(body, payloads);
            }
            Self::Sealed { job, tasks } => {
                body.push(SEALED);
                put_u64(body, job.0);
                put_u32(body, *tasks);
            }
            Self::Results(entries) => {
                body.push(RESULTS);
                for entry in entries {
                    put_entry(body, entry);
                }
            }
            Self::State { job, bytes } => {
                body.push(STATE);
                put_u64(body, job.0);
                body.extend_from_slice(bytes);
            }
            Self::Note {
                job,
                task,
                attempt,
                code,
                bytes,
            } => {
                body.push(NOTE);
                put_u64(body, job.0);
                put_u32(body, *task);
                body.push(*code);
                put_u32(body, *attempt);
                body.extend_from_slice(bytes);
            }
            Self::Removed { job } => {
                body.push(REMOVED);
                put_u64(body, job.0);
            }
            Self::Synced { to } => {
                body.push(SYNCED);
                put_u32(body, *to);
            }
        }
    }
}

fn put_u32(body: &mut Vec<u8>, number: u32) {
    body.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(body: &mut Vec<u8>, number: u64) {
    body.extend_from_slice(&number.to_le_bytes());
}

fn put_part(body: &mut Vec<u8>, part: &[u8]) {
    put_u32(body, part.len() as u32);
    body.extend_from_slice(part);
}

fn put_payloads(body: &mut Vec<u8>, payloads: &[Bytes]) {
    put_u32(body, payloads.len() as u32);
    for payload in payloads {
        put_u32(body, payload.len() as u32);
    }
    for payload in payloads {
        body.extend_from_slice(payload);
    }
}

/// Bytes before the body of a result: job, task, attempt, state, length, and a CRC over all of it
/// and the body, so that one result can be checked without the others.
pub(crate) const ENTRY_HEAD_BYTES: usize = 8 + 4 + 4 + 1 + 4 + 4;

fn put_entry(body: &mut Vec<u8>, entry: &ResultEntry) {
    let start = body.len();
    put_u64(body, entry.job.0);
    put_u32(body, entry.task);
    put_u32(body, entry.attempt);
    body.push(entry.state);
    put_u32(body, entry.body.len() as u32);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&body[start..]), &entry.body);
    put_u32(body, crc);
    body.extend_from_slice(&entry.body);
}

/// Where the parts of a record are in its body.
pub(crate) enum View<'a> {
    Job {
        job: JobKey,
        tasks: Option<u32>,
        header: std::ops::Range<usize>,
        payloads: Option<PayloadsAt>,
    },
    Tasks {
        job: JobKey,
        first: u32,
        payloads: Option<PayloadsAt>,
    },
    Sealed {
        job: JobKey,
        tasks: u32,
    },
    Results(Entries<'a>),
    State {
        job: JobKey,
        bytes: &'a [u8],
    },
    Note {
        job: JobKey,
        task: u32,
        attempt: u32,
        code: u8,
        bytes: &'a [u8],
    },
    Removed {
        job: JobKey,
    },
    Synced {
        to: u32,
    },
}

/// Where payloads are: their number, and where their lengths begin in the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PayloadsAt {
    pub(crate) count: u32,
    pub(crate) lengths_at: usize,
}

/// Reads the body of a frame; `None` when it says nothing that is known.
pub(crate) fn view(body: &[u8]) -> Option<View<'_>> {
    let mut reader = Reader { body, at: 0 };
    Some(match reader.u8()? {
        JOB => {
            let job = JobKey(reader.u64()?);
            let tasks = Some(reader.u32()?).filter(|tasks| *tasks != NO_COUNT);
            let length = reader.u32()? as usize;
            let header = reader.at..reader.at.checked_add(length)?;
            reader.skip(length)?;
            View::Job {
                job,
                tasks,
                header,
                payloads: reader.payloads()?,
            }
        }
        TASKS => View::Tasks {
            job: JobKey(reader.u64()?),
            first: reader.u32()?,
            payloads: reader.payloads()?,
        },
        SEALED => View::Sealed {
            job: JobKey(reader.u64()?),
            tasks: reader.u32()?,
        },
        RESULTS => View::Results(Entries {
            body,
            at: reader.at,
        }),
        STATE => View::State {
            job: JobKey(reader.u64()?),
            bytes: &body[reader.at..],
        },
        NOTE => View::Note {
            job: JobKey(reader.u64()?),
            task: reader.u32()?,
            code: reader.u8()?,
            attempt: reader.u32()?,
            bytes: &body[reader.at..],
        },
        REMOVED => View::Removed {
            job: JobKey(reader.u64()?),
        },
        SYNCED => View::Synced { to: reader.u32()? },
        _ => return None,
    })
}

/// The payloads of a body, as slices of it.
pub(crate) fn payloads(body: &Bytes, at: PayloadsAt) -> Option<Vec<Bytes>> {
    let lengths_end = at.lengths_at.checked_add(at.count as usize * 4)?;
    let (lengths, _) = body.get(at.lengths_at..lengths_end)?.as_chunks::<4>();
    let mut from = lengths_end;
    let mut payloads = Vec::with_capacity(lengths.len());
    for length in lengths {
        let to = from.checked_add(u32::from_le_bytes(*length) as usize)?;
        if to > body.len() {
            return None;
        }
        payloads.push(body.slice(from..to));
        from = to;
    }
    Some(payloads)
}

/// The results of a body, each with its place.
pub(crate) struct Entries<'a> {
    body: &'a [u8],
    at: usize,
}

impl Iterator for Entries<'_> {
    type Item = (usize, JobKey, u32, u32, u8);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let mut reader = Reader {
            body: self.body,
            at: start,
        };
        let (job, task, attempt, state) =
            (reader.u64()?, reader.u32()?, reader.u32()?, reader.u8()?);
        let length = reader.u32()? as usize;
        reader.u32()?;
        reader.skip(length)?;
        self.at = reader.at;
        Some((start, JobKey(job), task, attempt, state))
    }
}

/// Length of the body of the result whose head this is.
pub(crate) fn entry_body_len(head: &[u8; ENTRY_HEAD_BYTES]) -> usize {
    u32::from_le_bytes([head[17], head[18], head[19], head[20]]) as usize
}

/// A result by itself; `None` when its checksum does not hold.
pub(crate) fn entry(bytes: &Bytes) -> Option<ResultEntry> {
    let mut reader = Reader { body: bytes, at: 0 };
    let (job, task, attempt, state) = (reader.u64()?, reader.u32()?, reader.u32()?, reader.u8()?);
    let length = reader.u32()? as usize;
    let crc = crc32c::crc32c(&bytes[..reader.at]);
    let stored = reader.u32()?;
    let end = reader.at.checked_add(length)?;
    if end > bytes.len() {
        return None;
    }
    let body = bytes.slice(reader.at..end);
    (crc32c::crc32c_append(crc, &body) == stored).then_some(ResultEntry {
        job: JobKey(job),
        task,
        attempt,
        state,
        body,
    })
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn skip(&mut self, length: usize) -> Option<()> {
        let end = self.at.checked_add(length)?;
        (end <= self.body.len()).then(|| self.at = end)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = self.body.get(self.at..)?.first_chunk::<N>()?;
        self.at += N;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// `None` inside: there are none.
    fn payloads(&mut self) -> Option<Option<PayloadsAt>> {
        let count = self.u32()?;
        let at = PayloadsAt {
            count,
            lengths_at: self.at,
        };
        self.skip((count as usize).checked_mul(4)?)?;
        Some((count > 0).then_some(at))
    }
}

//! What a unit has printed, read: from a time, the last lines, as it grows, of the instance before.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::Arc;

use weft_proto::v1;
use weft_unit::LogLine;

use super::book::{Book, each};
use super::line::{Entry, decode};
use super::{CURRENT, OLDER};

/// Lines that are given at once, and about how many bytes of them.
const MAX_BATCH: usize = 256;
const MAX_BATCH_BYTES: usize = 256 << 10;

/// Which lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::units) struct Wanted {
    pub(in crate::units) since_ms: u64,
    pub(in crate::units) tail: Option<u64>,
    pub(in crate::units) previous: bool,
}

impl From<&v1::LogsStart> for Wanted {
    fn from(start: &v1::LogsStart) -> Self {
        Self {
            since_ms: start.since_ms,
            tail: start.tail_set.then_some(start.tail.into()),
            previous: start.previous,
        }
    }
}

/// Reads a book from a place on. Calls wait for the disk.
pub(in crate::units) struct Reader {
    book: Arc<Book>,
    wanted: Wanted,
    /// The instance whose lines are wanted; all when `None`.
    instance: Option<u64>,
    /// The instance that the next line is of.
    current: u64,
    /// Lines to leave out, so that the last ones remain.
    skip: u64,
    older: Option<BufReader<File>>,
    file: Option<BufReader<File>>,
    generation: u64,
    /// The beginning of a line whose end is not written yet.
    partial: Vec<u8>,
}

impl Reader {
    /// `None` when the instance before is wanted and there was none.
    pub(in crate::units) fn open(book: Arc<Book>, wanted: Wanted) -> io::Result<Option<Self>> {
        let mut reader = Self {
            generation: book.generation(),
            older: open(&book, OLDER)?,
            file: open(&book, CURRENT)?,
            book,
            wanted,
            instance: None,
            current: 0,
            skip: 0,
            partial: Vec::new(),
        };
        let starts = reader.count(|entry| matches!(entry, Entry::Start { .. }))?;
        if wanted.previous {
            if starts < 2 {
                return Ok(None);
            }
            reader.instance = Some(starts - 1);
        }
        if let Some(tail) = wanted.tail {
            let (mut current, instance) = (0, reader.instance);
            let lines = reader.count(|entry| {
                current += u64::from(matches!(entry, Entry::Start { .. }));
                is_wanted(entry, wanted.since_ms, instance, current)
            })?;
            reader.skip = lines.saturating_sub(tail);
        }
        Ok(Some(reader))
    }

    fn count(&self, mut counts: impl FnMut(&Entry) -> bool) -> io::Result<u64> {
        let mut count = 0;
        for name in [OLDER, CURRENT] {
            let counted = each(&self.book.dir().join(name), |entry| {
                count += u64::from(counts(&entry));
            });
            if let Err(error) = counted
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        Ok(count)
    }

    /// The next lines; empty when there are no more now.
    pub(in crate::units) fn next(&mut self) -> io::Result<Vec<LogLine>> {
        let (mut lines, mut bytes) = (Vec::new(), 0);
        while lines.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES {
            let Some(entry) = self.entry()? else {
                break;
            };
            self.current += u64::from(matches!(entry, Entry::Start { .. }));
            if !is_wanted(&entry, self.wanted.since_ms, self.instance, self.current) {
                continue;
            }
            if self.skip > 0 {
                self.skip -= 1;
            } else if let Entry::Line(line) = entry {
                bytes += line.line.len();
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// The next entry that is whole.
    fn entry(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(older) = &mut self.older {
                let mut text = Vec::new();
                if older.read_until(b'\n', &mut text)? == 0 {
                    self.older = None;
                } else if let Some(entry) = decode(&text) {
                    return Ok(Some(entry));
                }
                continue;
            }
            if self.file.is_none() {
                self.file = open(&self.book, CURRENT)?;
                self.generation = self.book.generation();
            }
            let Some(file) = &mut self.file else {
                return Ok(None);
            };
            // Looked at before the file's end is: what is written after that is in the next one.
            let generation = self.book.generation();
            if file.read_until(b'\n', &mut self.partial)? == 0 {
                if generation == self.generation {
                    return Ok(None);
                }
                self.partial.clear();
                self.file = None;
                continue;
            }
            if self.partial.last() != Some(&b'\n') {
                return Ok(None);
            }
            if let Some(entry) = decode(&std::mem::take(&mut self.partial)) {
                return Ok(Some(entry));
            }
        }
    }
}

fn is_wanted(entry: &Entry, since_ms: u64, instance: Option<u64>, current: u64) -> bool {
    let Entry::Line(line) = entry else {
        return false;
    };
    line.at_ms >= since_ms && instance.is_none_or(|instance| instance == current)
}

fn open(book: &Book, name: &str) -> io::Result<Option<BufReader<File>>> {
    match File::open(book.dir().join(name)) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

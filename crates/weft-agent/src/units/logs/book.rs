//! The files of one unit, written.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tokio::sync::watch;
use weft_unit::LogLine;

use super::line::{Entry, decode, encode};
use super::{CURRENT, MAX_FILE_BYTES, OLDER};

/// The longest line of evidence, in bytes.
const MAX_EVIDENCE_BYTES: usize = 512;

/// What a unit has printed. Calls wait for the disk, but for [`subscribe`](Self::subscribe).
pub(in crate::units) struct Book {
    dir: PathBuf,
    writer: Mutex<Writer>,
    grown: watch::Sender<u64>,
}

#[derive(Default)]
struct Writer {
    file: Option<File>,
    bytes: u64,
    /// Grows with each new file.
    generation: u64,
    last: Last,
}

/// The newest lines, all of one millisecond: where an engine's log was left off.
#[derive(Default, Clone, Debug)]
struct Last {
    at_ms: u64,
    lines: Vec<LogLine>,
}

impl Last {
    fn note(&mut self, line: &LogLine) {
        if line.at_ms > self.at_ms {
            self.at_ms = line.at_ms;
            self.lines.clear();
        }
        if line.at_ms == self.at_ms {
            self.lines.push(line.clone());
        }
    }
}

impl Book {
    /// The book in a directory, which is made when something is written.
    pub(super) fn open(dir: PathBuf) -> Self {
        let mut last = Last::default();
        for name in [OLDER, CURRENT] {
            // What cannot be read is not there: at worst lines are written twice.
            let _ = each(&dir.join(name), |entry| {
                if let Entry::Line(line) = entry {
                    last.note(&line);
                }
            });
        }
        Self {
            dir,
            writer: Mutex::new(Writer {
                last,
                ..Writer::default()
            }),
            grown: watch::Sender::new(0),
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn generation(&self) -> u64 {
        self.writer.lock().generation
    }

    /// Changes whenever something is written.
    pub(in crate::units) fn subscribe(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    /// From when on an engine has to tell its lines again, in milliseconds since the Unix epoch:
    /// those of the last millisecond are told twice, and [`append`](Self::append) knows them.
    pub(super) fn left_off(&self) -> Option<u64> {
        let at_ms = self.writer.lock().last.at_ms;
        (at_ms > 0).then(|| at_ms.saturating_sub(1))
    }

    /// The lines that it had when an engine begins to tell its lines again.
    pub(super) fn seen(&self) -> Vec<LogLine> {
        self.writer.lock().last.lines.clone()
    }

    /// An instance was started.
    pub(in crate::units) fn begin_instance(&self, at_ms: u64) -> io::Result<()> {
        self.write(&[Entry::Start { at_ms }])
    }

    pub(super) fn append(&self, lines: Vec<LogLine>) -> io::Result<()> {
        let entries: Vec<Entry> = lines.into_iter().map(Entry::Line).collect();
        self.write(&entries)
    }

    fn write(&self, entries: &[Entry]) -> io::Result<()> {
        let mut writer = self.writer.lock();
        let mut bytes = Vec::new();
        for entry in entries {
            encode(entry, &mut bytes);
            if let Entry::Line(line) = entry {
                writer.last.note(line);
            }
        }
        if writer.file.is_none() {
            self.open_current(&mut writer)?;
        }
        if writer.bytes > 0 && writer.bytes + bytes.len() as u64 > MAX_FILE_BYTES {
            fs::rename(self.dir.join(CURRENT), self.dir.join(OLDER))?;
            writer.generation += 1;
            self.open_current(&mut writer)?;
        }
        if let Some(file) = &mut writer.file {
            file.write_all(&bytes)?;
        }
        writer.bytes += bytes.len() as u64;
        drop(writer);
        self.grown.send_modify(|grown| *grown += 1);
        Ok(())
    }

    fn open_current(&self, writer: &mut Writer) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let path = self.dir.join(CURRENT);
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)?;
        writer.bytes = file.metadata()?.len();
        if !ends_whole(&path)? {
            // A line that was cut off when the agent ended is left as it is, by itself.
            file.write_all(b"\n")?;
            writer.bytes += 1;
        }
        writer.file = Some(file);
        Ok(())
    }

    /// The last lines, as evidence.
    pub(in crate::units) fn tail(&self, count: usize) -> Vec<String> {
        let mut lines = VecDeque::new();
        for name in [OLDER, CURRENT] {
            let _ = each(&self.dir.join(name), |entry| match entry {
                // Lines of an earlier instance explain nothing.
                Entry::Start { .. } => lines.clear(),
                Entry::Line(line) => {
                    lines.push_back(line);
                    if lines.len() > count {
                        lines.pop_front();
                    }
                }
            });
        }
        let text = |line: &LogLine| {
            let end = line.line.len().min(MAX_EVIDENCE_BYTES);
            String::from_utf8_lossy(&line.line[..end]).into_owned()
        };
        lines.iter().map(text).collect()
    }
}

/// Calls for each entry of a file that is whole.
pub(super) fn each(path: &Path, mut take: impl FnMut(Entry)) -> io::Result<()> {
    let mut file = BufReader::new(File::open(path)?);
    let mut text = Vec::new();
    while file.read_until(b'\n', &mut text)? > 0 {
        if let Some(entry) = decode(&text) {
            take(entry);
        }
        text.clear();
    }
    Ok(())
}

fn ends_whole(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == [b'\n'])
}

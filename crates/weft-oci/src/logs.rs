//! What units have printed, read back from their monitor's files.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tokio::sync::mpsc;
use weft_unit::{LogLine, LogStream, LogsWanted};

use crate::Error;
use crate::error::During;
use crate::monitor::{parse_line, rotated};
use crate::record::{Records, UnitDir};
use crate::state;
use crate::watch::Watch;

const CHUNK_BYTES: usize = 128 << 10;
/// Lines that wait for a slow reader.
const MAX_WAITING_LINES: usize = 256;

/// Gives the lines of a unit; the work ends with the receiver.
pub(crate) fn follow(
    records: &Records,
    unit: UnitDir,
    wanted: LogsWanted,
) -> Result<LogStream, Error> {
    // Before the first look, so that nothing is missed in between.
    let exits = records.exits_dir();
    let watch = match wanted.follow {
        true => Some(Watch::new(&[unit.path(), &exits])?),
        false => None,
    };
    let (lines, stream) = mpsc::channel(MAX_WAITING_LINES);
    tokio::spawn(async move {
        if let Err(error) = give(unit, wanted, watch, lines).await {
            tracing::warn!(%error, "reading a log");
        }
    });
    Ok(stream)
}

async fn give(
    unit: UnitDir,
    wanted: LogsWanted,
    watch: Option<Watch>,
    out: mpsc::Sender<LogLine>,
) -> Result<(), Error> {
    let mut reader = Reader::new(unit.log());
    let mut tail = VecDeque::new();
    loop {
        let batch;
        (reader, batch) = in_thread(reader).await?;
        if batch.is_empty() {
            break;
        }
        for line in batch.into_iter().filter(|line| is_later(line, &wanted)) {
            match wanted.tail {
                Some(count) => {
                    tail.push_back(line);
                    if tail.len() > count {
                        tail.pop_front();
                    }
                }
                None if out.send(line).await.is_err() => return Ok(()),
                None => {}
            }
        }
    }
    for line in tail {
        if out.send(line).await.is_err() {
            return Ok(());
        }
    }
    let Some(watch) = watch else {
        return Ok(());
    };
    loop {
        // An end that is seen before the last look means that the look has seen all.
        let has_ended = !state::is_alive(&unit)?;
        loop {
            let batch;
            (reader, batch) = in_thread(reader).await?;
            if batch.is_empty() {
                break;
            }
            for line in batch.into_iter().filter(|line| is_later(line, &wanted)) {
                if out.send(line).await.is_err() {
                    return Ok(());
                }
            }
        }
        if has_ended {
            return Ok(());
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            () = out.closed() => return Ok(()),
        }
    }
}

fn is_later(line: &LogLine, wanted: &LogsWanted) -> bool {
    wanted.since_ms.is_none_or(|since| line.at_ms > since)
}

async fn in_thread(mut reader: Reader) -> Result<(Reader, Vec<LogLine>), Error> {
    tokio::task::spawn_blocking(move || {
        let batch = reader.batch()?;
        Ok((reader, batch))
    })
    .await
    .map_err(|e| Error::NotRunning(e.to_string()))?
}

/// Reads the file that was put aside, then the one that is written to, and those after it.
struct Reader {
    path: PathBuf,
    file: Option<File>,
    has_begun: bool,
    carry: Vec<u8>,
}

impl Reader {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            has_begun: false,
            carry: Vec::new(),
        }
    }

    /// The next lines; none when there are no more yet.
    fn batch(&mut self) -> Result<Vec<LogLine>, Error> {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            if self.file.is_none() && !self.open()? {
                return Ok(Vec::new());
            }
            let Some(file) = &mut self.file else {
                return Ok(Vec::new());
            };
            let read = file
                .read(&mut buffer)
                .during(|| format!("read {}", self.path.display()))?;
            if read > 0 {
                self.carry.extend_from_slice(&buffer[..read]);
                let lines = self.lines();
                if !lines.is_empty() {
                    return Ok(lines);
                }
            } else if self.is_current() {
                return Ok(Vec::new());
            } else {
                self.carry.clear();
                self.file = None;
            }
        }
    }

    fn open(&mut self) -> Result<bool, Error> {
        let first = rotated(&self.path);
        let path = match !self.has_begun && first.exists() {
            true => &first,
            false => &self.path,
        };
        self.has_begun = true;
        match File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            file => {
                self.file = Some(file.during(|| format!("open {}", path.display()))?);
                Ok(true)
            }
        }
    }

    /// Whether the open file is still the one that is written to.
    fn is_current(&self) -> bool {
        let mine = self.file.as_ref().and_then(|file| file.metadata().ok());
        match (mine, std::fs::metadata(&self.path)) {
            (Some(mine), Ok(there)) => mine.ino() == there.ino(),
            // Between two files, or after the last one.
            (_, Err(_)) => true,
            (None, _) => false,
        }
    }

    fn lines(&mut self) -> Vec<LogLine> {
        let Some(end) = self.carry.iter().rposition(|&b| b == b'\n') else {
            return Vec::new();
        };
        let lines = self.carry[..end].split(|&b| b == b'\n');
        let lines = lines.filter_map(parse_line).collect();
        self.carry.drain(..=end);
        lines
    }
}

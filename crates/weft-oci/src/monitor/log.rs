//! What a container prints, in two files of bounded size: `1700000000000 o text`.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use weft_unit::{LogLine, MAX_LOG_LINE_BYTES};

use crate::Error;
use crate::error::During;
use crate::files::now_ms;

/// The size at which a file is put aside; the one put aside before is dropped.
const MAX_LOG_BYTES: u64 = 8 << 20;

/// The file that was put aside.
pub(crate) fn rotated(log: &Path) -> PathBuf {
    log.with_extension("1")
}

/// Which of its streams a container wrote to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stream {
    Output,
    Error,
}

impl Stream {
    fn mark(self) -> char {
        match self {
            Self::Output => 'o',
            Self::Error => 'e',
        }
    }
}

/// Writes the files.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Begun lines of both streams.
    begun: [Vec<u8>; 2],
}

impl Log {
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        let file = append(&path).during(|| format!("open {}", path.display()))?;
        let bytes = file.metadata().map_or(0, |found| found.len());
        Ok(Self {
            path,
            file,
            bytes,
            begun: [Vec::new(), Vec::new()],
        })
    }

    /// Takes what was read from a stream.
    pub(super) fn take(&mut self, stream: Stream, mut bytes: &[u8]) {
        let at_ms = now_ms();
        let mut out = Vec::with_capacity(bytes.len() + 64);
        let begun = &mut self.begun[stream as usize];
        while !bytes.is_empty() {
            let room = MAX_LOG_LINE_BYTES - begun.len();
            let end = bytes.iter().take(room + 1).position(|&b| b == b'\n');
            let (line, rest, is_whole) = match end {
                Some(end) => (&bytes[..end], &bytes[end + 1..], true),
                None if bytes.len() >= room => (&bytes[..room], &bytes[room..], true),
                None => (bytes, &bytes[bytes.len()..], false),
            };
            begun.extend_from_slice(line);
            bytes = rest;
            if is_whole {
                write_line(&mut out, at_ms, stream, begun);
                begun.clear();
            }
        }
        self.write(&out);
    }

    /// Writes begun lines, as there will be no more.
    pub(super) fn finish(&mut self) {
        let mut out = Vec::new();
        for stream in [Stream::Output, Stream::Error] {
            let begun = std::mem::take(&mut self.begun[stream as usize]);
            if !begun.is_empty() {
                write_line(&mut out, now_ms(), stream, &begun);
            }
        }
        self.write(&out);
    }

    /// A full disk costs the log and not the container.
    fn write(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        if self.bytes + out.len() as u64 > MAX_LOG_BYTES {
            let _ = std::fs::rename(&self.path, rotated(&self.path));
            if let Ok(file) = append(&self.path) {
                self.file = file;
                self.bytes = 0;
            }
        }
        if self.file.write_all(out).is_ok() {
            self.bytes += out.len() as u64;
        }
    }
}

fn append(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn write_line(out: &mut Vec<u8>, at_ms: u64, stream: Stream, line: &[u8]) {
    // Writing into memory cannot fail.
    let _ = write!(out, "{at_ms} {} ", stream.mark());
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// Reads a line of the file; `None` when it is not one of ours.
pub(crate) fn parse_line(bytes: &[u8]) -> Option<LogLine> {
    let mut parts = bytes.splitn(3, |&b| b == b' ');
    let at_ms = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let is_stderr = match parts.next()? {
        b"o" => false,
        b"e" => true,
        _ => return None,
    };
    Some(LogLine {
        at_ms,
        is_stderr,
        part: String::new(),
        line: Bytes::copy_from_slice(parts.next()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> Vec<LogLine> {
        let bytes = std::fs::read(path).unwrap();
        bytes
            .split(|&b| b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| parse_line(line).unwrap())
            .collect()
    }

    #[test]
    fn lines_come_back_whole_and_long_ones_in_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.clone()).unwrap();
        log.take(Stream::Output, b"one\ntw");
        log.take(Stream::Error, b"bad");
        log.take(Stream::Output, b"o\n\n");
        log.take(Stream::Output, &vec![b'x'; MAX_LOG_LINE_BYTES + 5]);
        log.finish();
        let found = lines(&path);
        let texts: Vec<usize> = found.iter().map(|line| line.line.len()).collect();
        assert_eq!(texts, [3, 3, 0, MAX_LOG_LINE_BYTES, 5, 3]);
        assert_eq!(&found[1].line[..], b"two");
        assert!(found[5].is_stderr);
    }

    #[test]
    fn files_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(path.clone()).unwrap();
        let chunk = [b"0123456789abcde\n".as_slice(); 4096].concat();
        for _ in 0..400 {
            log.take(Stream::Output, &chunk);
        }
        for file in [path.clone(), rotated(&path)] {
            assert!(std::fs::metadata(file).unwrap().len() <= MAX_LOG_BYTES);
        }
    }
}

//! What a task writes to its standard output and error: kept in memory up to a bound, then in a file, and
//! readable by followers while it grows.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Output of one stream that stays in memory; more of it goes to a file.
pub const MAX_INLINE_OUTPUT_BYTES: usize = 1 << 20;
/// Output of one stream that is kept at all, where no disk limit is lower.
pub const MAX_OUTPUT_BYTES: u64 = 1 << 30;

/// A standard output stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Both output streams of one task.
#[derive(Debug, Default)]
pub struct OutputLog {
    stdout: Mutex<StreamLog>,
    stderr: Mutex<StreamLog>,
    finished: AtomicBool,
    grown: Notify,
}

/// A piece of output for a follower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where it begins in the stream.
    pub offset: u64,
    /// The bytes; empty when there are none yet.
    pub bytes: Bytes,
}

/// One whole output stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Captured {
    /// The bytes, when they fit in memory.
    pub inline: Bytes,
    /// The file with all of them, when they did not; it exists as long as the outcome.
    pub file: Option<PathBuf>,
    /// How many bytes were kept.
    pub size_bytes: u64,
    /// Whether the task wrote more than was kept.
    pub truncated: bool,
}

#[derive(Debug)]
struct StreamLog {
    inline: Vec<u8>,
    spill_path: PathBuf,
    spill: Option<Arc<File>>,
    kept_bytes: u64,
    limit_bytes: u64,
    truncated: bool,
    captured: Option<Captured>,
}

impl Default for StreamLog {
    fn default() -> Self {
        Self {
            inline: Vec::new(),
            spill_path: PathBuf::new(),
            spill: None,
            kept_bytes: 0,
            limit_bytes: MAX_INLINE_OUTPUT_BYTES as u64,
            truncated: false,
            captured: None,
        }
    }
}

impl OutputLog {
    /// Lets more output than fits in memory go to `<prefix>.stdout` and `<prefix>.stderr`, up to `limit_bytes`
    /// each.
    pub(crate) fn spill_to(&self, prefix: &Path, limit_bytes: u64) {
        for (stream, suffix) in [(&self.stdout, "stdout"), (&self.stderr, "stderr")] {
            let mut log = stream.lock();
            log.spill_path = prefix.with_extension(suffix);
            log.limit_bytes = limit_bytes;
        }
    }

    /// Adds to a stream. What exceeds its limit is dropped and noted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let written = self.log(stream).lock().write(bytes);
        self.grown.notify_waiters();
        written
    }

    /// Whether writing this much would touch the disk.
    pub(crate) fn would_spill(&self, stream: Stream, len: usize) -> bool {
        let log = self.log(stream).lock();
        log.spill.is_some() || log.inline.len() + len > MAX_INLINE_OUTPUT_BYTES
    }

    /// Notes that the writer had to drop output of this stream.
    pub(crate) fn mark_truncated(&self, stream: Stream) {
        self.log(stream).lock().truncated = true;
    }

    /// The end: no more will be written. Returns standard output and error.
    pub(crate) fn finish(&self) -> (Captured, Captured) {
        let both = (self.stdout.lock().finish(), self.stderr.lock().finish());
        self.finished.store(true, Ordering::Release);
        self.grown.notify_waiters();
        both
    }

    /// Up to `max_bytes` of a stream from `offset` on; empty when there is nothing yet.
    ///
    /// # Errors
    /// When the file that holds the output cannot be read.
    pub fn read(&self, stream: Stream, offset: u64, max_bytes: usize) -> io::Result<Piece> {
        let bytes = self.log(stream).lock().read(offset, max_bytes)?;
        Ok(Piece { offset, bytes })
    }

    /// Bytes of a stream so far.
    pub fn len(&self, stream: Stream) -> u64 {
        self.log(stream).lock().kept_bytes
    }

    /// Whether nothing more will come.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    /// Resolves when a stream is longer than the given number of bytes, or nothing more will come.
    pub async fn grown_beyond(&self, stdout_bytes: u64, stderr_bytes: u64) {
        loop {
            let grown = self.grown.notified();
            tokio::pin!(grown);
            // Registers before looking, so that no growth in between is missed.
            grown.as_mut().enable();
            let more =
                self.len(Stream::Stdout) > stdout_bytes || self.len(Stream::Stderr) > stderr_bytes;
            if more || self.is_finished() {
                return;
            }
            grown.await;
        }
    }

    fn log(&self, stream: Stream) -> &Mutex<StreamLog> {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }
}

impl StreamLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let room = usize::try_from(self.limit_bytes - self.kept_bytes).unwrap_or(usize::MAX);
        let kept = &bytes[..bytes.len().min(room)];
        self.truncated |= kept.len() < bytes.len();
        if self.spill.is_none() && self.inline.len() + kept.len() > MAX_INLINE_OUTPUT_BYTES {
            self.start_spilling()?;
        }
        match &self.spill {
            Some(file) => (&**file).write_all(kept)?,
            None => self.inline.extend_from_slice(kept),
        }
        self.kept_bytes += kept.len() as u64;
        Ok(())
    }

    fn start_spilling(&mut self) -> io::Result<()> {
        let mut file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&self.spill_path)?;
        file.write_all(&self.inline)?;
        self.inline = Vec::new();
        self.spill = Some(Arc::new(file));
        Ok(())
    }

    fn read(&self, offset: u64, max_bytes: usize) -> io::Result<Bytes> {
        let Some(available) = self.kept_bytes.checked_sub(offset) else {
            return Ok(Bytes::new());
        };
        let len = max_bytes.min(usize::try_from(available).unwrap_or(usize::MAX));
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(file) = &self.spill {
            let mut bytes = vec![0; len];
            file.read_exact_at(&mut bytes, offset)?;
            return Ok(bytes.into());
        }
        Ok(match &self.captured {
            Some(captured) => captured.inline.slice(start..start + len),
            None => Bytes::copy_from_slice(&self.inline[start..start + len]),
        })
    }

    fn finish(&mut self) -> Captured {
        if let Some(captured) = &self.captured {
            return captured.clone();
        }
        let captured = Captured {
            inline: std::mem::take(&mut self.inline).into(),
            file: self.spill.as_ref().map(|_| self.spill_path.clone()),
            size_bytes: self.kept_bytes,
            truncated: self.truncated,
        };
        self.captured.insert(captured).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_stays_in_memory_until_its_bound_and_then_moves_to_a_file_whole() {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::default();
        log.spill_to(&dir.path().join("task"), MAX_OUTPUT_BYTES);
        log.write(Stream::Stdout, &vec![b'a'; MAX_INLINE_OUTPUT_BYTES])
            .unwrap();
        assert!(!log.would_spill(Stream::Stdout, 0));
        log.write(Stream::Stdout, b"bc").unwrap();
        log.write(Stream::Stderr, b"short").unwrap();
        let tail = log
            .read(Stream::Stdout, MAX_INLINE_OUTPUT_BYTES as u64 - 1, 10)
            .unwrap();
        assert_eq!(&tail.bytes[..], b"abc");
        let (stdout, stderr) = log.finish();
        assert_eq!(stdout.size_bytes, MAX_INLINE_OUTPUT_BYTES as u64 + 2);
        assert_eq!(
            std::fs::read(stdout.file.unwrap()).unwrap().len() as u64,
            stdout.size_bytes
        );
        assert_eq!((&stderr.inline[..], stderr.file), (&b"short"[..], None));
    }

    #[test]
    fn output_beyond_the_limit_is_dropped_and_flagged() {
        let dir = tempfile::tempdir().unwrap();
        let log = OutputLog::default();
        log.spill_to(&dir.path().join("task"), 5);
        log.write(Stream::Stderr, b"1234567").unwrap();
        log.write(Stream::Stderr, b"8").unwrap();
        let (stdout, stderr) = log.finish();
        assert_eq!(
            (&stderr.inline[..], stderr.truncated),
            (&b"12345"[..], true)
        );
        assert!(!stdout.truncated);
    }

    #[tokio::test]
    async fn a_follower_is_woken_by_growth_and_by_the_end_and_can_read_after_it() {
        let log = Arc::new(OutputLog::default());
        let follower = tokio::spawn({
            let log = log.clone();
            async move {
                let mut seen = Vec::new();
                loop {
                    log.grown_beyond(seen.len() as u64, 0).await;
                    let piece = log.read(Stream::Stdout, seen.len() as u64, 2).unwrap();
                    if piece.bytes.is_empty() && log.is_finished() {
                        return seen;
                    }
                    seen.extend_from_slice(&piece.bytes);
                }
            }
        });
        for piece in ["one ", "two ", "three"] {
            log.write(Stream::Stdout, piece.as_bytes()).unwrap();
            tokio::task::yield_now().await;
        }
        log.finish();
        assert_eq!(follower.await.unwrap(), b"one two three");
    }
}

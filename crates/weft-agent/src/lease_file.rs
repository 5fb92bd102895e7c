//! The node's count of its lease as a file: for the next agent of this data directory, and for the
//! guard of exclusive units, which counts on when the agent cannot.
//!
//! One line, always as long, written in place: also a full disk takes it. What is read while it is
//! written does not agree with itself and is no line.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

/// Every line is filled up to this, in bytes.
const LINE_BYTES: usize = 160;

/// What is kept of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Kept {
    /// When the last heartbeat was sent that was answered while the lease was held, in milliseconds
    /// since the boot.
    pub(crate) sent_ms: u64,
    /// How long the lease lasts from then, in milliseconds.
    pub(crate) ttl_ms: u64,
    /// Whether the agent has found it lost, and ends exclusive units itself.
    pub(crate) is_noticed: bool,
}

impl Kept {
    /// When exclusive units are asked to end, unless it is renewed.
    pub(crate) fn ask_at(&self) -> u64 {
        self.sent_ms.saturating_add(self.ttl_ms / 4 * 3)
    }

    /// When those are killed that have not ended.
    pub(crate) fn kill_at(&self) -> u64 {
        self.sent_ms.saturating_add(self.ttl_ms / 8 * 7)
    }

    /// From when on somebody else may run them.
    pub(crate) fn ends_at(&self) -> u64 {
        self.sent_ms.saturating_add(self.ttl_ms)
    }

    /// Reads what is kept in a data directory; `None` when there is nothing of this boot.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        parse(&std::fs::read_to_string(path(data_dir)).ok()?, &boot_id())
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join("lease")
}

/// The file, held open by the agent.
#[derive(Debug)]
pub(crate) struct LeaseFile {
    file: File,
    boot_id: String,
    written: Option<Kept>,
}

impl LeaseFile {
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path(data_dir))?;
        Ok(Self {
            file,
            boot_id: boot_id(),
            written: None,
        })
    }

    /// Not synced: after a loss of power there is no lease, and nothing that runs.
    ///
    /// # Errors
    /// What the disk says.
    pub(crate) fn write(&mut self, kept: Kept) -> io::Result<()> {
        if self.written == Some(kept) {
            return Ok(());
        }
        let line = line(kept, &self.boot_id);
        self.file.write_all_at(line.as_bytes(), 0)?;
        self.file.set_len(line.len() as u64)?;
        self.written = Some(kept);
        Ok(())
    }
}

fn line(kept: Kept, boot_id: &str) -> String {
    let Kept {
        sent_ms,
        ttl_ms,
        is_noticed,
    } = kept;
    let noticed = if is_noticed { "lost" } else { "held" };
    let text = format!("{boot_id} {sent_ms} {ttl_ms} {noticed} {sent_ms}");
    format!("{text:width$}\n", width = LINE_BYTES - 1)
}

fn parse(text: &str, boot_id: &str) -> Option<Kept> {
    let mut words = text.split_whitespace();
    (words.next()? == boot_id && !boot_id.is_empty()).then_some(())?;
    let sent = words.next()?;
    let kept = Kept {
        sent_ms: sent.parse().ok()?,
        ttl_ms: words.next()?.parse().ok()?,
        is_noticed: match words.next()? {
            "lost" => true,
            "held" => false,
            _ => return None,
        },
    };
    (words.next()? == sent).then_some(kept)
}

/// Milliseconds since the machine was started, asleep or not.
pub(crate) fn now_ms() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1000 + nanos / 1_000_000
}

fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Kept = Kept {
        sent_ms: 8_000,
        ttl_ms: 3_000,
        is_noticed: false,
    };

    #[test]
    fn the_last_quarter_is_for_asking_and_for_killing() {
        assert_eq!((KEPT.ask_at(), KEPT.kill_at()), (10_250, 10_625));
        assert_eq!(KEPT.ends_at(), 11_000);
    }

    #[test]
    fn what_was_written_is_read_within_the_same_boot() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Kept::read(dir.path()), None);
        let mut file = LeaseFile::open(dir.path()).unwrap();
        let later = Kept {
            sent_ms: u64::MAX,
            is_noticed: true,
            ..KEPT
        };
        for kept in [later, KEPT] {
            file.write(kept).unwrap();
            assert_eq!(Kept::read(dir.path()), Some(kept));
        }
        let length = std::fs::metadata(dir.path().join("lease")).unwrap().len();
        assert_eq!(length, LINE_BYTES as u64);
        assert_eq!(parse(&line(KEPT, "other"), "this"), None);
    }

    #[test]
    fn half_a_line_is_none() {
        let (old, new) = (
            line(KEPT, "b"),
            line(
                Kept {
                    sent_ms: 9_123,
                    ..KEPT
                },
                "b",
            ),
        );
        for cut in 0..LINE_BYTES {
            let torn = format!("{}{}", &new[..cut], &old[cut..]);
            let read = parse(&torn, "b");
            let is_whole = read.is_none_or(|read| [8_000, 9_123].contains(&read.sent_ms));
            assert!(is_whole, "{torn}");
            assert!(parse(&new[..cut.min(20)], "b").is_none());
        }
    }
}

//! What a guest prints to its serial console: kept in two files that take turns, each line with
//! the time at which it was read.
//!
//! The hypervisor keeps the latest output in a ring buffer of bounded size, which whoever watches
//! the machine empties several times a second. Nothing grows while no agent is there, the guest is
//! never held up, and a panic is still found when the agent comes back.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use weft_unit::{LogLine, MAX_LOG_LINE_BYTES};

/// The newer file.
const NEWER: &str = "console.0";
/// The older file.
const OLDER: &str = "console.1";
/// What a guest without an agent prints before its address.
const ADDRESS_MARK: &[u8] = b"weft-address:";
/// What is printed when a boot gets no further, and what that means: by Linux, by SeaBIOS, by
/// initramfs-tools and by systemd.
const FAILURES: [(&[u8], &str); 4] = [
    (b"Kernel panic - not syncing", PANICKED),
    (
        b"No bootable device",
        "its firmware found nothing to boot from",
    ),
    (
        b"Gave up waiting for root file system device",
        "it found no root file system",
    ),
    (b"You are in emergency mode", "it stopped in emergency mode"),
];
/// What a guest's panic means.
pub(crate) const PANICKED: &str = "its kernel panicked";

/// What was learned from a piece of output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Heard {
    /// The last address that was printed.
    pub(crate) address: Option<IpAddr>,
    /// Why it gets no further.
    pub(crate) failure: Option<&'static str>,
}

/// Writes the console of one machine.
#[derive(Debug)]
pub(crate) struct Console {
    dir: PathBuf,
    file: File,
    written: u64,
    max_bytes: u64,
    last_ms: u64,
    partial: Vec<u8>,
}

impl Console {
    /// Goes on with the console in a unit's directory.
    pub(crate) fn open(dir: &Path, max_bytes: u64) -> io::Result<Self> {
        let file = append(&dir.join(NEWER))?;
        let written = file.metadata()?.len();
        Ok(Self {
            dir: dir.to_owned(),
            file,
            written,
            max_bytes: max_bytes / 2,
            last_ms: 0,
            partial: Vec::new(),
        })
    }

    /// Takes what was read now.
    pub(crate) fn take(&mut self, bytes: &[u8], now_ms: u64) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let mut out = Vec::with_capacity(bytes.len() + 64);
        for &byte in bytes {
            if byte == b'\n' || self.partial.len() >= MAX_LOG_LINE_BYTES {
                self.end_line(&mut out, now_ms, &mut heard);
            }
            if byte != b'\n' {
                self.partial.push(byte);
            }
        }
        self.write(&out)?;
        Ok(heard)
    }

    /// Takes what is left of a line that will not end any more.
    pub(crate) fn finish(&mut self, now_ms: u64) -> io::Result<Heard> {
        let mut heard = Heard::default();
        let mut out = Vec::new();
        if !self.partial.is_empty() {
            self.end_line(&mut out, now_ms, &mut heard);
        }
        self.write(&out)?;
        Ok(heard)
    }

    fn end_line(&mut self, out: &mut Vec<u8>, now_ms: u64, heard: &mut Heard) {
        let mut line = std::mem::take(&mut self.partial);
        while line.last() == Some(&b'\r') {
            line.pop();
        }
        if let Some(address) = address_in(&line) {
            heard.address = Some(address);
        }
        let is_in = |mark: &[u8]| find(&line, mark).is_some();
        let mut failures = FAILURES.iter().filter(|(mark, _)| is_in(mark));
        heard.failure = heard.failure.or(failures.next().map(|(_, why)| *why));
        // No two lines at the same time, so that "later than this line" means what it says.
        self.last_ms = now_ms.max(self.last_ms + 1);
        out.extend_from_slice(self.last_ms.to_string().as_bytes());
        out.push(b' ');
        out.extend_from_slice(&line);
        out.push(b'\n');
    }

    fn write(&mut self, out: &[u8]) -> io::Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        if self.written > self.max_bytes {
            std::fs::rename(self.dir.join(NEWER), self.dir.join(OLDER))?;
            self.file = append(&self.dir.join(NEWER))?;
            self.written = 0;
        }
        self.file.write_all(out)?;
        self.written += out.len() as u64;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

fn find(line: &[u8], mark: &[u8]) -> Option<usize> {
    line.windows(mark.len()).position(|window| window == mark)
}

fn address_in(line: &[u8]) -> Option<IpAddr> {
    let after = &line[find(line, ADDRESS_MARK)? + ADDRESS_MARK.len()..];
    let text = std::str::from_utf8(after).ok()?;
    let address: IpAddr = text.split_whitespace().next()?.parse().ok()?;
    let is_usable = !address.is_loopback() && !address.is_unspecified();
    is_usable.then_some(address)
}

/// Lines that are later than `after_ms`, from both files.
pub(crate) fn read_after(dir: &Path, after_ms: u64) -> io::Result<Vec<LogLine>> {
    let mut lines = Vec::new();
    for name in [OLDER, NEWER] {
        let file = match File::open(dir.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(file);
        let mut raw = Vec::new();
        while reader.read_until(b'\n', &mut raw)? > 0 {
            // Without its end it is still being written.
            if raw.last() == Some(&b'\n') {
                lines.extend(parse(&raw).filter(|line| line.at_ms > after_ms));
            }
            raw.clear();
        }
    }
    Ok(lines)
}

fn parse(raw: &[u8]) -> Option<LogLine> {
    let space = raw.iter().position(|&byte| byte == b' ')?;
    let at_ms = std::str::from_utf8(&raw[..space]).ok()?.parse().ok()?;
    Some(LogLine {
        at_ms,
        is_stderr: false,
        part: String::new(),
        line: Bytes::copy_from_slice(&raw[space + 1..raw.len() - 1]),
    })
}

/// The last lines, as evidence, without what a terminal would not show.
pub(crate) fn tail(dir: &Path, count: usize) -> Vec<String> {
    let lines = read_after(dir, 0).unwrap_or_default();
    let last = lines.len().saturating_sub(count);
    let last = lines[last..].iter();
    last.map(|line| shown(&String::from_utf8_lossy(&line.line)))
        .collect()
}

/// A line without control characters and without what they introduce: firmware and boot loaders
/// clear the screen and set colours (ECMA-48, 5.4).
fn shown(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            text.extend(Some(c).filter(|c| !c.is_control()));
        } else if rest.next() == Some('[') {
            // Parameters, then one character that says what it is.
            let _ = rest.find(|c| ('@'..='~').contains(c));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn console(max_bytes: u64) -> (tempfile::TempDir, Console) {
        let dir = tempfile::tempdir().unwrap();
        let console = Console::open(dir.path(), max_bytes).unwrap();
        (dir, console)
    }

    #[test]
    fn lines_come_back_in_order_with_distinct_times() {
        let (dir, mut console) = console(1 << 20);
        console.take(b"one\r\ntwo\nth", 1_000).unwrap();
        console.take(b"ree\nlogin: ", 2_000).unwrap();
        let text = |lines: Vec<LogLine>| {
            let text = |l: &LogLine| (l.at_ms, String::from_utf8_lossy(&l.line).into_owned());
            lines.iter().map(text).collect::<Vec<_>>()
        };
        let lines = text(read_after(dir.path(), 0).unwrap());
        let named = |at: u64, line: &str| (at, line.to_owned());
        assert_eq!(
            lines,
            [
                named(1_000, "one"),
                named(1_001, "two"),
                named(2_000, "three")
            ]
        );
        console.finish(3_000).unwrap();
        assert_eq!(
            text(read_after(dir.path(), 2_000).unwrap()),
            [named(3_000, "login: ")]
        );
    }

    #[test]
    fn evidence_is_what_a_screen_would_show() {
        let firmware = "\u{1b}c\u{1b}[?7l\u{1b}[2J\u{1b}[0mSeaBIOS\u{7} (1.16)";
        assert_eq!(shown(firmware), "SeaBIOS (1.16)");
        assert_eq!(shown("cut \u{1b}[3"), "cut ");
        assert_eq!(shown("grün \u{1b}"), "grün ");
    }

    #[test]
    fn address_and_panic_are_heard_also_in_pieces() {
        let (_dir, mut console) = console(1 << 20);
        assert_eq!(console.take(b"weft-addr", 1).unwrap(), Heard::default());
        let heard = console.take(b"ess: 192.0.2.7 eth0\n", 2).unwrap();
        assert_eq!(heard.address, Some("192.0.2.7".parse().unwrap()));
        let heard = console.take(b"weft-address: 127.0.0.1\n", 3).unwrap();
        assert_eq!(heard.address, None);
        let heard = console.take(b"[ 1.0] Kernel panic - not syncing: x\n", 4);
        assert_eq!(heard.unwrap().failure, Some(PANICKED));
        let heard = console.take(b"No bootable device.\r\n", 5).unwrap();
        assert!(heard.failure.is_some());
    }

    #[test]
    fn a_guest_that_prints_without_end_fills_no_disk() {
        let (dir, mut console) = console(64 << 10);
        for n in 0..2_000 {
            console.take(format!("{n:0>200}\n").as_bytes(), n).unwrap();
        }
        let size = |name| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size(NEWER) + size(OLDER) <= (64 << 10) + 1_024);
        let last = tail(dir.path(), 1);
        assert!(last[0].ends_with("1999"), "{last:?}");
    }

    proptest! {
        #[test]
        fn any_output_is_taken_and_read_back(pieces: Vec<Vec<u8>>) {
            let (dir, mut console) = console(1 << 20);
            for piece in &pieces {
                console.take(piece, 5).unwrap();
            }
            console.finish(6).unwrap();
            let all: Vec<u8> = pieces.concat();
            let feeds = all.iter().filter(|&&byte| byte == b'\n').count();
            let partial = !all.is_empty() && all.last() != Some(&b'\n');
            let lines = read_after(dir.path(), 0).unwrap();
            prop_assert_eq!(lines.len(), feeds + usize::from(partial));
        }
    }
}

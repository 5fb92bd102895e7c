//! A line in a file.

use bytes::Bytes;
use weft_unit::LogLine;

/// An entry of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Something was printed.
    Line(LogLine),
    /// An instance was started.
    Start { at_ms: u64 },
}

/// Appends an entry, with its line feed. Line feeds within a line become spaces.
pub(super) fn encode(entry: &Entry, out: &mut Vec<u8>) {
    match entry {
        Entry::Start { at_ms } => out.extend_from_slice(format!("{at_ms} s \t\n").as_bytes()),
        Entry::Line(line) => {
            let stream = if line.is_stderr { 'e' } else { 'o' };
            let part: String = line.part.chars().filter(|c| !c.is_whitespace()).collect();
            out.extend_from_slice(format!("{} {stream} {part}\t", line.at_ms).as_bytes());
            out.extend(line.line.iter().map(|&b| if b == b'\n' { b' ' } else { b }));
            out.push(b'\n');
        }
    }
}

/// The entry of a line of a file; `None` for one that was cut off when the agent ended.
pub(super) fn decode(text: &[u8]) -> Option<Entry> {
    let text = text.strip_suffix(b"\n")?;
    let tab = text.iter().position(|&b| b == b'\t')?;
    let mut head = std::str::from_utf8(&text[..tab]).ok()?.splitn(3, ' ');
    let at_ms = head.next()?.parse().ok()?;
    let stream = head.next()?;
    let part = head.next()?.to_owned();
    let is_stderr = match stream {
        "s" => return Some(Entry::Start { at_ms }),
        "o" => false,
        "e" => true,
        _ => return None,
    };
    Some(Entry::Line(LogLine {
        at_ms,
        is_stderr,
        part,
        line: Bytes::copy_from_slice(&text[tab + 1..]),
    }))
}

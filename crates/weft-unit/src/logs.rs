//! What units print.

use bytes::Bytes;
use tokio::sync::mpsc;

/// The longest line, in bytes; a longer one is given in pieces.
pub const MAX_LOG_LINE_BYTES: usize = 16 << 10;

/// A line, without its line feed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLine {
    /// Milliseconds since the Unix epoch, as the engine noted or as it was read.
    pub at_ms: u64,
    /// Whether it was printed to the standard error.
    pub is_stderr: bool,
    /// The service of a Compose application; empty otherwise.
    pub part: String,
    /// The line.
    pub line: Bytes,
}

/// Which lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogsWanted {
    /// Only those later than this, in milliseconds since the Unix epoch.
    pub since_ms: Option<u64>,
    /// Only the last so many.
    pub tail: Option<usize>,
    /// Goes on with new lines until the instance ends.
    pub follow: bool,
}

/// Lines as they come; ends when there are no more. Dropping it ends the work behind it.
pub type LogStream = mpsc::Receiver<LogLine>;

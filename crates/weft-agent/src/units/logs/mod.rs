//! What units print, kept on the node: two files of bounded size a unit, which outlive its
//! instances, and the unit itself for a day.
//!
//! ```text
//!  runtime ─▶ Follower ─▶ Book (older.log, current.log) ─▶ Reader ─▶ those who ask
//! ```
//!
//! One line of a file is `MILLISECONDS o|e PART<tab>LINE`; `MILLISECONDS s <tab>` marks the start of
//! an instance.

mod book;
mod follow;
mod line;
mod read;
mod shelf;

pub(super) use book::Book;
pub(super) use follow::Follower;
pub(super) use read::Reader;
pub(super) use shelf::Shelf;

/// The most bytes that a file of a unit has; there are two.
const MAX_FILE_BYTES: u64 = 8 << 20;
const CURRENT: &str = "current.log";
const OLDER: &str = "older.log";

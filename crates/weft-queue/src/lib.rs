//! The journal of the dispatch path: jobs, the payloads of their tasks, and results, in a
//! segmented log.
//!
//! ```text
//!  append ──▶ queue ──▶ writer thread: one write, one fdatasync for all that wait ──▶ index ──▶ done
//!                              │
//!                   0000000001.log  0000000002.log  …      each record with its checksum
//! ```
//!
//! Payloads and results stay on disk; in memory a task takes the eight bytes that say where its
//! result is. The same function takes records into the [index](index) while running and at
//! recovery, so that both cannot differ.
//!
//! What is torn at the end of the last group was never acknowledged and is cut off. Damage
//! anywhere else is found by checksum, reported ([`Recovery::damage`]) and passed over; what a
//! damaged record said is lost, never misread.
//!
//! Architecture invariant: headers, payloads, bodies and states are bytes; what they mean, this
//! crate does not know.

mod error;
mod frame;
mod index;
mod journal;
mod reader;
mod record;
mod recovery;
mod segment;
mod writer;

pub use error::Error;
pub use frame::scan;
pub use journal::{Journal, Options, SyncObserver};
pub use record::{JobKey, NoteEntry, Record, ResultEntry};
pub use recovery::{Damage, RecoveredJob, Recovery};

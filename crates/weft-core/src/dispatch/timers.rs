//! What is due when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use weft_types::JobId;

use crate::Monotonic;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Timer {
    /// A failed task may be tried again; stale when its attempt is another by then.
    Retry { job: JobId, task: u32, attempt: u32 },
    /// A job has taken as long as it may.
    Deadline { job: JobId },
    /// The breaker of a node (its slot) half-opens.
    Breaker { node: u16 },
    /// The breaker of a substrate (its number) half-opens.
    Substrate { substrate: u16 },
}

/// Timers in the order in which they are due. None is cancelled: what is stale when it comes up
/// is passed over.
#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Monotonic, Timer)>>,
}

impl Timers {
    pub(super) fn set(&mut self, due: Monotonic, timer: Timer) {
        self.heap.push(Reverse((due, timer)));
    }

    pub(super) fn next(&self) -> Option<Monotonic> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    pub(super) fn pop_due(&mut self, now: Monotonic) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, timer))| timer)
    }
}

//! When to do what: timeouts, the end of a grace period, the end of waiting for stragglers.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// The time of the process is over.
    Timeout,
    /// It did not end within its grace period.
    Kill,
    /// Somebody still holds its pipes after its end.
    Abandon,
}

/// Entries kept for processes that have ended, before the heap is cleaned.
const MAX_STALE: usize = 4_096;

/// A heap of deadlines. Those of ended processes stay until they pass or there are too many.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BinaryHeap<Reverse<(Instant, u64, Due)>>);

impl Deadlines {
    /// Adds one.
    pub(crate) fn add(&mut self, at: Instant, id: u64, due: Due) {
        self.0.push(Reverse((at, id, due)));
    }

    /// Takes one that has passed.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(u64, Due)> {
        let Reverse((at, id, due)) = *self.0.peek()?;
        if at > now {
            return None;
        }
        self.0.pop();
        Some((id, due))
    }

    /// The earliest.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// Drops those of ended processes when they are many. `running` is how many processes there are.
    pub(crate) fn clean(&mut self, running: usize, lives: impl Fn(u64) -> bool) {
        if self.0.len() > 2 * running + MAX_STALE {
            self.0.retain(|Reverse((_, id, _))| lives(*id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn deadlines_pass_in_order_and_the_stale_ones_are_dropped() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        for id in 0..10_000 {
            deadlines.add(start + Duration::from_secs(10_000 - id), id, Due::Timeout);
        }
        assert_eq!(deadlines.pop(start), None);
        deadlines.clean(1, |id| id == 5_000);
        assert_eq!(deadlines.next(), Some(start + Duration::from_secs(5_000)));
        assert_eq!(
            deadlines.pop(start + Duration::from_secs(5_000)),
            Some((5_000, Due::Timeout))
        );
        assert_eq!(deadlines.next(), None);
    }
}

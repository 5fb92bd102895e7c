//! The two clocks of the server, read here and nowhere else.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use weft_types::Timestamp;

/// Wall-clock time for what people read, and steady time for what the machines decide.
///
/// Steady time is the wall-clock time of the start plus the monotonic time since, so that a
/// jump of the wall clock neither expires nor delays anything.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started_at: Timestamp,
    started: Instant,
}

impl Clock {
    /// Starts counting now.
    pub fn start() -> Self {
        Self {
            started_at: wall(),
            started: Instant::now(),
        }
    }

    /// What the clock on the wall says.
    pub fn wall(&self) -> Timestamp {
        wall()
    }

    /// Time that only moves forward, at the pace of real time.
    pub fn steady(&self) -> Timestamp {
        self.started_at.plus(self.started.elapsed())
    }
}

fn wall() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(since_epoch.as_millis().try_into().unwrap_or(u64::MAX))
}

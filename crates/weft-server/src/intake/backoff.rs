//! Waits between tries of something that is away.

use std::time::Duration;

use weft_core::retry::full_jitter;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// Waits with full jitter under a bound that doubles.
pub(super) struct Backoff {
    bound: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { bound: FIRST }
    }

    /// Anything between nothing and the bound, which grows up to ten seconds.
    pub(super) fn next_wait(&mut self) -> Duration {
        let bound_ms = u64::try_from(self.bound.as_millis()).unwrap_or(u64::MAX);
        self.bound = (self.bound * 2).min(LONGEST);
        let mut random = [0u8; 8];
        // Without randomness the whole wait is as good as any.
        if getrandom::fill(&mut random).is_err() {
            random = [0xff; 8];
        }
        Duration::from_millis(full_jitter(bound_ms, u64::from_le_bytes(random)))
    }
}

/// Waits while a queue is away: says so once, and once when it is back.
pub(super) struct Away {
    queue: &'static str,
    backoff: Backoff,
    told: bool,
}

impl Away {
    pub(super) fn new(queue: &'static str) -> Self {
        Self {
            queue,
            backoff: Backoff::new(),
            told: false,
        }
    }

    /// Says what is wrong, the first time, and waits for a while.
    pub(super) async fn wait(&mut self, error: &(dyn std::fmt::Display + Sync)) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(queue = self.queue, %error, "the queue does not do its part; trying again until it does");
        }
        tokio::time::sleep(self.backoff.next_wait()).await;
    }

    /// It answered: says so if it did not before.
    pub(super) fn answered(&mut self) {
        if std::mem::take(&mut self.told) {
            tracing::warn!(queue = self.queue, "the queue is back");
            self.backoff = Backoff::new();
        }
    }
}

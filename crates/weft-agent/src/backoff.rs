//! Waits between tries: exponential, with full jitter (Brooker, "Exponential Backoff And Jitter",
//! AWS Architecture Blog, 2015), so that nodes do not come back all at once.

use std::time::Duration;

/// The waits between tries.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The bound of the wait is `first`, then doubles up to `longest`.
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// It worked: the next wait is a short one.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }

    /// Anything between nothing and the bound, which grows.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let bound = self.next;
        self.next = (bound * 2).min(self.longest);
        let mut random = [0u8; 4];
        // Without randomness the whole wait is as good as any.
        match getrandom::fill(&mut random) {
            Ok(()) => bound.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)),
            Err(_) => bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_within_a_bound_that_doubles_up_to_the_longest() {
        let longest = Duration::from_millis(70);
        let mut backoff = Backoff::new(Duration::from_millis(10), longest);
        for bound in [10, 20, 40, 70, 70] {
            assert_eq!(backoff.next, Duration::from_millis(bound));
            assert!(backoff.next_wait() <= Duration::from_millis(bound));
        }
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(10));
    }
}

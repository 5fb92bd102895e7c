//! How often backends are tried again.

use std::time::Duration;

/// One that works, or stands in for one that is preferred to it.
const STEADY: Duration = Duration::from_secs(60);
/// What is missing: at first, and at the longest.
const FIRST: Duration = Duration::from_secs(5);
/// How often in a row a backend that worked must not answer until it is missing: an engine that is
/// started again is away for a moment only.
pub(super) const MAX_MISSES: u32 = 2;

/// The wait before the next try, after a number of tries in a row that found nothing.
pub(super) fn wait(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => STEADY,
        Some(exponent) => FIRST.saturating_mul(1 << exponent.min(8)).min(STEADY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_tried_at_once_and_then_less_and_less() {
        let seconds: Vec<u64> = (0..7).map(|failures| wait(failures).as_secs()).collect();
        assert_eq!(seconds, [60, 5, 10, 20, 40, 60, 60]);
        assert_eq!(wait(u32::MAX), STEADY);
    }
}

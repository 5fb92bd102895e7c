//! When to ask for the next certificate.

use std::time::Duration;

/// The longest time between two looks at the clock on the wall, which may jump, and stands still
/// for the other clocks while the machine sleeps.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// The wait for an answer before asking again, which doubles up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(300);

/// Asks from the half-life of a certificate on until there is another, with growing waits: a
/// server that refuses is not asked in a loop.
#[derive(Debug)]
pub(crate) struct Renewal {
    retry: Duration,
}

/// What to do, and when to look again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) ask: bool,
    pub(crate) pause: Duration,
}

impl Renewal {
    pub(crate) fn new() -> Self {
        Self { retry: FIRST_RETRY }
    }

    /// To be called after each pause; `left` is the time until the certificate's half-life.
    pub(crate) fn look(&mut self, left: Duration) -> Look {
        if left > Duration::ZERO {
            self.retry = FIRST_RETRY;
            return Look {
                ask: false,
                pause: left.min(MAX_PAUSE),
            };
        }
        let pause = self.retry;
        self.retry = (pause * 2).min(MAX_RETRY);
        Look { ask: true, pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_renewal_is_asked_for_again_with_growing_waits() {
        let mut renewal = Renewal::new();
        let pauses: Vec<u64> = (0..8)
            .map(|_| renewal.look(Duration::ZERO))
            .inspect(|look| assert!(look.ask))
            .map(|look| look.pause.as_secs())
            .collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
        let renewed = renewal.look(Duration::from_secs(30));
        assert_eq!((renewed.ask, renewed.pause.as_secs()), (false, 30));
        assert_eq!(renewal.look(Duration::ZERO).pause, FIRST_RETRY);
    }

    #[test]
    fn the_clock_is_looked_at_every_minute_however_long_the_certificate_lasts() {
        let look = Renewal::new().look(Duration::from_secs(1_000_000));
        assert!(!look.ask && look.pause == MAX_PAUSE);
    }
}

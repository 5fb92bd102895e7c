//! How long a failed task waits before it is tried again.
//!
//! Exponential backoff with *full jitter*: a uniformly random wait between zero and the capped
//! exponential (Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
//! Spread over the whole interval, many tasks that failed together do not come back together.

use weft_types::{Reason, RetryPolicy};

/// A [`RetryPolicy`] in sixteen bytes, for tables of jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    attempts: u16,
    /// Reasons to retry on, one bit a code; all bits clear stands for every retryable reason.
    on: u32,
    backoff_ms: u32,
    max_backoff_ms: u32,
}

impl Policy {
    /// The compact form of a policy. Waits beyond 49 days are cut to that.
    pub fn new(policy: &RetryPolicy) -> Self {
        let millis =
            |span: std::time::Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        Self {
            attempts: u16::try_from(policy.attempts.max(1)).unwrap_or(u16::MAX),
            on: policy.on.iter().fold(0, |bits, &reason| bits | bit(reason)),
            backoff_ms: millis(policy.backoff),
            max_backoff_ms: millis(policy.max_backoff),
        }
    }

    /// How many times a task is tried in all.
    pub fn attempts(self) -> u32 {
        u32::from(self.attempts)
    }

    /// Whether a failure for this reason is worth another attempt.
    pub fn retries(self, reason: Reason) -> bool {
        if self.on == 0 {
            reason.is_retryable()
        } else {
            self.on & bit(reason) != 0
        }
    }

    /// Whether losing the node uses up an attempt: only when the policy says so by name.
    pub fn counts_lost_nodes(self) -> bool {
        self.on & bit(Reason::NodeLost) != 0
    }

    /// The wait after a number of failures, 1 for the first, from a random number; milliseconds.
    pub fn wait_ms(self, failures: u32, random: u64) -> u64 {
        let exponent = failures.saturating_sub(1).min(32);
        let exponential = u64::from(self.backoff_ms) << exponent;
        full_jitter(exponential.min(u64::from(self.max_backoff_ms)), random)
    }
}

fn bit(reason: Reason) -> u32 {
    debug_assert!(reason.code() < 32, "reasons fit in a word of bits");
    1 << reason.code()
}

/// A number in `0..=bound`, uniform when `random` is.
///
/// Multiply and shift (Lemire, "Fast Random Integer Generation in an Interval", 2019) without the
/// rejection step: a bias below 2⁻³² does not matter to a wait.
pub fn full_jitter(bound: u64, random: u64) -> u64 {
    ((u128::from(random) * (u128::from(bound) + 1)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn policy(backoff_ms: u64, max_ms: u64) -> Policy {
        Policy::new(&RetryPolicy {
            attempts: 5,
            backoff: Duration::from_millis(backoff_ms),
            max_backoff: Duration::from_millis(max_ms),
            on: Vec::new(),
        })
    }

    proptest! {
        #[test]
        fn a_wait_never_exceeds_the_doubled_backoff_or_the_cap(
            backoff in 0u64..100_000, max in 0u64..1_000_000, failures in 1u32..200, random: u64,
        ) {
            let wait = policy(backoff, max).wait_ms(failures, random);
            prop_assert!(wait <= max);
            if failures < 20 {
                prop_assert!(wait <= backoff << (failures - 1));
            }
        }
    }

    #[test]
    fn waits_cover_the_whole_interval() {
        let waits = policy(1_000, 60_000);
        assert_eq!(waits.wait_ms(1, 0), 0);
        assert_eq!(waits.wait_ms(1, u64::MAX), 1_000);
        assert_eq!(waits.wait_ms(3, u64::MAX), 4_000);
        assert_eq!(waits.wait_ms(30, u64::MAX), 60_000);
    }

    #[test]
    fn a_named_reason_is_retried_and_others_are_not() {
        let named = Policy::new(&RetryPolicy {
            on: vec![Reason::NonzeroExit],
            ..RetryPolicy::default()
        });
        assert!(named.retries(Reason::NonzeroExit));
        assert!(!named.retries(Reason::RuntimeError));
        assert!(!named.counts_lost_nodes());
        let default = Policy::new(&RetryPolicy::default());
        assert!(default.retries(Reason::RuntimeError));
        assert!(!default.retries(Reason::NonzeroExit));
    }
}

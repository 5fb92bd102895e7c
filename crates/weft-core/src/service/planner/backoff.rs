//! How long a service waits before a failed unit is replaced.

use weft_types::{Reason, RetryPolicy};

use crate::retry::full_jitter;
use crate::service::record::{RECORD_VERSION, Retry};

use super::draft::{Draft, Unit};

impl Draft<'_> {
    /// Notes that a unit failed; the next one waits.
    pub(super) fn note_failure(&mut self, unit: &Unit<'_>, reason: Reason, detail: String) {
        let failures = self.retry.as_ref().map_or(0, |retry| retry.failures);
        let failures = failures.saturating_add(1);
        let id = unit.id();
        let seed = id.workload.0 ^ (u64::from(id.number) << 32) ^ u64::from(failures);
        let wait_ms = wait_ms(&self.spec().retry, failures, reason, scramble(seed));
        self.retry = Some(Retry {
            v: RECORD_VERSION,
            failures,
            reason,
            detail,
            node: Some(unit.assignment.node.clone()),
            next_ms: self.now.now_ms.saturating_add(wait_ms),
            failed_ms: self.now.now_ms,
        });
    }

    /// Whether the next unit has to wait. A wait that is longer than the policy allows was written
    /// under another policy or by another clock: it begins anew.
    pub(super) fn is_backing_off(&mut self) -> bool {
        let now_ms = self.now.now_ms;
        let longest_ms = max_backoff_ms(&self.spec().retry);
        let Some(retry) = &mut self.retry else {
            return false;
        };
        if retry.next_ms > now_ms.saturating_add(longest_ms) {
            retry.failed_ms = now_ms;
            retry.next_ms = now_ms.saturating_add(longest_ms);
        }
        let next_ms = retry.next_ms;
        if next_ms <= now_ms || planted!(BackoffIgnored) {
            return false;
        }
        self.wake_at(next_ms);
        true
    }

    /// Forgets failures once every wanted unit has been ready for as long as the longest wait:
    /// one that fails again and again soon after its start is not taken for a good one.
    pub(super) fn calm_down(&mut self) {
        if self.retry.is_none() {
            return;
        }
        let longest_ms = max_backoff_ms(&self.spec().retry);
        let mut good = 0;
        let mut latest_ms = 0;
        for unit in &self.units {
            if unit.runs() && unit.is_ready() && self.is_current(unit) {
                good += 1;
                latest_ms = latest_ms.max(unit.ready_since_ms.unwrap_or(0));
            }
        }
        if good < self.wanted {
            return;
        }
        let calm_ms = latest_ms.saturating_add(longest_ms);
        if calm_ms <= self.now.now_ms {
            self.retry = None;
        } else {
            self.wake_at(calm_ms);
        }
    }
}

pub(super) fn max_backoff_ms(policy: &RetryPolicy) -> u64 {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    millis(policy.max_backoff).max(millis(policy.backoff))
}

/// Whether only a change of the specification will help. It is tried again nevertheless: an image
/// may be pushed, a right be granted. But slowly.
pub(super) fn is_permanent(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidSpec | Reason::ImageNotFound | Reason::PermissionDenied
    )
}

/// The wait after this many failures in a row: exponential, with its second half at random, so
/// that services that failed together do not come back together, and none at once.
fn wait_ms(policy: &RetryPolicy, failures: u32, reason: Reason, random: u64) -> u64 {
    let longest_ms = max_backoff_ms(policy);
    let first_ms = u64::try_from(policy.backoff.as_millis()).unwrap_or(u64::MAX);
    let bound_ms = if is_permanent(reason) {
        longest_ms
    } else {
        let exponent = failures.saturating_sub(1).min(32);
        first_ms.saturating_mul(1 << exponent).min(longest_ms)
    };
    bound_ms / 2 + full_jitter(bound_ms - bound_ms / 2, random)
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): ids in, well-mixed bits out.
fn scramble(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

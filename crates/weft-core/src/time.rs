//! Time that never jumps.

use std::fmt;

/// Milliseconds of a clock that only moves forward at the rate of time; its zero means nothing.
///
/// Leases, backoffs and deadlines are counted in it, so that a step of the wall clock neither
/// expires nor starts anything. A server's shell takes it from `std::time::Instant`, the
/// simulator from its virtual clock. Values of two processes, or of one process before and after
/// a restart, cannot be compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// This time plus some milliseconds, saturating.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds since `earlier`; zero when `earlier` is later.
    #[must_use]
    pub const fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Monotonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

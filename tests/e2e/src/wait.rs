//! Polling with a deadline.

use std::time::{Duration, Instant};

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until something holds.
///
/// # Panics
/// When it does not within the deadline; `what` says what was waited for.
pub fn eventually(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    eventually_some(what, deadline, || holds().then_some(()));
}

/// Waits until there is something.
///
/// # Panics
/// When there is not within the deadline; `what` says what was waited for.
pub fn eventually_some<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(LOOK_INTERVAL);
    }
}

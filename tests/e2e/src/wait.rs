//! Polling with a deadline.

use std::time::{Duration, Instant};

/// How long after the first look the next one follows; each time half as long again, so that who
/// looks does not take the time from those it waits for.
const FIRST_INTERVAL: Duration = Duration::from_millis(20);
const MAX_INTERVAL: Duration = Duration::from_millis(250);

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
    poll(what, deadline, || look().ok_or_else(String::new))
}

/// Waits until what is seen is as wanted; what was seen then.
///
/// # Panics
/// When it is not within the deadline; with what was seen last.
pub fn eventually_seen<T: std::fmt::Display>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> T,
    mut holds: impl FnMut(&T) -> bool,
) -> T {
    poll(what, deadline, || {
        let seen = look();
        if holds(&seen) {
            Ok(seen)
        } else {
            Err(format!(": {seen}"))
        }
    })
}

/// Looks again and again; an error is what was seen.
fn poll<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + deadline;
    let mut interval = FIRST_INTERVAL;
    loop {
        let seen = match look() {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        assert!(
            Instant::now() < end,
            "not within {deadline:?}: {what}{seen}"
        );
        std::thread::sleep(interval);
        interval = (interval * 3 / 2).min(MAX_INTERVAL);
    }
}

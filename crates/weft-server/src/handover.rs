//! Opening files that belong to one process at a time.

use std::time::{Duration, Instant};

/// How long a server that was killed may still be there by a process that it was just making: that
/// has its files, and the locks on them, until it runs its own program.
const TIMEOUT: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(10);

/// Opens something, waiting for whoever has it to be gone; on a thread that may wait.
pub(crate) fn open<T, E>(
    mut open: impl FnMut() -> Result<T, E>,
    is_held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match open() {
            Err(error) if is_held(&error) && Instant::now() < deadline => {
                std::thread::sleep(INTERVAL);
            }
            opened => return opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_waited_for_and_what_is_broken_is_not() {
        let mut tries = 0;
        let opened = open(
            || {
                tries += 1;
                if tries < 3 { Err("held") } else { Ok(tries) }
            },
            |error| *error == "held",
        );
        assert_eq!(opened, Ok(3));
        let mut tries = 0;
        let broken: Result<(), _> = open(
            || {
                tries += 1;
                Err("broken")
            },
            |error| *error == "held",
        );
        assert_eq!((broken, tries), (Err("broken"), 1));
    }
}

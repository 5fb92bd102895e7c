//! Unix sockets in directories of any depth.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

use crate::record;

/// A socket's address holds 107 bytes only; its directory is named by a descriptor instead of its
/// path.
fn short(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(dir, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    Ok((dir, short))
}

/// Connects to a socket.
///
/// # Errors
/// When nobody listens.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let (_dir, short) = short(path)?;
    UnixStream::connect(short).await
}

/// Makes a socket that listens, in place of one that was left.
///
/// # Errors
/// When the directory is not there.
pub(crate) fn listen(path: &Path) -> io::Result<OwnedFd> {
    record::remove_file(path)?;
    let (_dir, short) = short(path)?;
    Ok(UnixListener::bind(short)?.into())
}

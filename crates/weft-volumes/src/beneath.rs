//! Opening paths that somebody else chose.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

/// Directories beneath which everything is opened are ours, but may hold links made by containers.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Opens a path that has been resolved already, and fails if it has become a link since.
pub(crate) fn open_resolved(path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}

/// Opens a relative path beneath a directory, without following any link. Directories that are
/// missing are made when `makes` says so.
pub(crate) fn open_beneath(root: OwnedFd, path: &Path, makes: bool) -> io::Result<OwnedFd> {
    let mut at = root;
    for component in path.components() {
        let name = match component {
            Component::Normal(name) => name,
            Component::CurDir => continue,
            _ => return Err(io::Error::other("it leaves the volume")),
        };
        at = match open_one(&at, Path::new(name)) {
            Err(Errno::NOENT) if makes => {
                match mkdirat(&at, name, Mode::from_raw_mode(0o777)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_one(&at, Path::new(name)).map_err(told)?
            }
            other => other.map_err(told)?,
        };
    }
    Ok(at)
}

fn open_one(dir: &OwnedFd, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    openat2(dir, name, flags, Mode::empty(), RESOLVE)
}

/// `ELOOP` says nothing to a person who made no loop.
fn told(error: Errno) -> io::Error {
    match error {
        Errno::LOOP => io::Error::other("a symbolic link is on the way"),
        Errno::XDEV => io::Error::other("it leaves the volume"),
        error => error.into(),
    }
}

/// Whether what was opened is a directory.
pub(crate) fn is_dir(fd: &OwnedFd) -> io::Result<bool> {
    let copy = File::from(fd.try_clone()?);
    Ok(copy.metadata()?.is_dir())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn open(root: &Path, path: &str, makes: bool) -> io::Result<OwnedFd> {
        open_beneath(open_resolved(root)?, Path::new(path), makes)
    }

    #[test]
    fn opens_and_makes_directories_beneath() {
        let dir = tempfile::tempdir().unwrap();
        assert!(open(dir.path(), "a/b", false).is_err());
        let made = open(dir.path(), "a/./b", true).unwrap();
        assert!(is_dir(&made).unwrap());
        assert!(dir.path().join("a/b").is_dir());
        fs::write(dir.path().join("a/file"), "x").unwrap();
        assert!(!is_dir(&open(dir.path(), "a/file", false).unwrap()).unwrap());
        assert!(open(dir.path(), "a/file/c", true).is_err());
    }

    #[test]
    fn no_link_is_followed_and_nothing_outside_reached() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("inner")).unwrap();
        symlink("/etc", root.join("out")).unwrap();
        symlink("inner", root.join("in")).unwrap();
        symlink("/etc", root.join("inner/deep")).unwrap();
        for path in [
            "out",
            "out/x",
            "in",
            "inner/deep",
            "..",
            "inner/../..",
            "/etc",
        ] {
            for makes in [false, true] {
                let refused = open(&root, path, makes);
                assert!(refused.is_err(), "{path} was opened");
            }
        }
        assert!(!Path::new("/etc/x").exists());
    }
}

//! Mounting, and what is mounted.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind_recursive, mount_change, unmount,
};

use crate::Error;
use crate::beneath::is_dir;
use crate::error::At;

const TABLE: &str = "/proc/self/mountinfo";

/// `\040` and its like in `/proc/self/mountinfo` (proc(5)).
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn parse(table: &[u8]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(unescaped)
        .collect()
}

/// Every mount point at a path and beneath it, in the order of mounting.
pub(crate) fn beneath(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let table = Path::new(TABLE);
    let mut points = parse(&fs::read(table).at(table)?);
    points.retain(|point| point.starts_with(path));
    Ok(points)
}

/// Whether something is mounted at a path.
pub(crate) fn is_mounted(path: &Path) -> Result<bool, Error> {
    Ok(beneath(path)?.iter().any(|point| point == path))
}

/// Unmounts everything at a path and beneath it, the last first.
pub(crate) fn unmount_all(path: &Path) -> Result<(), Error> {
    for point in beneath(path)?.iter().rev() {
        // What is mounted beneath a bound directory belongs to somebody else as well: private
        // first, so that it is not unmounted there.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        let _ = mount_change(point, private);
        unmount(point, UnmountFlags::NOFOLLOW)
            .or_else(|_| {
                // Someone still has a file open: gone from the tree now, and altogether with the file.
                unmount(point, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)
            })
            .at(point)?;
    }
    Ok(())
}

/// Binds what was opened to a path, which is made.
pub(crate) fn bind(opened: &OwnedFd, to: &Path) -> Result<(), Error> {
    if is_dir(opened).at(to)? {
        fs::create_dir_all(to).at(to)?;
    } else {
        fs::write(to, []).at(to)?;
    }
    let magic = format!("/proc/self/fd/{}", opened.as_raw_fd());
    mount_bind_recursive(magic.as_str(), to).at(to)?;
    let receives_only = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change(to, receives_only).at(to)
}

/// Removes a directory with all that is in it, unless something is mounted there: what is mounted
/// is not ours to delete.
pub(crate) fn remove_dir(path: &Path) -> Result<(), Error> {
    if let Some(point) = beneath(path)?.first() {
        let still = std::io::Error::other("still mounted; nothing was deleted");
        return Err(still).at(point);
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.at(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let table = b"22 1 0:2 / /a\\040b rw,x shared:1 - ext4 /dev/x rw\n23 22 0:3 / /a\\040b/c rw - tmpfs t rw\n";
        let points = parse(table);
        assert_eq!(points, [PathBuf::from("/a b"), PathBuf::from("/a b/c")]);
    }

    #[test]
    fn proc_is_mounted_and_a_new_directory_is_not() {
        assert!(is_mounted(Path::new("/proc")).unwrap());
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_mounted(dir.path()).unwrap());
    }
}

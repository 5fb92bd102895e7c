//! Layers put together by copying, where overlayfs cannot mount them.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, XattrFlags};

use crate::Error;
use crate::error::During;
use crate::files;

const OPAQUE: &str = "trusted.overlay.opaque";
const MAX_XATTR_BYTES: usize = 64 << 10;

/// Copies layers above each other, the lowest first, with whiteouts taking away.
pub(super) fn copy_layers(layers: &Path, names: &[String], into: &Path) -> Result<(), Error> {
    for name in names {
        // Hard links are within a layer.
        let mut copy = Copy {
            linked: HashMap::new(),
        };
        copy.directory(&layers.join(name), into)?;
    }
    Ok(())
}

struct Copy {
    /// Files with several names: by inode, the first copy.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl Copy {
    fn directory(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        let what = || format!("copy {}", from.display());
        for entry in std::fs::read_dir(from).during(what)? {
            let entry = entry.during(what)?;
            self.entry(&entry.path(), &to.join(entry.file_name()))?;
        }
        attributes(from, to)
    }

    fn entry(&mut self, from: &Path, to: &Path) -> Result<(), Error> {
        let what = || format!("copy {}", from.display());
        let found = from.symlink_metadata().during(what)?;
        let kind = found.file_type();
        let existing = to.symlink_metadata().ok();
        let keeps = kind.is_dir()
            && !is_opaque(from)
            && existing.as_ref().is_some_and(std::fs::Metadata::is_dir);
        if let Some(existing) = existing
            && !keeps
        {
            match existing.is_dir() {
                true => files::remove_tree(to)?,
                false => files::remove_file(to)?,
            }
        }
        if kind.is_char_device() {
            return Ok(());
        }
        if kind.is_dir() {
            if !keeps {
                std::fs::create_dir(to).during(what)?;
            }
            return self.directory(from, to);
        }
        if found.nlink() > 1 {
            let inode = (found.dev(), found.ino());
            if let Some(first) = self.linked.get(&inode) {
                return std::fs::hard_link(first, to).during(what);
            }
            self.linked.insert(inode, to.to_owned());
        }
        if kind.is_symlink() {
            let target = std::fs::read_link(from).during(what)?;
            std::os::unix::fs::symlink(target, to).during(what)?;
        } else if kind.is_fifo() {
            let mode = Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(CWD, to, rustix::fs::FileType::Fifo, mode, 0).during(what)?;
        } else {
            std::fs::copy(from, to).during(what)?;
        }
        attributes(from, to)
    }
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0u8; 1];
    rustix::fs::lgetxattr(dir, OPAQUE, &mut value[..]).is_ok_and(|read| read == 1) && &value == b"y"
}

/// Owner, mode, extended attributes and times of a file, onto its copy.
fn attributes(from: &Path, to: &Path) -> Result<(), Error> {
    let what = || format!("copy {}", from.display());
    let found = from.symlink_metadata().during(what)?;
    lchown(to, Some(found.uid()), Some(found.gid())).during(what)?;
    if !found.is_symlink() {
        std::fs::set_permissions(to, found.permissions()).during(what)?;
        copy_xattrs(from, to)?;
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: found.atime(),
            tv_nsec: found.atime_nsec() as _,
        },
        last_modification: Timespec {
            tv_sec: found.mtime(),
            tv_nsec: found.mtime_nsec() as _,
        },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).during(what)
}

fn copy_xattrs(from: &Path, to: &Path) -> Result<(), Error> {
    let what = || format!("copy the attributes of {}", from.display());
    let mut names = vec![0u8; MAX_XATTR_BYTES];
    let Ok(length) = rustix::fs::llistxattr(from, &mut names[..]) else {
        return Ok(());
    };
    for name in names[..length].split(|&b| b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name = CString::new(name)
            .map_err(std::io::Error::from)
            .during(what)?;
        let mut value = vec![0u8; MAX_XATTR_BYTES];
        let read = rustix::fs::lgetxattr(from, name.as_c_str(), &mut value[..]).during(what)?;
        let flags = XattrFlags::empty();
        match rustix::fs::lsetxattr(to, name.as_c_str(), &value[..read], flags) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(Error::io(what(), errno)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        files::names(dir).unwrap()
    }

    #[test]
    fn whiteouts_and_opaque_directories_take_away() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("low"), dir.path().join("high"));
        for sub in ["keep", "hide"] {
            std::fs::create_dir_all(low.join(sub)).unwrap();
            std::fs::write(low.join(sub).join("old"), "old").unwrap();
            std::fs::create_dir_all(high.join(sub)).unwrap();
            std::fs::write(high.join(sub).join("new"), "new").unwrap();
        }
        std::fs::write(low.join("gone"), "x").unwrap();
        let device = rustix::fs::FileType::CharacterDevice;
        let made = rustix::fs::mknodat(CWD, high.join("gone"), device, Mode::empty(), 0);
        let marked = rustix::fs::lsetxattr(high.join("hide"), OPAQUE, b"y", XattrFlags::empty());
        if made.is_err() || marked.is_err() {
            println!("skipped: needs root and a file system with trusted attributes");
            return;
        }
        let into = dir.path().join("into");
        std::fs::create_dir(&into).unwrap();
        copy_layers(dir.path(), &["low".into(), "high".into()], &into).unwrap();
        assert_eq!(names(&into), ["hide", "keep"]);
        assert_eq!(names(&into.join("hide")), ["new"]);
        assert_eq!(names(&into.join("keep")), ["new", "old"]);
    }
}

//! Makes files beneath a directory, whatever their names say.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::entry::Member;
use super::reading;
use crate::Error;
use crate::error::During;

/// Attributes that an image may set: others steer overlayfs or belong to the machine.
const ALLOWED_XATTRS: [&str; 2] = ["user.", "security.capability"];
const OPAQUE: &str = "trusted.overlay.opaque";
const COPY_BYTES: usize = 256 << 10;

pub(super) struct Tree {
    root: OwnedFd,
    /// The directory that was written to last: archives list one directory after the other.
    last: Option<(Vec<Vec<u8>>, OwnedFd)>,
    /// Times of directories are set at the end, as writing into them changes them.
    directory_times: Vec<(Vec<Vec<u8>>, i64)>,
    buffer: Vec<u8>,
}

type Path = [Vec<u8>];

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

impl Tree {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self {
            root,
            last: None,
            directory_times: Vec::new(),
            buffer: vec![0; COPY_BYTES],
        }
    }

    pub(super) fn root(&mut self, member: &Member) -> Result<(), Error> {
        let root = self.open_beneath(&[])?;
        finish_open(root.as_fd(), member)?;
        self.directory_times.push((Vec::new(), member.mtime));
        Ok(())
    }

    pub(super) fn directory(&mut self, member: &Member) -> Result<(), Error> {
        let (parent, name) = self.parent(&member.path)?;
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => {
                if kind_of(parent, name)? != FileType::Directory {
                    unlink(parent, name)?;
                    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
                        .during(|| "make a directory".into())?;
                }
            }
            other => other.during(|| "make a directory".into())?,
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, name, flags, Mode::empty())
            .during(|| "open a directory".into())?;
        finish_open(made.as_fd(), member)?;
        self.directory_times
            .push((member.path.clone(), member.mtime));
        Ok(())
    }

    pub(super) fn file(&mut self, member: &Member, body: &mut impl Read) -> Result<(), Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let (parent, name) = self.free(&member.path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let made = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .during(|| "make a file".into())?;
        let mut file = File::from(made);
        copy(body, &mut file, &mut buffer)?;
        self.buffer = buffer;
        finish_open(file.as_fd(), member)?;
        rustix::fs::futimens(&file, &times(member.mtime)).during(|| "set the time".into())
    }

    pub(super) fn symlink(&mut self, member: &Member, target: &[u8]) -> Result<(), Error> {
        let (parent, name) = self.free(&member.path)?;
        rustix::fs::symlinkat(os(target), parent, name).during(|| "make a link".into())?;
        own_at(parent, name, member)
    }

    pub(super) fn hardlink(&mut self, member: &Member, target: &Path) -> Result<(), Error> {
        let Some((old_name, old_parent)) = target.split_last() else {
            return Err(Error::Corrupt("a hard link to the root".into()));
        };
        let old_parent = self.open_beneath(old_parent)?;
        if target == member.path {
            return Ok(());
        }
        let (parent, name) = self.free(&member.path)?;
        rustix::fs::linkat(&old_parent, os(old_name), parent, name, AtFlags::empty()).map_err(
            |errno| match errno {
                Errno::NOENT | Errno::PERM => {
                    Error::Corrupt("a hard link to what is not a file of this layer".into())
                }
                other => Error::io("make a hard link", other),
            },
        )
    }

    pub(super) fn fifo(&mut self, member: &Member) -> Result<(), Error> {
        let (parent, name) = self.free(&member.path)?;
        let mode = Mode::from_raw_mode(member.mode);
        rustix::fs::mknodat(parent, name, FileType::Fifo, mode, 0)
            .during(|| "make a pipe".into())?;
        own_at(parent, name, member)?;
        rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).during(|| "set the mode".into())
    }

    /// Hides what a lower layer has under this name, or all that it has in the directory.
    pub(super) fn whiteout(&mut self, path: &Path, hidden: &[u8]) -> Result<(), Error> {
        if hidden == b".wh..opq" {
            let (parent, _) = self.parent(path)?;
            return set_xattr(parent, OPAQUE, b"y");
        }
        if hidden.starts_with(b".wh.") {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Error::Corrupt("a whiteout of nothing".into()));
        }
        let (parent, _) = self.parent(path)?;
        match rustix::fs::mknodat(
            parent,
            os(hidden),
            FileType::CharacterDevice,
            Mode::empty(),
            0,
        ) {
            // What this layer has itself is not hidden.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(Error::io("make a whiteout", errno)),
        }
    }

    /// Sets the times of directories.
    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.last = None;
        for (path, mtime) in std::mem::take(&mut self.directory_times).iter().rev() {
            // It may have been replaced since.
            if let Ok(dir) = self.open_beneath(path) {
                rustix::fs::futimens(&dir, &times(*mtime)).during(|| "set the time".into())?;
            }
        }
        Ok(())
    }

    /// The parent of a path, where nothing of its name is.
    fn free<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr), Error> {
        let (parent, name) = self.parent(path)?;
        match kind_of(parent, name) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(FileType::Directory) => {
                return Err(Error::Corrupt("takes the place of a directory".into()));
            }
            Ok(_) => unlink(parent, name)?,
        }
        Ok((parent, name))
    }

    fn parent<'p>(&mut self, path: &'p Path) -> Result<(BorrowedFd<'_>, &'p OsStr), Error> {
        let Some((name, parent)) = path.split_last() else {
            return Err(Error::Corrupt("takes the place of the root".into()));
        };
        if self.last.as_ref().is_none_or(|(known, _)| known != parent) {
            let opened = match self.open_beneath(parent) {
                Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    self.make_parents(parent)?
                }
                other => other?,
            };
            self.last = Some((parent.to_vec(), opened));
        }
        match &self.last {
            Some((_, opened)) => Ok((opened.as_fd(), os(name))),
            None => Err(Error::Corrupt("has no parent".into())),
        }
    }

    fn make_parents(&self, path: &Path) -> Result<OwnedFd, Error> {
        for depth in 0..path.len() {
            let parent = self.open_beneath(&path[..depth])?;
            match rustix::fs::mkdirat(&parent, os(&path[depth]), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::io("make a directory", errno)),
            }
        }
        self.open_beneath(path)
    }

    fn open_beneath(&self, path: &Path) -> Result<OwnedFd, Error> {
        let joined = match path {
            [] => b".".to_vec(),
            path => path.join(&b'/'),
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        rustix::fs::openat2(&self.root, os(&joined), flags, Mode::empty(), resolve).map_err(
            |errno| match errno {
                Errno::LOOP | Errno::XDEV => {
                    Error::Corrupt("goes through a symbolic link or leaves the layer".into())
                }
                Errno::NOTDIR => Error::Corrupt("goes through what is not a directory".into()),
                other => Error::io("open a directory of the layer", other),
            },
        )
    }
}

/// Copies a file; what cannot be read is the archive's fault, what cannot be written the disk's.
fn copy(body: &mut impl Read, file: &mut File, buffer: &mut [u8]) -> Result<(), Error> {
    use std::io::Write;
    loop {
        let read = body.read(buffer).map_err(|e| reading(&e))?;
        if read == 0 {
            return Ok(());
        }
        file.write_all(&buffer[..read])
            .during(|| "write a file of the layer".into())?;
    }
}

fn kind_of(parent: BorrowedFd<'_>, name: &OsStr) -> Result<FileType, Error> {
    rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .map(|stat| FileType::from_raw_mode(stat.st_mode))
        .during(|| "look at a file of the layer".into())
}

fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Error> {
    rustix::fs::unlinkat(parent, name, AtFlags::empty()).during(|| "replace a file".into())
}

fn times(mtime: i64) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Every 32-bit number is an owner, but the last one means "leave it".
fn owner(member: &Member) -> Result<(Option<Uid>, Option<Gid>), Error> {
    if member.uid == u32::MAX || member.gid == u32::MAX {
        return Err(Error::Corrupt("has an owner that cannot be".into()));
    }
    Ok((
        Some(Uid::from_raw(member.uid)),
        Some(Gid::from_raw(member.gid)),
    ))
}

fn own_at(parent: BorrowedFd<'_>, name: &OsStr, member: &Member) -> Result<(), Error> {
    let (uid, gid) = owner(member)?;
    rustix::fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .during(|| "set the owner".into())?;
    rustix::fs::utimensat(
        parent,
        name,
        &times(member.mtime),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .during(|| "set the time".into())
}

/// The mode comes after the owner, which takes the set-user-id bit away, and capabilities last.
fn finish_open(file: BorrowedFd<'_>, member: &Member) -> Result<(), Error> {
    let (uid, gid) = owner(member)?;
    rustix::fs::fchown(file, uid, gid).during(|| "set the owner".into())?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(member.mode)).during(|| "set the mode".into())?;
    for (name, value) in &member.xattrs {
        if ALLOWED_XATTRS
            .iter()
            .any(|allowed| name.starts_with(allowed))
        {
            set_xattr(file, name, value)?;
        }
    }
    Ok(())
}

/// A file system without extended attributes has to do without them.
fn set_xattr(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> Result<(), Error> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) if name != OPAQUE => Ok(()),
        Err(errno) => Err(Error::io(format!("set the attribute {name}"), errno)),
    }
}

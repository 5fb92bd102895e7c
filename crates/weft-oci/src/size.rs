//! How much a layer takes.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Result;

/// How many files are looked at, and how deep: each level has a descriptor open. What lies beyond
/// is not counted.
const MAX_ENTRIES: u64 = 5_000_000;
const MAX_DEPTH: usize = 256;

/// Bytes that files beneath a directory take on its disk, without following links: what is in there
/// is a container's, which may change it meanwhile. `None` when there is no such directory. Takes
/// as long as there are files.
pub(crate) fn beneath(dir: &Path) -> Option<u64> {
    let mut open = vec![Dir::new(open_dir(CWD, dir).ok()?).ok()?];
    let (mut bytes, mut left) = (0, MAX_ENTRIES);
    while let Some(dir) = open.last_mut() {
        let Some(Ok(entry)) = dir.read() else {
            open.pop();
            continue;
        };
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if left == 0 {
            break;
        }
        left -= 1;
        let Some(Ok((size, is_dir))) = dir.fd().ok().map(|at| size(at, name)) else {
            continue;
        };
        bytes += size;
        let inner = (is_dir && open.len() < MAX_DEPTH).then(|| enter(open.last()?, name));
        open.extend(inner.flatten());
    }
    Some(bytes)
}

fn open_dir(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

fn enter(above: &Dir, name: &std::ffi::CStr) -> Option<Dir> {
    Dir::new(open_dir(above.fd().ok()?, name).ok()?).ok()
}

/// What an entry takes, and whether it is a directory. A file with several names is counted in
/// parts, one with each of them.
fn size(at: impl std::os::fd::AsFd, name: &std::ffi::CStr) -> Result<(u64, bool)> {
    let wanted = StatxFlags::TYPE | StatxFlags::BLOCKS | StatxFlags::NLINK;
    let found = statx(at, name, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    let is_dir = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
    let names = if is_dir { 1 } else { found.stx_nlink.max(1) };
    Ok((found.stx_blocks * 512 / u64::from(names), is_dir))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn write(path: &Path, bytes: usize) -> u64 {
        let file = fs::File::create(path).unwrap();
        std::io::Write::write_all(&mut &file, &vec![7; bytes]).unwrap();
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn files_are_counted_once_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b");
        fs::create_dir_all(&deep).unwrap();
        let outside = tempfile::tempdir().unwrap();
        write(&outside.path().join("large"), 4 << 20);
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        let before = beneath(dir.path()).unwrap();
        assert!(before < 1 << 20, "{before}");
        let file = deep.join("file");
        let taken = write(&file, 1 << 20);
        assert!(taken >= 1 << 20);
        fs::hard_link(&file, dir.path().join("again")).unwrap();
        let grown = beneath(dir.path()).unwrap() - before;
        assert!(
            (taken..taken + 64_000).contains(&grown),
            "{grown} for {taken}"
        );
        assert_eq!(beneath(&dir.path().join("none")), None);
    }

    #[test]
    fn nests_of_directories_end_somewhere() {
        let dir = tempfile::tempdir().unwrap();
        let mut nest = dir.path().to_owned();
        for _ in 0..MAX_DEPTH + 50 {
            nest.push("d");
        }
        fs::create_dir_all(&nest).unwrap();
        write(&nest.join("hidden"), 1 << 20);
        let counted = beneath(dir.path()).unwrap();
        assert!(counted < 8 << 20, "{counted}");
    }
}

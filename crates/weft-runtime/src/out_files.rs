//! The files a task leaves in `$WEFT_OUT`.
//!
//! The directory is hostile: only regular files count, no symbolic link is followed, and names, depth, number
//! and size are bounded.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The most files that are taken from one task.
pub const MAX_OUT_FILES: usize = 10_000;
/// Bytes of files that are taken from one task without a disk limit.
pub const MAX_OUT_FILES_BYTES: u64 = 64 << 30;
/// The deepest directory that is looked into.
pub const MAX_OUT_DEPTH: usize = 32;
/// Sentences about skipped entries that are kept.
const MAX_SKIPPED: usize = 20;
/// Longest relative path of a file.
const MAX_PATH_BYTES: usize = 1_024;

/// A file that a task left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutFile {
    /// Path within `$WEFT_OUT`: relative, `/` between its parts, without `.` or `..`.
    pub path: String,
    /// Where it is on this machine.
    pub disk_path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// Its permission bits.
    pub mode: u32,
}

impl OutFile {
    /// Opens it for reading, refusing what is not the regular file any more that was found.
    ///
    /// # Errors
    /// When it cannot be opened or is something else.
    pub fn open(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(&self.disk_path, flags, Mode::empty())?);
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        Err(io::Error::other(format!(
            "{} is not a regular file",
            self.path
        )))
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) files: Vec<OutFile>,
    pub(crate) skipped: Vec<String>,
    total_bytes: u64,
}

/// Whether nothing is in a directory; two calls.
pub(crate) fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// Lists the files beneath `out`, in the order of their paths, up to `limit_bytes` together. Blocks.
pub(crate) fn list(out: &Path, limit_bytes: u64) -> Found {
    let mut found = Found::default();
    match fs::symlink_metadata(out) {
        Ok(meta) if meta.is_dir() => found.walk(out, "", 0, limit_bytes),
        _ => found.skip("$WEFT_OUT is not a directory any more"),
    }
    found
}

impl Found {
    fn skip(&mut self, sentence: impl Into<String>) {
        if self.skipped.len() < MAX_SKIPPED {
            self.skipped.push(sentence.into());
        }
    }

    fn walk(&mut self, dir: &Path, prefix: &str, depth: usize, limit_bytes: u64) {
        if depth > MAX_OUT_DEPTH {
            return self.skip(format!(
                "{prefix} is deeper than {MAX_OUT_DEPTH} directories"
            ));
        }
        let mut entries = match fs::read_dir(dir) {
            Ok(entries) => entries
                .flatten()
                .take(MAX_OUT_FILES + 1)
                .collect::<Vec<_>>(),
            Err(error) => return self.skip(format!("{prefix}: {error}")),
        };
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let Some(name) = name
                .to_str()
                .filter(|name| !name.chars().any(char::is_control))
            else {
                self.skip(format!("{prefix}{name:?} is not a printable name"));
                continue;
            };
            let path = format!("{prefix}{name}");
            match fs::symlink_metadata(entry.path()) {
                Ok(meta) if meta.is_dir() => {
                    self.walk(&entry.path(), &format!("{path}/"), depth + 1, limit_bytes)
                }
                Ok(meta) if meta.is_file() => self.take(path, entry.path(), &meta, limit_bytes),
                Ok(_) => self.skip(format!("{path} is not a regular file")),
                Err(error) => self.skip(format!("{path}: {error}")),
            }
        }
    }

    fn take(&mut self, path: String, disk_path: PathBuf, meta: &fs::Metadata, limit_bytes: u64) {
        if self.files.len() >= MAX_OUT_FILES {
            return self.skip(format!("{path}: more than {MAX_OUT_FILES} files"));
        }
        if path.len() > MAX_PATH_BYTES {
            return self.skip(format!("a path is longer than {MAX_PATH_BYTES} bytes"));
        }
        let total_bytes = self.total_bytes.saturating_add(meta.len());
        if total_bytes > limit_bytes {
            return self.skip(format!("{path}: more than {limit_bytes} bytes together"));
        }
        self.total_bytes = total_bytes;
        let mode = meta.permissions().mode() & 0o777;
        self.files.push(OutFile {
            path,
            disk_path,
            size_bytes: meta.len(),
            mode,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const LIMIT_BYTES: u64 = 1 << 20;

    #[test]
    fn only_regular_files_count_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        fs::create_dir_all(out.join("a/b")).unwrap();
        fs::write(out.join("z"), "zz").unwrap();
        fs::write(out.join("a/b/c"), "c").unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        symlink(dir.path().join("secret"), out.join("link")).unwrap();
        symlink(dir.path(), out.join("dirlink")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            out.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let found = list(&out, LIMIT_BYTES);
        let paths: Vec<_> = found.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["a/b/c", "z"]);
        assert_eq!(found.skipped.len(), 3, "{:?}", found.skipped);
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        let found = list(&dir.path().join("out"), LIMIT_BYTES);
        assert!(found.files.is_empty() && found.skipped.len() == 1);
    }

    #[test]
    fn a_sparse_giant_is_skipped_and_its_neighbours_kept() {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("big"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        fs::write(dir.path().join("small"), "x").unwrap();
        let found = list(dir.path(), LIMIT_BYTES);
        assert_eq!((found.files.len(), found.skipped.len()), (1, 1));
    }

    #[test]
    fn a_file_swapped_for_a_link_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), "x").unwrap();
        let file = list(dir.path(), LIMIT_BYTES).files.remove(0);
        assert!(file.open().is_ok());
        fs::remove_file(dir.path().join("f")).unwrap();
        symlink("/etc/passwd", dir.path().join("f")).unwrap();
        assert!(file.open().is_err());
    }
}

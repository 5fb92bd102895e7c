//! Working directories: handed to each task, cleared with its outcome, swept at start.
//!
//! ```text
//! <root>/<number>/        working directory, with the named input
//! <root>/<number>/.out/   $WEFT_OUT
//! <root>/<number>.stdout  output too large for memory, and .stderr
//! ```
//!
//! `$WEFT_OUT` lies within the working directory, so that the disk limit counts both. Making and removing both takes
//! a journalling file system some 200 µs, more than everything else about a small task, so that a directory in which
//! nothing was left or changed is kept for the next one.

use std::fs::{self, DirBuilder, DirEntry, File, ReadDir};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use weft_types::{Failure, Reason};

use crate::outcome::storage;
use crate::remove::remove_tree;
use crate::{Error, Input, TaskRun, out_files};

/// Name of `$WEFT_OUT` within the working directory.
pub(crate) const OUT_NAME: &str = ".out";
/// Names within the working directory that inputs may not have: ours and the sandbox's.
const RESERVED_NAMES: [&str; 2] = [OUT_NAME, ".tmp"];

/// For the agent's user alone.
const DIR_MODE: u32 = 0o700;
/// Unused directories kept for the next tasks.
const MAX_IDLE: usize = 256;

/// The directory under which one agent's tasks work. Clones share it.
#[derive(Clone, Debug)]
pub struct WorkRoot(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    next: AtomicU64,
    /// Directories as [`WorkRoot::create`] made them.
    idle: Mutex<Vec<PathBuf>>,
}

impl WorkRoot {
    /// Opens the directory, making it (mode 0700) when it is not there, and removes what an earlier life left
    /// in it. Must be used by one agent only.
    ///
    /// # Errors
    /// When it cannot be made or cleared.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        private_dir(&path)?;
        for entry in fs::read_dir(&path).map_err(Error::directory(&path))? {
            let entry = entry.map_err(Error::directory(&path))?;
            let kind = entry.file_type().map_err(Error::directory(entry.path()))?;
            let left = entry.path();
            let removed = if kind.is_dir() {
                remove_tree(&left)
            } else {
                fs::remove_file(&left)
            };
            removed.map_err(Error::directory(left))?;
        }
        let path = fs::canonicalize(&path).map_err(Error::directory(&path))?;
        Ok(Self(Arc::new(Shared {
            path,
            next: AtomicU64::new(0),
            idle: Mutex::default(),
        })))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes the working directory of a task with its named input in it. Blocks.
    ///
    /// # Errors
    /// `invalid-spec` for a name that leads elsewhere, else `storage-error`.
    pub(crate) fn prepare(&self, task: &TaskRun) -> Result<WorkDir, Failure> {
        let name = task.input.name().map(input_name).transpose()?;
        let dir = self.create()?;
        if let Some(name) = name {
            let target = dir.path.join(name);
            materialise(&task.input, &target).map_err(|error| {
                storage("cannot put the input into the working directory", &error)
            })?;
        }
        Ok(dir)
    }

    fn create(&self) -> Result<WorkDir, Failure> {
        let idle = self.0.idle.lock().pop();
        let is_new = idle.is_none();
        let number = || self.0.next.fetch_add(1, Ordering::Relaxed).to_string();
        let path = idle.unwrap_or_else(|| self.0.path.join(number()));
        // From here on the directory is cleared whatever happens.
        let dir = WorkDir {
            path,
            root: Arc::clone(&self.0),
        };
        if is_new {
            let make = |path: &Path| DirBuilder::new().mode(DIR_MODE).create(path);
            make(&dir.path)
                .and_then(|()| make(&dir.out()))
                .map_err(|error| storage("cannot make the working directory", &error))?;
        }
        Ok(dir)
    }
}

/// The working directory of one task; cleared, with what is beside it, on drop.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    root: Arc<Shared>,
}

impl WorkDir {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `$WEFT_OUT`.
    pub(crate) fn out(&self) -> PathBuf {
        self.path.join(OUT_NAME)
    }

    /// What files for large output are called, without suffix.
    pub(crate) fn output_prefix(&self) -> PathBuf {
        self.path.clone()
    }
}

/// Whether a working directory is as it was made.
fn is_pristine(path: &Path) -> bool {
    let out = path.join(OUT_NAME);
    let is_out =
        |entry: io::Result<DirEntry>| entry.is_ok_and(|entry| entry.file_name() == OUT_NAME);
    let only_out =
        |mut entries: ReadDir| entries.next().is_some_and(is_out) && entries.next().is_none();
    is_private_dir(path)
        && fs::read_dir(path).is_ok_and(only_out)
        && is_private_dir(&out)
        && out_files::is_empty(&out)
}

/// Whether it is a directory of this user alone, and no link to one.
fn is_private_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| {
        let ours = meta.uid() == rustix::process::geteuid().as_raw();
        meta.is_dir() && ours && meta.mode() & 0o7777 == DIR_MODE
    })
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        for suffix in ["stdout", "stderr"] {
            let _ = fs::remove_file(self.path.with_extension(suffix));
        }
        let path = std::mem::take(&mut self.path);
        if is_pristine(&path) {
            let mut idle = self.root.idle.lock();
            if idle.len() < MAX_IDLE {
                return idle.push(path);
            }
        }
        let remove = move || {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "a working directory stays until the next start");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Makes a directory for this user alone, or checks that it is one.
pub(crate) fn private_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .map_err(Error::directory(path))?;
    let meta = fs::metadata(path).map_err(Error::directory(path))?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !ours || meta.mode() & 0o077 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// The name of an input, if it is a path that stays where it is put.
fn input_name(name: &str) -> Result<&Path, Failure> {
    let path = Path::new(name);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let reserved = path.components().next().is_some_and(|first| {
        RESERVED_NAMES
            .iter()
            .any(|reserved| first.as_os_str() == *reserved)
    });
    if name.is_empty() || name.contains('\0') || !plain || reserved {
        return Err(Failure::new(
            Reason::InvalidSpec,
            format!("{name:?} is not a name for a file in the working directory"),
        )
        .with_next("use a relative path without `..`"));
    }
    Ok(path)
}

/// Writes the input to a file of its own: never a link, the task may change it.
fn materialise(input: &Input, target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut to = File::options().write(true).create_new(true).open(target)?;
    match input {
        Input::None => Ok(()),
        Input::Bytes { bytes, .. } => to.write_all(bytes),
        Input::File {
            path,
            offset,
            length,
            ..
        } => {
            let mut from = File::open(path)?;
            from.seek(SeekFrom::Start(*offset))?;
            // `copy` asks the kernel, which shares the blocks where the file system can.
            match length {
                Some(length) => io::copy(&mut from.take(*length), &mut to)?,
                None => io::copy(&mut from, &mut to)?,
            };
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::process_task;
    use bytes::Bytes;
    use std::os::unix::fs::PermissionsExt;

    fn named(name: &str) -> TaskRun {
        TaskRun {
            input: Input::Bytes {
                bytes: Bytes::from_static(b"in"),
                name: Some(name.to_owned()),
            },
            ..process_task(&["true"])
        }
    }

    #[test]
    fn a_directory_that_was_used_holds_the_input_and_is_gone_when_dropped() {
        let base = tempfile::tempdir().unwrap();
        let root = WorkRoot::open(base.path().join("work")).unwrap();
        let dir = root.prepare(&named("sub/file.txt")).unwrap();
        assert_eq!(fs::read(dir.path().join("sub/file.txt")).unwrap(), b"in");
        assert!(dir.out().is_dir());
        drop(dir);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_is_used_again_only_when_nothing_was_left_or_changed() {
        let base = tempfile::tempdir().unwrap();
        let root = WorkRoot::open(base.path().join("work")).unwrap();
        let task = process_task(&["true"]);
        let first = root.prepare(&task).unwrap();
        let path = first.path().to_owned();
        drop(first);
        type Change = fn(&Path);
        let changes: [Change; 4] = [
            |path| fs::write(path.join("left"), "x").unwrap(),
            |path| fs::write(path.join(".out/left"), "x").unwrap(),
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap(),
            |path| {
                fs::remove_dir(path.join(".out")).unwrap();
                std::os::unix::fs::symlink("/", path.join(".out")).unwrap();
            },
        ];
        let again = root.prepare(&task).unwrap();
        assert_eq!(again.path(), path);
        drop(again);
        for change in changes {
            let dir = root.prepare(&task).unwrap();
            let path = dir.path().to_owned();
            change(&path);
            drop(dir);
            assert!(!path.exists());
        }
    }

    #[test]
    fn part_of_a_file_can_be_the_input() {
        let base = tempfile::tempdir().unwrap();
        let root = WorkRoot::open(base.path().join("work")).unwrap();
        let path = base.path().join("source");
        fs::write(&path, "0123456789").unwrap();
        let name = Some("part".to_owned());
        let input = Input::File {
            path,
            name,
            offset: 2,
            length: Some(3),
        };
        let dir = root
            .prepare(&TaskRun {
                input,
                ..process_task(&["true"])
            })
            .unwrap();
        assert_eq!(fs::read(dir.path().join("part")).unwrap(), b"234");
    }

    #[test]
    fn names_that_lead_out_of_the_directory_are_refused_and_nothing_stays() {
        let base = tempfile::tempdir().unwrap();
        let root = WorkRoot::open(base.path().join("work")).unwrap();
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../x",
            ".out",
            ".out/x",
            ".tmp",
            "a\0b",
            ".",
        ] {
            let failure = root.prepare(&named(bad)).unwrap_err();
            assert_eq!(failure.reason, Reason::InvalidSpec, "{bad:?}");
        }
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_an_earlier_life_left_is_swept() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("work");
        WorkRoot::open(&path).unwrap();
        fs::create_dir_all(path.join("job-x-1-1/deep")).unwrap();
        fs::write(path.join("job-x-1-1.stdout"), "x").unwrap();
        let root = WorkRoot::open(&path).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("work");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(WorkRoot::open(&path), Err(Error::Exposed { .. })));
    }
}

//! The file system of a sandboxed process.
//!
//! An allow list: a small tmpfs becomes the root, and only the system directories, the binds of the request, the work
//! directory, a private `/tmp`, a fresh `/proc` and a handful of devices are mounted on it. Everything except the
//! work directory, `/tmp` and writable binds is read-only. What is not listed (home directories, the agent's data,
//! other tasks, `/sys`, `/run`) does not exist inside.

use crate::failure::At;
use crate::{Bind, Confinement, Network, Options, SpawnFailure, Stage};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where the new root is put together: a directory that exists everywhere and contains no source of a bind. The
/// namespace is private, so that nobody else sees it covered.
const STAGES: [&str; 3] = ["/sys", "/mnt", "/srv"];

/// Devices of every sandbox,
/// with their minor numbers (Linux, "Allocated devices", major 1).
const DEVICES: [(&str, u32); 5] = [
    ("null", 3),
    ("zero", 5),
    ("full", 7),
    ("random", 8),
    ("urandom", 9),
];
const MEMORY_DEVICES_MAJOR: u32 = 1;

/// File mode bits that processes do not give to new files unless they say so.
pub(crate) const UMASK: Mode = Mode::from_raw_mode(0o022);

/// Symbolic links in `/dev`. Shared memory is in `/tmp`, where it counts as disk.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("shm", "/tmp"),
];

/// Entries of a work directory that are handed to the task's uid; more than that is refused.
const MAX_HANDED_OVER: usize = 100_000;

/// What all sandboxes of this machine share, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct View {
    stage: &'static str,
    directories: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    hidden: Vec<PathBuf>,
    resolver: Option<PathBuf>,
}

impl View {
    /// Looks at the system directories of `options`.
    pub(crate) fn new(options: &Options) -> Self {
        let mut view = Self {
            stage: STAGES
                .into_iter()
                .find(|stage| Path::new(stage).is_dir())
                .unwrap_or(STAGES[0]),
            directories: Vec::new(),
            links: Vec::new(),
            hidden: options.hidden.clone(),
            resolver: None,
        };
        for path in &options.system_dirs {
            match (std::fs::read_link(path), path.is_dir()) {
                (Ok(target), _) => view.links.push((path.clone(), target)),
                (Err(_), true) => view.directories.push(path.clone()),
                (Err(_), false) => {}
            }
        }
        // A link to where a resolver keeps its file, outside of what is mounted.
        view.resolver = std::fs::canonicalize("/etc/resolv.conf")
            .ok()
            .filter(|path| {
                !view
                    .directories
                    .iter()
                    .any(|directory| path.starts_with(directory))
            });
        view
    }
}

/// Makes `confinement` the file system of the calling process, which must be alone in a new mount namespace and the
/// first of a new pid namespace.
///
/// # Errors
/// [`Stage::WorkDir`] for the work directory, [`Stage::Mount`] for the rest.
pub(crate) fn enter(view: &View, confinement: &Confinement) -> Result<(), SpawnFailure> {
    let root = Builder {
        root: PathBuf::from(view.stage),
    };
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .at(Stage::Mount)?;
    root.tmpfs("/", c"mode=755,size=1m,nr_inodes=4k")
        .at(Stage::Mount)?;
    system(&root, view, confinement.network).at(Stage::Mount)?;
    devices(&root).at(Stage::Mount)?;
    // First, because the work directory may be beneath it.
    root.bind(&tmp_dir(confinement), Path::new("/tmp"), true)
        .at(Stage::Mount)?;
    for Bind {
        source,
        target,
        writable,
    } in &confinement.binds
    {
        root.bind(source, target, *writable).at(Stage::Mount)?;
    }
    root.bind(&confinement.work_dir, &confinement.work_dir, true)
        .at(Stage::WorkDir)?;
    root.make_directory(Path::new("/proc")).at(Stage::Mount)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount(
        "proc",
        root.inside(Path::new("/proc")),
        "proc",
        flags,
        None::<&CStr>,
    )
    .at(Stage::Mount)?;
    for hidden in &view.hidden {
        root.read_only(hidden).or_else(absent).at(Stage::Mount)?;
    }
    root.read_only(Path::new("/")).at(Stage::Mount)?;
    root.pivot().at(Stage::Mount)
}

/// What is hidden need not exist.
fn absent(error: Errno) -> Result<(), Errno> {
    if matches!(error, Errno::NOENT | Errno::INVAL) {
        Ok(())
    } else {
        Err(error)
    }
}

/// The host directory shown as `/tmp`.
fn tmp_dir(confinement: &Confinement) -> PathBuf {
    confinement
        .tmp_dir
        .clone()
        .unwrap_or_else(|| confinement.work_dir.join(".tmp"))
}

/// Makes the host directory shown as `/tmp`, unless the request brings one.
///
/// # Errors
/// When the work directory does not exist.
pub(crate) fn make_tmp(confinement: &Confinement) -> Result<(), Errno> {
    match confinement.tmp_dir {
        Some(_) => Ok(()),
        None => match rustix::fs::mkdir(tmp_dir(confinement), Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        },
    }
}

fn system(root: &Builder, view: &View, network: Network) -> Result<(), Errno> {
    for directory in &view.directories {
        root.bind(directory, directory, false)?;
    }
    for (link, target) in &view.links {
        root.make_parents(link)?;
        rustix::fs::symlink(target, root.inside(link))?;
    }
    for hidden in &view.hidden {
        match std::fs::metadata(root.inside(hidden)) {
            Ok(kind) if kind.is_dir() => root.tmpfs(hidden, c"mode=755,size=4k,nr_inodes=64")?,
            Ok(_) => rustix::mount::mount_bind("/dev/null", root.inside(hidden))?,
            Err(_) => {}
        }
    }
    match &view.resolver {
        Some(resolver) if network == Network::Host => root.bind(resolver, resolver, false),
        _ => Ok(()),
    }
}

fn devices(root: &Builder) -> Result<(), Errno> {
    root.make_directory(Path::new("/dev"))?;
    rustix::process::umask(Mode::empty());
    for (name, minor) in DEVICES {
        let path = Path::new("/dev").join(name);
        let target = root.inside(&path);
        let device = rustix::fs::makedev(MEMORY_DEVICES_MAJOR, minor);
        // A node is cheaper than a mount, but only root in the host's user namespace may make one.
        match rustix::fs::mknodat(
            CWD,
            &target,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        ) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                rustix::fs::open(&target, OFlags::CREATE | OFlags::CLOEXEC, Mode::empty())?;
                rustix::mount::mount_bind(&path, &target)?;
            }
            Err(error) => return Err(error),
        }
    }
    rustix::process::umask(UMASK);
    for (name, target) in DEVICE_LINKS {
        rustix::fs::symlink(target, root.inside(&Path::new("/dev").join(name)))?;
    }
    Ok(())
}

/// A root being put together.
struct Builder {
    root: PathBuf,
}

impl Builder {
    /// Where an absolute path of the sandbox is until the pivot.
    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn tmpfs(&self, path: impl AsRef<Path>, options: &CStr) -> Result<(), Errno> {
        rustix::mount::mount(
            "tmpfs",
            self.inside(path.as_ref()),
            "tmpfs",
            MountFlags::NOSUID,
            options,
        )
    }

    fn make_parents(&self, path: &Path) -> Result<(), Errno> {
        path.parent()
            .map_or(Ok(()), |parent| self.make_directory(parent))
    }

    fn make_directory(&self, path: &Path) -> Result<(), Errno> {
        let target = self.inside(path);
        match rustix::fs::mkdir(&target, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            // Beneath a read-only mount only what exists can be mounted on, which the mount will tell.
            Err(Errno::ROFS) => Ok(()),
            Err(Errno::NOENT) if target != self.root => {
                self.make_parents(path)?;
                match rustix::fs::mkdir(&target, Mode::from_raw_mode(0o755)) {
                    Err(Errno::EXIST | Errno::ROFS) => Ok(()),
                    other => other,
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Mounts the host's `source` at `target`.
    fn bind(&self, source: &Path, target: &Path, writable: bool) -> Result<(), Errno> {
        if !target.is_absolute()
            || target
                .components()
                .any(|part| part == std::path::Component::ParentDir)
        {
            return Err(Errno::INVAL);
        }
        if std::fs::metadata(source).at_errno()?.is_dir() {
            self.make_directory(target)?;
        } else {
            self.make_parents(target)?;
            let flags = OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match rustix::fs::open(self.inside(target), flags, Mode::from_raw_mode(0o600)) {
                Ok(_) | Err(Errno::ROFS) => {}
                Err(error) => return Err(error),
            }
        }
        let inside = self.inside(target);
        rustix::mount::mount_bind_recursive(source, &inside)?;
        let read_only = if writable { 0 } else { libc::MOUNT_ATTR_RDONLY };
        let set = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only;
        set_attributes(&inside, set, libc::AT_RECURSIVE)
    }

    fn read_only(&self, path: &Path) -> Result<(), Errno> {
        set_attributes(&self.inside(path), libc::MOUNT_ATTR_RDONLY, 0)
    }

    /// Makes this the root and lets go of the old one (pivot_root(2), "pivot_root(\".\", \".\")").
    fn pivot(&self) -> Result<(), Errno> {
        rustix::process::chdir(&self.root)?;
        rustix::process::pivot_root(".", ".")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    }
}

/// Converts to the plain error number.
trait AtErrno<T> {
    fn at_errno(self) -> Result<T, Errno>;
}

impl<T> AtErrno<T> for std::io::Result<T> {
    fn at_errno(self) -> Result<T, Errno> {
        self.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

/// Adds attributes to a mount, with `AT_RECURSIVE` also to those beneath it.
fn set_attributes(path: &Path, set: u64, flags: libc::c_int) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the path is a C string and the attributes a `mount_attr` of the size told; both are only read.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(crate::clone::last_errno())
    }
}

/// Gives the work directory and what is in it to `id`, without following links. Files with several links keep their
/// owner: they may be shared with a store of artifacts.
///
/// # Errors
/// When the directory does not exist or contains more than [`MAX_HANDED_OVER`] entries.
pub(crate) fn hand_over(directory: &Path, id: u32) -> Result<(), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
    let mut left = MAX_HANDED_OVER;
    hand_over_from(
        rustix::fs::openat(CWD, directory, flags, Mode::empty())?,
        id,
        &mut left,
        0,
    )
}

/// Deepest directory that is handed over.
const MAX_DEPTH: usize = 64;

fn hand_over_from(
    directory: OwnedFd,
    id: u32,
    left: &mut usize,
    depth: usize,
) -> Result<(), Errno> {
    let owner = (rustix::fs::Uid::from_raw(id), rustix::fs::Gid::from_raw(id));
    rustix::fs::fchown(&directory, Some(owner.0), Some(owner.1))?;
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        *left = left.checked_sub(1).ok_or(Errno::TOOBIG)?;
        let state = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(state.st_mode).is_dir() {
            if depth == MAX_DEPTH {
                return Err(Errno::TOOBIG);
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
            hand_over_from(
                rustix::fs::openat(&directory, name, flags, Mode::empty())?,
                id,
                left,
                depth + 1,
            )?;
        } else if state.st_nlink == 1 {
            rustix::fs::chownat(
                &directory,
                name,
                Some(owner.0),
                Some(owner.1),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
    }
    Ok(())
}

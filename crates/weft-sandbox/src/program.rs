//! The last steps before a program runs, shared by sandboxed and unconfined processes.

use crate::failure::At;
use crate::limits::Rlimits;
use crate::{DEFAULT_PATH, SpawnFailure, Spec, Stage};
use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::{CString, OsStr, c_char};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Everything needed to execute a program without allocating.
#[derive(Debug)]
pub(crate) struct Program {
    path: CString,
    cwd: CString,
    rlimits: Rlimits,
    /// Descriptors that become 0, 1 and 2.
    stdio: [RawFd; 3],
    arguments: Pointers,
    environment: Pointers,
}

/// Owned strings and the null-terminated array of pointers to them.
#[derive(Debug)]
struct Pointers {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let ends = std::iter::once(std::ptr::null());
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain(ends)
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

impl Program {
    /// Prepares `spec`; `path` is the file of the program and `marker` a further environment variable, put first.
    ///
    /// # Errors
    /// When a string contains NUL.
    pub(crate) fn new(
        spec: &Spec,
        path: &Path,
        rlimits: Rlimits,
        stdio: [RawFd; 3],
        marker: Option<String>,
    ) -> Result<Self, SpawnFailure> {
        let arguments = spec
            .argv
            .iter()
            .map(|argument| c_string(argument.as_bytes()))
            .collect::<Result<_, _>>()?;
        let variables = spec.env.iter().map(|(name, value)| variable(name, value));
        let marker = marker.iter().map(|marker| c_string(marker.as_bytes()));
        let environment = marker.chain(variables).collect::<Result<_, _>>()?;
        Ok(Self {
            path: c_string(path.as_os_str().as_bytes())?,
            cwd: c_string(spec.cwd.as_os_str().as_bytes())?,
            rlimits,
            stdio,
            arguments: Pointers::new(arguments),
            environment: Pointers::new(environment),
        })
    }

    /// Becomes the program. Returns only the reason why not. Allocates nothing.
    pub(crate) fn execute(&self) -> SpawnFailure {
        match self.arrange() {
            Err(failure) => failure,
            Ok(()) => {
                // SAFETY: the path is a C string and both arrays are null-terminated arrays of C strings that live
                // as long as `self`.
                unsafe {
                    let (arguments, environment) =
                        (&self.arguments.pointers, &self.environment.pointers);
                    libc::execve(self.path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
                }
                SpawnFailure {
                    stage: Stage::Exec,
                    errno: crate::clone::last_errno().raw_os_error(),
                }
            }
        }
    }

    fn arrange(&self) -> Result<(), SpawnFailure> {
        reset_signals();
        rustix::process::setsid().at(Stage::Descriptors)?;
        // Outputs first: their source may be descriptor 0.
        for target in [1, 2, 0] {
            duplicate(self.stdio[target], target).at(Stage::Descriptors)?;
        }
        close_from(3);
        self.rlimits.apply().at(Stage::Limits)?;
        rustix::process::chdir(self.cwd.as_c_str()).at(Stage::WorkDir)
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, SpawnFailure> {
    CString::new(bytes).map_err(|_| SpawnFailure {
        stage: Stage::Request,
        errno: libc::EINVAL,
    })
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, SpawnFailure> {
    let mut bytes = Vec::with_capacity(name.len() + value.len() + 2);
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(b'=');
    bytes.extend_from_slice(value.as_bytes());
    c_string(&bytes)
}

/// Makes `target` a copy of `source` that survives execution.
fn duplicate(source: RawFd, target: usize) -> Result<(), Errno> {
    let target = target as RawFd;
    if source == target {
        return Ok(());
    }
    // SAFETY: takes two numbers; descriptors 0 to 2 belong to nobody else in the process about to execute.
    if unsafe { libc::dup2(source, target) } < 0 {
        Err(crate::clone::last_errno())
    } else {
        Ok(())
    }
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: u32) {
    // SAFETY: called in a process that is about to execute or only waits, and uses no descriptor from `first` on.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
}

/// Undoes what the spawner does to signals: blocked ones, and SIGPIPE, which Rust programs ignore.
fn reset_signals() {
    // SAFETY: the set is initialised before it is used, and no handler is installed, only the default.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

/// Has the calling process killed when its parent ends.
///
/// # Errors
/// [`Errno::SRCH`] when `parent` has ended already.
pub(crate) fn die_with(parent: Option<Pid>) -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    if parent.is_some() && rustix::process::getppid() != parent {
        Err(Errno::SRCH)
    } else {
        Ok(())
    }
}

/// Lets the kernel prefer this process when memory runs out on the whole machine.
pub(crate) fn volunteer_for_oom() {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(c"/proc/self/oom_score_adj", flags, Mode::empty()) {
        // Only a preference: without it the machine still works.
        let _ = rustix::io::write(file, b"300");
    }
}

/// Finds the file of a program as a shell does: as it is when it has a slash, else in `PATH`.
///
/// # Errors
/// `ENOENT`, or `EACCES` when only something not executable was found.
pub(crate) fn find(spec: &Spec) -> Result<PathBuf, SpawnFailure> {
    let Some(name) = spec.argv.first().filter(|name| !name.is_empty()) else {
        return Err(SpawnFailure {
            stage: Stage::Request,
            errno: libc::EINVAL,
        });
    };
    if name.as_bytes().contains(&b'/') {
        return Ok(name.into());
    }
    let mut failure = Errno::NOENT;
    for directory in std::env::split_paths(search_path(spec)) {
        let file = directory.join(name);
        match rustix::fs::access(&file, rustix::fs::Access::EXEC_OK) {
            Ok(()) if !file.is_dir() => return Ok(file),
            Err(Errno::ACCESS) => failure = Errno::ACCESS,
            _ => {}
        }
    }
    Err(failure).at(Stage::Exec)
}

/// The directories in which a program is looked up.
pub(crate) fn search_path(spec: &Spec) -> &OsStr {
    let path = spec.env.iter().find(|(name, _)| name == "PATH");
    path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value)
}

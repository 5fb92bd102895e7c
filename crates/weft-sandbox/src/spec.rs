//! What to start and what became of it: the vocabulary shared by the agent's [`Client`](crate::Client)
//! and the spawner.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// One process to start.
///
/// The environment is exactly `env`: nothing is inherited from the agent. Without a sandbox one variable,
/// [`MARKER_VARIABLE`], is added, by which leftovers of a killed agent are found again.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Program and arguments. A program without a slash is looked up in the `PATH` of `env`.
    pub argv: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Working directory; in the full sandbox a path as seen inside.
    pub cwd: PathBuf,
    /// Standard input.
    pub stdin: Stdin,
    /// What happens to standard output.
    pub stdout: Capture,
    /// What happens to standard error.
    pub stderr: Capture,
    /// Wall time after which the process and all its descendants are killed (`Exit::timed_out`).
    pub timeout: Option<Duration>,
    /// On timeout: the time between SIGTERM and SIGKILL. Zero sends SIGKILL at once.
    pub grace: Duration,
    /// Limits on resources.
    pub limits: Limits,
    /// How the process is contained.
    pub sandbox: Sandbox,
}

impl Spec {
    /// A process with the given program and arguments, an environment of only a default `PATH`, no input,
    /// both outputs captured up to [`DEFAULT_CAPTURE_BYTES`], no limits, in the directory `cwd`.
    pub fn new<A: Into<OsString>>(
        argv: impl IntoIterator<Item = A>,
        cwd: impl Into<PathBuf>,
        sandbox: Sandbox,
    ) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: vec![("PATH".into(), DEFAULT_PATH.into())],
            cwd: cwd.into(),
            stdin: Stdin::Null,
            stdout: Capture::Pipe {
                limit_bytes: DEFAULT_CAPTURE_BYTES,
            },
            stderr: Capture::Pipe {
                limit_bytes: DEFAULT_CAPTURE_BYTES,
            },
            timeout: None,
            grace: Duration::ZERO,
            limits: Limits::default(),
            sandbox,
        }
    }
}

/// Output kept per stream unless the [`Spec`] says otherwise.
pub const DEFAULT_CAPTURE_BYTES: u64 = 1 << 20;

/// The `PATH` of [`Spec::new`], and the one used for the look-up when `env` has none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Environment variable that marks processes started without a sandbox: `<node tag>.<spawner pid>.<id>`.
pub const MARKER_VARIABLE: &str = "WEFT_SPAWN_ID";

/// Standard input of a process.
#[derive(Clone, Debug, Default)]
pub enum Stdin {
    /// `/dev/null`.
    #[default]
    Null,
    /// These bytes, then end of file.
    Bytes(Bytes),
}

/// What happens to one output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// `/dev/null`.
    Discard,
    /// Sent to the agent, up to `limit_bytes`; what exceeds it is read and dropped, and flagged in [`Exit`].
    /// `u64::MAX` is no limit, for services. An agent that does not consume stops the writer, not the spawner.
    Pipe {
        /// Bytes passed on before truncation.
        limit_bytes: u64,
    },
}

/// How a process is contained. There is no default: weakness must be asked for by name.
#[derive(Clone, Debug)]
pub enum Sandbox {
    /// Not at all: the agent's own user, file system and network. Its descendants still end with it.
    None,
    /// Own user, mount, pid, ipc, uts and network namespaces, read-only system directories, no capabilities,
    /// seccomp and Landlock.
    Full(Confinement),
}

/// Details of the full sandbox.
#[derive(Clone, Debug)]
pub struct Confinement {
    /// The only writable directory of the host, at the same path inside. Must exist. When the spawner runs
    /// as root its content is handed (chown) to the uid of the task; files with several hard links are not.
    pub work_dir: PathBuf,
    /// Host directory shown as `/tmp`; `None` makes `.tmp` inside `work_dir`, so that it counts as disk.
    pub tmp_dir: Option<PathBuf>,
    /// Network of the task.
    pub network: Network,
    /// Further host paths, beyond the system directories.
    pub binds: Vec<Bind>,
}

impl Confinement {
    /// Confined to `work_dir`, without network.
    pub fn new(work_dir: impl Into<PathBuf>) -> Self {
        Self {
            work_dir: work_dir.into(),
            tmp_dir: None,
            network: Network::None,
            binds: Vec::new(),
        }
    }
}

/// A host path shown inside the sandbox.
#[derive(Clone, Debug)]
pub struct Bind {
    /// Path on the host; must exist.
    pub source: PathBuf,
    /// Absolute path inside.
    pub target: PathBuf,
    /// Whether the task may write there (its unprivileged uid must also be allowed to).
    pub writable: bool,
}

/// Network of a sandboxed task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Only a loopback interface of its own.
    None,
    /// The host's network.
    Host,
}

/// Limits on one process and its descendants. `None` is no limit, except for `processes` in the full
/// sandbox, where it is [`DEFAULT_PROCESSES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Hard cap on CPU time, in thousandths of a core.
    pub cpu_quota_millicores: Option<u64>,
    /// Share of the CPU when it is contended, in thousandths of a core.
    pub cpu_weight_millicores: Option<u64>,
    /// Memory without swap; beyond it the kernel kills (`Exit::oom_killed`).
    pub memory_bytes: Option<u64>,
    /// Disk used beneath the work directory (without sandbox: `cwd`), also the largest file.
    pub disk_bytes: Option<u64>,
    /// Processes and threads alive at once.
    pub processes: Option<u32>,
    /// File descriptors per process.
    pub open_files: Option<u32>,
}

/// Processes and threads a fully sandboxed task may have when its [`Limits`] do not say.
pub const DEFAULT_PROCESSES: u32 = 1_024;

/// Something a process did.
#[derive(Clone, Debug)]
pub enum Event {
    /// A piece of its output.
    Output {
        /// Which stream.
        stream: Stream,
        /// The bytes, in order per stream.
        bytes: Bytes,
    },
    /// Its end; always the last event.
    Exit(Exit),
}

/// An output stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The end of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub outcome: Outcome,
    /// What it used.
    pub usage: Usage,
    /// The timeout of the [`Spec`] passed.
    pub timed_out: bool,
    /// The kernel killed a process of it for exceeding its memory.
    pub oom_killed: bool,
    /// It was killed for exceeding its disk limit, or because the file system ran into its reserve.
    pub disk_exceeded: bool,
    /// Standard output was cut at its limit.
    pub stdout_truncated: bool,
    /// Standard error was cut at its limit.
    pub stderr_truncated: bool,
}

impl Exit {
    /// The code a shell would show: the exit status, 128 + signal, 127 when the program does not exist,
    /// 126 when it cannot be executed, 125 when the sandbox could not be set up.
    pub fn shell_code(&self) -> i32 {
        match self.outcome {
            Outcome::Exited(code) => code,
            Outcome::Signalled(signal) => 128 + signal,
            Outcome::NotStarted(SpawnFailure {
                stage: Stage::Exec,
                errno,
            }) => match errno {
                libc::ENOENT | libc::ENOTDIR => 127,
                _ => 126,
            },
            Outcome::NotStarted(_) => 125,
        }
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this status, 0 to 255.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
    /// It never ran.
    NotStarted(SpawnFailure),
}

/// Why a process could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpawnFailure {
    /// The step that failed.
    pub stage: Stage,
    /// The operating system's error number.
    pub errno: i32,
}

impl std::fmt::Display for SpawnFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cause = std::io::Error::from_raw_os_error(self.errno);
        write!(f, "{}: {cause}", self.stage.describe())
    }
}

/// A step of starting a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The request itself (no program, a NUL byte, a relative path).
    Request = 1,
    /// Pipes and other descriptors.
    Descriptors = 2,
    /// Creating the process and its namespaces.
    Clone = 3,
    /// Entering the cgroup or writing its limits.
    Cgroup = 4,
    /// Mapping users and giving up privileges.
    Identity = 5,
    /// Building the file system.
    Mount = 6,
    /// Bringing up the network.
    Network = 7,
    /// Resource limits.
    Limits = 8,
    /// The working directory.
    WorkDir = 9,
    /// Landlock rules.
    Landlock = 10,
    /// The system call filter.
    Seccomp = 11,
    /// Executing the program: `ENOENT` (not found) and `EACCES` (not executable) are the user's.
    Exec = 12,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 12] = [
        Self::Request,
        Self::Descriptors,
        Self::Clone,
        Self::Cgroup,
        Self::Identity,
        Self::Mount,
        Self::Network,
        Self::Limits,
        Self::WorkDir,
        Self::Landlock,
        Self::Seccomp,
        Self::Exec,
    ];

    /// The stage with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage as u8 == code)
    }

    /// What failed, as the beginning of a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Request => "invalid request",
            Self::Descriptors => "cannot create pipes",
            Self::Clone => "cannot create the process",
            Self::Cgroup => "cannot set its cgroup",
            Self::Identity => "cannot change its identity",
            Self::Mount => "cannot build its file system",
            Self::Network => "cannot set up its network",
            Self::Limits => "cannot set its limits",
            Self::WorkDir => "cannot enter its working directory",
            Self::Landlock => "cannot apply Landlock",
            Self::Seccomp => "cannot apply the system call filter",
            Self::Exec => "cannot execute the program",
        }
    }
}

/// What a process and its waited-for descendants used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode, microseconds.
    pub user_us: u64,
    /// CPU time in the kernel, microseconds; in the full sandbox this includes building the sandbox.
    pub system_us: u64,
    /// Wall time from request to end, microseconds.
    pub wall_us: u64,
    /// Largest resident set of one process, bytes.
    pub max_rss_bytes: u64,
    /// Peak memory of all processes together, where a cgroup measured it.
    pub cgroup_peak_bytes: Option<u64>,
}

/// How the spawner of one agent works.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Names what belongs to this node on this machine (`weft-<tag>`); letters, digits, `-` and `_`, at most 64.
    pub node_tag: String,
    /// Host directories shown read-only inside every full sandbox, where they exist.
    pub system_dirs: Vec<PathBuf>,
    /// Paths beneath the system directories that must not be seen inside (the agent's own data).
    pub hidden: Vec<PathBuf>,
    /// First host uid and gid for sandboxed tasks when the agent runs as root; task slot `n` gets `uid_base + n`.
    pub uid_base: u32,
    /// Processes that may run at once; further requests wait in the spawner.
    pub max_running: u32,
    /// Free space to keep on the file system of the work directories; below it tasks with a disk limit
    /// are killed (`Exit::disk_exceeded`).
    pub disk_reserve_bytes: u64,
    /// Directories deleted when the spawner ends because the agent died (not on an orderly shutdown).
    pub cleanup_dirs: Vec<PathBuf>,
}

/// First host uid of sandboxed tasks: above the ranges that distributions and systemd hand out
/// (systemd, "Users, Groups, UIDs and GIDs": 1879048192 to 2147483647 is unused).
pub const DEFAULT_UID_BASE: u32 = 1_879_048_192;

impl Options {
    /// Defaults for the node named `node_tag`.
    pub fn new(node_tag: impl Into<String>) -> Self {
        let system = [
            "/usr",
            "/bin",
            "/sbin",
            "/lib",
            "/lib32",
            "/lib64",
            "/etc",
            "/opt",
            "/nix/store",
        ];
        Self {
            node_tag: node_tag.into(),
            system_dirs: system.into_iter().map(PathBuf::from).collect(),
            hidden: Vec::new(),
            uid_base: DEFAULT_UID_BASE,
            max_running: 4_096,
            disk_reserve_bytes: 64 << 20,
            cleanup_dirs: Vec::new(),
        }
    }
}

//! The runtimes under test, and what each runs to show a behaviour.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tempfile::TempDir;
use weft_runtime::{Control, Input, Outcome, ProcessRuntime, Runtime, TaskRun, Work, WorkRoot};
use weft_sandbox::{Client, Options};
use weft_types::{JobId, Resources, SandboxMode};

/// Longest wait for anything.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Something a program can do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// Exits with this code.
    Exit(i32),
    /// Writes "out" to standard output and "err" to standard error.
    Print,
    /// Writes this many bytes to standard output.
    PrintMany(u32),
    /// Computes forever.
    Spin,
    /// Writes "up" to standard output and sleeps for a minute.
    Sleep,
    /// Counts the words of `{}`.
    CountFile,
    /// Counts the words of standard input.
    CountStdin,
    /// Writes its environment to standard output.
    Env,
    /// Writes "hi" to `$WEFT_OUT/hello.txt`.
    WriteOut,
    /// Uses more and more memory.
    EatMemory,
    /// Writes more and more to a file.
    FillDisk,
}

/// A runtime under test.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// What shows a behaviour.
    pub(crate) work: fn(Act) -> Work,
    /// Whether it limits memory.
    pub(crate) limits_memory: bool,
    pub(crate) root: WorkRoot,
    pub(crate) dir: TempDir,
}

/// All that this machine can run; what it cannot is told.
pub(crate) async fn all() -> Vec<Arc<Subject>> {
    let mut subjects = Vec::new();
    let tag = format!("conformance-{}", std::process::id());
    let client = Client::start(std::env::current_exe().unwrap(), Options::new(tag))
        .await
        .unwrap();
    subjects.push(process("process-none", &client, |act| {
        command(act, SandboxMode::None)
    }));
    if client.capabilities().full_sandbox() {
        subjects.push(process("process-full", &client, |act| {
            command(act, SandboxMode::Full)
        }));
    } else {
        println!(
            "skipped: process-full, for the sandbox is not available: {:?}",
            client.capabilities().missing
        );
    }
    #[cfg(feature = "wasm")]
    subjects.push(crate::wasm::subject());
    subjects.into_iter().map(Arc::new).collect()
}

fn process(name: &'static str, client: &Client, work: fn(Act) -> Work) -> Subject {
    let (dir, root) = directories();
    let runtime = Arc::new(ProcessRuntime::new(client.clone(), root.clone()));
    // Where no cgroup can be written, memory is limited by rlimit and its end cannot be told from another.
    let limits_memory = name == "process-full" && client.capabilities().cgroup.memory;
    Subject {
        name,
        runtime,
        work,
        limits_memory,
        root,
        dir,
    }
}

/// A directory for one subject, on a real disk, and the working directories in it.
pub(crate) fn directories() -> (TempDir, WorkRoot) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let root = WorkRoot::open(dir.path().join("work")).unwrap();
    (dir, root)
}

fn command(act: Act, sandbox: SandboxMode) -> Work {
    let script = match act {
        Act::CountFile => return process_work(&["wc", "-w", "{}"], sandbox),
        Act::CountStdin => return process_work(&["wc", "-w"], sandbox),
        Act::Env => return process_work(&["env"], sandbox),
        Act::EatMemory => return process_work(&["tail", "/dev/zero"], sandbox),
        Act::Exit(code) => format!("exit {code}"),
        Act::Print => "printf out; printf err >&2".to_owned(),
        Act::PrintMany(bytes) => format!("head -c {bytes} /dev/zero"),
        Act::Spin => "while :; do :; done".to_owned(),
        Act::Sleep => "printf up; sleep 60 & sleep 60".to_owned(),
        Act::WriteOut => {
            "printf hi > $WEFT_OUT/hello.txt; ln -s /etc/passwd $WEFT_OUT/link".to_owned()
        }
        Act::FillDisk => "cat /dev/zero > big".to_owned(),
    };
    process_work(&["sh", "-c", &script], sandbox)
}

/// A process.
pub(crate) fn process_work(command: &[&str], sandbox: SandboxMode) -> Work {
    Work::Process {
        command: command.iter().map(|&arg| arg.to_owned()).collect(),
        sandbox,
    }
}

impl Subject {
    /// A task that shows a behaviour.
    pub(crate) fn task(&self, act: Act) -> TaskRun {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        TaskRun {
            job: JobId(7),
            index: NEXT.fetch_add(1, Ordering::Relaxed),
            attempt: 2,
            work: (self.work)(act),
            env: [("COLOUR".to_owned(), "blue".to_owned())].into(),
            input: Input::None,
            timeout: Some(MAX_WAIT),
            resources: Resources::default(),
        }
    }

    /// Runs a task.
    pub(crate) async fn run(&self, task: TaskRun) -> Outcome {
        self.runtime.run(task, Control::new()).await
    }

    /// Waits until nothing is left in the working directories but themselves.
    pub(crate) async fn is_clean(&self) {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            let left = left_beneath(self.root.path());
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What is beneath a root of working directories, beside directories that wait for the next task.
fn left_beneath(root: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let unused = |path: &PathBuf| {
        let out = path.join(".out");
        entries(path) == [out.clone()] && entries(&out).is_empty()
    };
    entries(root)
        .into_iter()
        .filter(|path| !unused(path))
        .collect()
}

/// An input with a name.
pub(crate) fn named(name: &str, bytes: &'static [u8]) -> Input {
    Input::Bytes {
        bytes: Bytes::from_static(bytes),
        name: Some(name.to_owned()),
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Live processes that have this process's `marker` in their environment or command line.
pub(crate) fn processes_with(marker: &str) -> Vec<u32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mentions = |pid: u32, file: &str| {
        text(&std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default()).contains(marker)
    };
    pids.filter(|&pid| {
        pid != std::process::id() && (mentions(pid, "environ") || mentions(pid, "cmdline"))
    })
    .collect()
}

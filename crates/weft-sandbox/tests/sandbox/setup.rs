//! How tests are run, and how they start spawners and processes.

use libtest_mimic::{Arguments, Trial};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use weft_sandbox::{Client, Confinement, Finished, Options, Sandbox, Spec};

/// Longest wait for anything.
const MAX_WAIT: Duration = Duration::from_secs(20);
/// Longest time for a test.
const MAX_TEST: Duration = Duration::from_secs(180);

/// Names a test.
pub(crate) fn case<F: Future<Output = ()> + 'static>(name: &str, test: fn() -> F) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let limited = async { tokio::time::timeout(MAX_TEST, test()).await };
        Ok(runtime.block_on(limited)?)
    })
}

/// Runs those that the command line asks for, one after the other: some count what is there.
pub(crate) fn run(cases: Vec<Trial>) -> ExitCode {
    let mut wanted = Arguments::from_args();
    wanted.test_threads = Some(1);
    libtest_mimic::run(&wanted, cases).exit_code()
}

/// Whether the tests run as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// This binary, which is also the spawner.
pub(crate) fn exe() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A tag no other test uses.
pub(crate) fn tag() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A spawner with default options.
pub(crate) async fn client() -> Client {
    Client::start(exe(), Options::new(tag())).await.unwrap()
}

/// A shell script in the given sandbox.
pub(crate) fn shell(script: &str, cwd: &Path, sandbox: Sandbox) -> Spec {
    Spec::new(["sh", "-c", script], cwd, sandbox)
}

/// A work directory.
pub(crate) fn work_dir() -> tempfile::TempDir {
    let parent = std::env::var_os("TMPDIR").unwrap_or_else(|| "/var/tmp".into());
    tempfile::tempdir_in(parent).unwrap()
}

/// The full sandbox around a work directory.
pub(crate) fn full(work_dir: &Path) -> Sandbox {
    Sandbox::Full(Confinement::new(work_dir))
}

/// Runs a script in the full sandbox of a fresh spawner.
pub(crate) async fn confined(script: &str) -> Finished {
    let (client, work) = (client().await, work_dir());
    let finished = client
        .run(shell(script, work.path(), full(work.path())))
        .await
        .unwrap();
    client.shutdown().await.unwrap();
    finished
}

/// Standard output as text.
pub(crate) fn text(finished: &Finished) -> String {
    String::from_utf8_lossy(&finished.stdout).trim().to_owned()
}

/// Polls until `holds`, failing after a while.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + MAX_WAIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not reached: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes whose command line contains `needle`, except this one.
pub(crate) fn processes_with(needle: &str) -> Vec<i32> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pid.cast_unsigned() != std::process::id() && String::from_utf8_lossy(&line).contains(needle)
    })
    .collect()
}

/// Children of a process.
pub(crate) fn children_of(pid: u32) -> usize {
    let text =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().count()
}

/// Directories of the node `tag` in all control group hierarchies.
pub(crate) fn groups_of(tag: &str) -> Vec<PathBuf> {
    fn search(directory: &Path, name: &str, depth: u32, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name() == name {
                    found.push(entry.path());
                } else if depth > 0 {
                    search(&entry.path(), name, depth - 1, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    search(
        Path::new("/sys/fs/cgroup"),
        &format!("weft-{tag}"),
        4,
        &mut found,
    );
    found
}

/// A number unlikely to be in any other command line, as a time to sleep.
pub(crate) fn unique_seconds() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{}.{:06}",
        5_000 + NEXT.fetch_add(1, Ordering::Relaxed),
        std::process::id()
    )
}

//! A server whose disk is full: it says so, loses nothing, and goes on once there is room.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use weft_client::{Client, Endpoint, Error, ResultOrder};
use weft_e2e::{Cluster, UpOptions, can_make_namespaces, eventually};
use weft_types::{Reason, Workload};

/// Tasks of a job, and bytes of each input.
const TASKS: usize = 4;
const INPUT_BYTES: usize = 256 << 10;
/// More jobs than the small disk has room for.
const MAX_JOBS: usize = 100;

/// A file system in memory, unmounted with the test.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(dir: &Path, size: &str) -> Self {
        let options = format!("size={size}");
        mount(&["-t", "tmpfs", "-o", &options, "tmpfs"], dir);
        Self(dir.to_path_buf())
    }

    fn grow(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}")], &self.0);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn mount(args: &[&str], dir: &Path) {
    let status = Command::new("mount").args(args).arg(dir).status();
    assert!(status.expect("mount runs").success());
}

fn job() -> Workload {
    let data = "AAAA".repeat(INPUT_BYTES / 3);
    let tasks = vec![serde_json::json!({ "data": data }); TASKS];
    let job =
        serde_json::json!({ "runtime": "op", "op": {"op": "counteq", "imm": 0}, "tasks": tasks });
    serde_json::from_value(job).expect("a workload")
}

#[test]
fn a_full_disk_refuses_work_loses_none_and_needs_no_restart() {
    if !can_make_namespaces() {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::new(dir.path(), "100m");
    let mut cluster = Cluster::with(UpOptions {
        data_dir: Some(dir.path().join("server")),
        ..UpOptions::default()
    });
    let _agent = cluster.agent("n1", None, &[]);
    let endpoint = Endpoint::from_admin_file(&cluster.admin_file()).expect("admin.json");
    let client = Client::new(&endpoint).expect("a client");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut acknowledged = Vec::new();
    let refusal = (0..MAX_JOBS).find_map(|_| match runtime.block_on(client.submit(&job(), None)) {
        Ok(view) => {
            acknowledged.push(view.id.to_string());
            None
        }
        Err(error) => Some(error),
    });
    let Some(Error::Refused(problem)) = refusal else {
        panic!(
            "the disk is full after {} jobs: {refusal:?}",
            acknowledged.len()
        );
    };
    assert_eq!(problem.reason, Reason::StorageError, "{problem:?}");
    assert!(
        acknowledged.len() > 10,
        "{} jobs fitted",
        acknowledged.len()
    );

    disk.grow("300m");
    eventually("jobs are taken again", Duration::from_secs(60), || {
        match runtime.block_on(client.submit(&job(), None)) {
            Ok(view) => acknowledged.push(view.id.to_string()),
            Err(_) => return false,
        }
        true
    });
    all_there(&runtime, &client, &acknowledged);
    cluster.kill_server();
    cluster.start();
    all_there(&runtime, &client, &acknowledged);
}

/// Each job is done, each result is there once.
fn all_there(runtime: &tokio::runtime::Runtime, client: &Client, jobs: &[String]) {
    for id in jobs {
        let results = runtime.block_on(async {
            let wait = Duration::from_secs(60);
            let mut lines = client.results(id, ResultOrder::Task, wait).await?;
            let mut tasks = Vec::new();
            while let Some(view) = lines.next().await? {
                assert!(view.result.is_some(), "{id}: {view:?}");
                tasks.push(view.task as usize);
            }
            Ok::<_, Error>(tasks)
        });
        let tasks = results.unwrap_or_else(|error| panic!("{id}: {error}"));
        assert!(tasks.iter().copied().eq(0..TASKS), "{id}: {tasks:?}");
    }
}

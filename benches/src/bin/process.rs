//! Processes a second beside `xargs -P2`: `./x bench process`.

use std::process::{Command, Stdio};
use std::time::Instant;

use weft_benches::{Table, median};
use weft_e2e::Cluster;

const TASKS: u32 = 10_000;
/// Runs of each figure; they take turns, so that a slow moment of the machine touches all.
const RUNS: usize = 5;

fn main() {
    let cluster = Cluster::up(1);
    let (mut none, mut full, mut xargs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        none.push(weft(&cluster, "none"));
        full.push(weft(&cluster, "full"));
        xargs.push(with_xargs());
    }
    let (none, full, xargs) = (median(none), median(full), median(xargs));
    let mut table = Table::new("process");
    table.row(
        format!("weft run --array {TASKS} --sandbox none -- true"),
        none,
        "tasks/s",
    );
    table.row(
        format!("weft run --array {TASKS} -- true (full sandbox)"),
        full,
        "tasks/s",
    );
    table.row(
        format!("seq {TASKS} | xargs -P2 -n1 true"),
        xargs,
        "tasks/s",
    );
    table.row("sandbox none beside xargs", none / xargs, "times");
    table.finish();
}

fn weft(cluster: &Cluster, sandbox: &str) -> f64 {
    let count = TASKS.to_string();
    let started = Instant::now();
    let run = [
        "run",
        "-q",
        "--array",
        &count,
        "--cpu",
        "50m",
        "--memory",
        "16Mi",
        "--disk",
        "1Mi",
        "--sandbox",
        sandbox,
        "--",
        "true",
    ];
    let _ = cluster
        .weft(run)
        .timeout(std::time::Duration::from_secs(300))
        .run()
        .expect_code(0);
    f64::from(TASKS) / started.elapsed().as_secs_f64()
}

fn with_xargs() -> f64 {
    let started = Instant::now();
    let script = format!("seq {TASKS} | xargs -P2 -n1 true");
    let status = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .status()
        .expect("sh runs");
    assert!(status.success());
    f64::from(TASKS) / started.elapsed().as_secs_f64()
}

//! A million queued tasks: memory, and the time until a killed server is back with them:
//! `./x bench recovery`.
//!
//! No node is connected, so every task waits. A restart counts from the start of the process until
//! `/readyz` says ok and the job has all its tasks again.

use std::io::Write;
use std::time::{Duration, Instant};

use weft_benches::process::resident_mib;
use weft_benches::{Table, median};
use weft_e2e::{Cluster, eventually};

const TASKS: u64 = 1_000_000;
/// Kills of each server.
const RUNS: usize = 5;
/// How long a server may take to be back.
const BACK: Duration = Duration::from_secs(60);

fn main() {
    let mut table = Table::new("recovery");
    measure(&mut table, "one job, tasks alike", submit_array);
    measure(
        &mut table,
        "one job, each task its own input",
        submit_inputs,
    );
    table.finish();
}

fn measure(table: &mut Table, what: &str, submit: impl FnOnce(&Cluster) -> String) {
    let mut cluster = Cluster::up(0);
    let empty = resident_mib(cluster.server_pid());
    let started = Instant::now();
    let id = submit(&cluster);
    let took = started.elapsed();
    assert!(is_whole(&cluster, &id), "{id} has not all its tasks");
    let what = format!("{TASKS} queued, {what}");
    table.row(format!("{what}: submission"), took.as_secs_f64(), "s");
    table.row(format!("{what}: server before"), empty, "MiB RSS");
    let full = resident_mib(cluster.server_pid());
    table.row(format!("{what}: server"), full, "MiB RSS");
    let (mut back_s, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        cluster.kill_server();
        let started = Instant::now();
        cluster.start();
        eventually("the job is back", BACK, || {
            is_ready(&cluster) && is_whole(&cluster, &id)
        });
        back_s.push(started.elapsed().as_secs_f64());
        resident.push(resident_mib(cluster.server_pid()));
    }
    let row = format!("{what}: kill -9 until ready and whole, median of {RUNS}");
    table.row(row, median(back_s), "s");
    let row = format!("{what}: server after a restart");
    table.row(row, median(resident), "MiB RSS");
}

fn is_ready(cluster: &Cluster) -> bool {
    let args = ["-o", "/dev/null", "-w", "%{http_code}"];
    cluster.curl(&args, "/readyz").stdout == b"200"
}

fn is_whole(cluster: &Cluster, id: &str) -> bool {
    let answer = cluster.curl(&[], &format!("/v1/jobs/{id}"));
    let job: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
    job["tasks"]["total"] == TASKS && job["tasks"]["queued"] == TASKS
}

fn submit_array(cluster: &Cluster) -> String {
    let body = format!(r#"{{"runtime":"op","op":{{"op":"crc32c"}},"inputs":{{"array":{TASKS}}}}}"#);
    let args = ["-H", "content-type: application/json", "-d", &body];
    submitted(&cluster.curl(&args, "/v1/jobs"))
}

/// As NDJSON: the job, then a task a line.
fn submit_inputs(cluster: &Cluster) -> String {
    let path = cluster.dir.path().join("tasks.ndjson");
    let file = std::fs::File::create(&path).expect("a file");
    let mut lines = std::io::BufWriter::new(file);
    let job = r#"{"runtime":"op","op":{"op":"crc32c"}}"#;
    writeln!(lines, "{job}").expect("room on the disk");
    for number in 0..TASKS {
        // Twelve digits of base64: nine bytes.
        writeln!(lines, r#"{{"data":"{number:012}"}}"#).expect("room on the disk");
    }
    lines.flush().expect("room on the disk");
    // Streamed from the file.
    let post = ["-X", "POST", "-H", "content-type: application/x-ndjson"];
    let file = path.display().to_string();
    let args = [&post[..], &["-T", &file]].concat();
    submitted(&cluster.curl(&args, "/v1/jobs"))
}

fn submitted(answer: &std::process::Output) -> String {
    let job: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("a job");
    let id = job["id"].as_str();
    id.unwrap_or_else(|| panic!("{job}")).to_owned()
}

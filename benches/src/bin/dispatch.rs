//! Tasks a second end to end, and the round trip of one: `./x bench dispatch`.
//!
//! Server, agents and client share the machine; every acknowledged job and every recorded result
//! is on disk; TLS is on.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use weft_benches::batch::tasks_per_s;
use weft_benches::submit::{Protocol, submit_singly};
use weft_benches::{Table, median, percentile};
use weft_e2e::Cluster;

/// Runs of each figure.
const RUNS: usize = 5;
/// Round trips that are measured.
const ROUND_TRIPS: u32 = 2_000;

fn main() {
    let mut table = Table::new("dispatch");
    let cluster = Cluster::up(1);
    for tasks in [1_000u64, 10_000, 100_000, 1_000_000] {
        let runs = if tasks > 100_000 { 3 } else { RUNS };
        let rates: Vec<f64> = (0..runs).map(|_| tasks_per_s(&cluster, tasks)).collect();
        table.row(
            format!("no-op tasks end to end, {tasks} in one job, median of {runs}"),
            median(rates),
            "tasks/s",
        );
    }
    let figures = [
        (
            "round trip of one task, API to result",
            round_trips(&cluster),
        ),
        ("append and fdatasync of 256 bytes", syncs(&cluster)),
    ];
    for (what, times) in figures {
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let value = percentile(times.clone(), share);
            table.row(format!("{what}, {name}"), value, "ms");
        }
    }
    table.finish();
}

/// Milliseconds of single jobs, one after the other on one connection.
fn round_trips(cluster: &Cluster) -> Vec<f64> {
    submit_singly(&cluster.admin_file(), Protocol::Http2, ROUND_TRIPS, 1).round_trips_ms
}

/// Milliseconds that the disk takes to keep a small append: each round trip waits for two of them,
/// of the job and of its result.
fn syncs(cluster: &Cluster) -> Vec<f64> {
    let path = cluster.dir.path().join("appended");
    let mut file = File::create(path).expect("a file");
    let append = |_| {
        let started = Instant::now();
        file.write_all(&[7; 256]).expect("room on the disk");
        file.sync_data().expect("room on the disk");
        started.elapsed().as_secs_f64() * 1e3
    };
    (0..ROUND_TRIPS).map(append).collect()
}

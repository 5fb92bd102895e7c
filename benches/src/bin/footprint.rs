//! Memory, CPU and start time of an idle node: `./x bench footprint`.

use std::time::{Duration, Instant};

use weft_benches::{Table, median};
use weft_e2e::Cluster;

const RUNS: usize = 5;
/// How long an idle agent is watched.
const WATCHED: Duration = Duration::from_secs(10);

fn main() {
    let mut table = Table::new("footprint");
    let ready = (0..RUNS).map(|_| {
        let started = Instant::now();
        let cluster = Cluster::up(0);
        let elapsed = started.elapsed();
        drop(cluster);
        elapsed.as_secs_f64() * 1_000.0
    });
    table.row(
        "weft up until it answers, median of 5",
        median(ready.collect()),
        "ms",
    );
    let cluster = Cluster::up(0);
    let agent = cluster.agent("n1", None, &[]);
    table.row(
        "server, resident memory",
        resident_mib(cluster.server_pid()),
        "MiB",
    );
    table.row(
        "idle agent, resident memory",
        resident_mib(agent.pid()),
        "MiB",
    );
    let before = cpu_ticks(agent.pid());
    std::thread::sleep(WATCHED);
    let used_s = (cpu_ticks(agent.pid()) - before) as f64 / 100.0;
    table.row(
        "idle agent, share of one core",
        used_s / WATCHED.as_secs_f64() * 100.0,
        "%",
    );
    let binary = std::env::var_os("WEFT_BIN").expect("WEFT_BIN names the binary");
    let size = std::fs::metadata(binary)
        .expect("the binary is there")
        .len();
    table.row("release binary", size as f64 / 1e6, "MB");
    table.finish();
}

fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

/// User and system time in ticks, of which Linux tells a hundred a second.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let field = |at: usize| {
        fields
            .get(at)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    field(11) + field(12)
}

//! Memory, CPU and start time of an idle node: `./x bench footprint`.

use std::time::{Duration, Instant};

use weft_benches::process::{cpu, resident_mib};
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
    let before = cpu(agent.pid());
    std::thread::sleep(WATCHED);
    let used = cpu(agent.pid()) - before;
    table.row(
        "idle agent, share of one core",
        used.as_secs_f64() / WATCHED.as_secs_f64() * 100.0,
        "%",
    );
    let binary = std::env::var_os("WEFT_BIN").expect("WEFT_BIN names the binary");
    let size = std::fs::metadata(binary)
        .expect("the binary is there")
        .len();
    table.row("release binary", size as f64 / 1e6, "MB");
    table.finish();
}

//! Processes a second beside `xargs -P2` and HyperQueue: `./x bench process`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use weft_benches::peers::{python_with, run_script};
use weft_benches::process::machine_cpu;
use weft_benches::{Table, median};
use weft_e2e::Cluster;

const TASKS: u32 = 10_000;
/// Fewer where each takes long.
const SANDBOXED_TASKS: u32 = 2_000;
/// Runs of each figure; they take turns, so that a slow moment of the machine touches all.
const RUNS: usize = 5;
/// Pinned, so that figures of different days compare.
const HYPERQUEUE: &str = "hyperqueue==0.27.0";

fn main() {
    let hyperqueue = python_with(HYPERQUEUE);
    let cluster = Cluster::up(1);
    let mut none = Figures::default();
    let mut full = Figures::default();
    let mut xargs = Figures::default();
    let mut peer = Figures::default();
    for _ in 0..RUNS {
        none.measure(TASKS, || weft(&cluster, TASKS, "none"));
        full.measure(SANDBOXED_TASKS, || weft(&cluster, SANDBOXED_TASKS, "full"));
        xargs.measure(TASKS, || with_xargs(TASKS));
        if let Some(python) = &hyperqueue {
            peer.measure(TASKS, || with_hyperqueue(python, TASKS));
        }
    }
    report(&none, &full, &xargs, &peer);
}

fn report(none: &Figures, full: &Figures, xargs: &Figures, peer: &Figures) {
    let mut table = Table::new("process");
    let rates = [
        (
            format!("weft run --array {TASKS} --sandbox none -- true"),
            none,
        ),
        (
            format!("weft run --array {SANDBOXED_TASKS} -- true (full sandbox)"),
            full,
        ),
        (format!("seq {TASKS} | xargs -P2 -n1 true"), xargs),
        (format!("{HYPERQUEUE}, {TASKS} times true"), peer),
    ];
    for (what, figures) in rates {
        if figures.rates.is_empty() {
            table.skipped(&what, "python3 with venv and a package index");
            continue;
        }
        table.row(what.clone(), figures.rate(), "tasks/s");
        table.row(format!("{what}: CPU"), figures.cpu_ms(), "ms/task");
    }
    table.row(
        "sandbox none beside xargs",
        none.rate() / xargs.rate(),
        "times",
    );
    if !peer.rates.is_empty() {
        table.row(
            "sandbox none beside HyperQueue",
            none.rate() / peer.rate(),
            "times",
        );
    }
    table.row(
        "CPU that the full sandbox adds",
        full.cpu_ms() - none.cpu_ms(),
        "ms/task",
    );
    table.finish();
}

/// What the runs of one contestant took.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    cpu_ms: Vec<f64>,
}

impl Figures {
    fn measure(&mut self, tasks: u32, run: impl FnOnce() -> Duration) {
        let cpu = machine_cpu();
        let took = run();
        self.rates.push(f64::from(tasks) / took.as_secs_f64());
        let cpu = machine_cpu() - cpu;
        self.cpu_ms.push(cpu.as_secs_f64() * 1e3 / f64::from(tasks));
    }

    fn rate(&self) -> f64 {
        median(self.rates.clone())
    }

    fn cpu_ms(&self) -> f64 {
        median(self.cpu_ms.clone())
    }
}

fn weft(cluster: &Cluster, tasks: u32, sandbox: &str) -> Duration {
    let count = tasks.to_string();
    let started = Instant::now();
    // Room for eight at once, each with a share of the processor that a start does not use up.
    let resources = ["--cpu", "200m", "--memory", "16Mi", "--disk", "1Mi"];
    let run = ["run", "-q", "--array", &count, "--sandbox", sandbox];
    let _ = cluster
        .weft(run.into_iter().chain(resources).chain(["--", "true"]))
        .timeout(Duration::from_secs(300))
        .run()
        .expect_code(0);
    started.elapsed()
}

fn with_xargs(tasks: u32) -> Duration {
    let started = Instant::now();
    let script = format!("seq {tasks} | xargs -P2 -n1 true");
    let status = Command::new("sh")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .status()
        .expect("sh runs");
    assert!(status.success());
    started.elapsed()
}

fn with_hyperqueue(python: &Path, tasks: u32) -> Duration {
    let mut python = Command::new(python);
    run_script(&mut python, "run_hyperqueue.py", &[tasks.to_string()])
}

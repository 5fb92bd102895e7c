//! Single durable submissions beside BullMQ and Celery, and tasks of one job beside Dask:
//! `./x bench dispatch-peers`.
//!
//! Everything shares the machine: server with its agent, client, Redis and the peers' workers. TLS is
//! on, and an acknowledged write is on disk everywhere but with Dask, which keeps nothing.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use weft_benches::batch::tasks_per_s;
use weft_benches::peers::{Redis, node_with, python_with, run_script};
use weft_benches::process::{cpu, machine_cpu};
use weft_benches::submit::{Protocol, Submitted, submit_singly};
use weft_benches::{Table, median, percentile};
use weft_e2e::Cluster;

/// Runs of each figure; contestants take turns, so that a slow moment of the machine touches all.
const RUNS: usize = 5;
const IN_FLIGHT: u32 = 64;
const JOBS: u32 = 20_000;
/// Fewer where each takes long.
const CELERY_TASKS: u32 = 2_000;
const BATCH_TASKS: u32 = 10_000;
/// How many results of a run are compared with what they must be.
const CHECKED_RESULTS: usize = 50;

/// Pinned, so that figures of different days compare.
const BULLMQ: &str = "bullmq@6.7.0 ioredis@5.11.1";
const CELERY: &str = "celery[redis]==5.7.0 redis==8.1.0";
const DASK: &str = "distributed==2026.8.0";

fn main() {
    let mut table = Table::new("dispatch-peers");
    singly(&mut table);
    in_one_job(&mut table);
    table.finish();
}

fn singly(table: &mut Table) {
    let bullmq = node_with(BULLMQ);
    let celery = python_with(CELERY);
    let cluster = Cluster::up(1);
    let (mut http2, mut http1) = (Figures::default(), Figures::default());
    let (mut node, mut python) = (Figures::default(), Figures::default());
    for _ in 0..RUNS {
        http2.weft(&cluster, Protocol::Http2);
        http1.weft(&cluster, Protocol::Http1);
        if let (Some(directory), Some(redis)) = (&bullmq, Redis::start()) {
            node.peer(JOBS, || with_bullmq(directory, &redis));
        }
        if let (Some(interpreter), Some(redis)) = (&celery, Redis::start()) {
            python.peer(CELERY_TASKS, || with_celery(interpreter, &redis));
        }
    }
    http2.report_weft(table, "weft, a request a job over HTTP/2");
    http1.report_weft(table, "weft, a request a job over HTTP/1.1");
    node.report_peer(table, "BullMQ", BULLMQ, "node, npm and redis-server");
    python.report_peer(
        table,
        "Celery",
        CELERY,
        "python3 with venv and redis-server",
    );
    let best = http2.rate().max(http1.rate());
    for (what, peer) in [("BullMQ", node), ("Celery", python)] {
        if !peer.rates.is_empty() {
            table.row(format!("weft beside {what}"), best / peer.rate(), "times");
        }
    }
}

fn in_one_job(table: &mut Table) {
    let dask = python_with(DASK);
    let cluster = Cluster::up(1);
    let (mut weft, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        weft.push(tasks_per_s(&cluster, BATCH_TASKS.into()));
        if let Some(interpreter) = &dask {
            let took = with_dask(interpreter);
            peer.push(f64::from(BATCH_TASKS) / took.as_secs_f64());
        }
    }
    let what = format!("weft, {BATCH_TASKS} no-op tasks in one job");
    table.row(what, median(weft.clone()), "tasks/s");
    let what = format!("Dask, gather(map) of {BATCH_TASKS} no-ops");
    if peer.is_empty() {
        return table.skipped(&what, "python3 with venv and a package index");
    }
    table.row(format!("{what} ({DASK})"), median(peer.clone()), "tasks/s");
    table.row("weft beside Dask", median(weft) / median(peer), "times");
}

/// What the runs of one contestant took.
#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    /// Microseconds of CPU a job: of the client, of the server and its agent, of all processes.
    client_us: Vec<f64>,
    server_us: Vec<f64>,
    machine_us: Vec<f64>,
    /// Milliseconds from a request to its answer, of all runs.
    round_trips_ms: Vec<f64>,
}

impl Figures {
    fn weft(&mut self, cluster: &Cluster, protocol: Protocol) {
        let (machine, server) = (machine_cpu(), cpu(cluster.server_pid()));
        let submitted = submit_singly(&cluster.admin_file(), protocol, JOBS, IN_FLIGHT);
        let server = cpu(cluster.server_pid()).saturating_sub(server);
        self.ran(JOBS, submitted.took, machine_cpu() - machine);
        self.client_us.push(us_each(submitted.client_cpu, JOBS));
        self.server_us.push(us_each(server, JOBS));
        check(cluster, &submitted);
        self.round_trips_ms.extend(submitted.round_trips_ms);
    }

    fn peer(&mut self, jobs: u32, run: impl FnOnce() -> Duration) {
        let machine = machine_cpu();
        let took = run();
        self.ran(jobs, took, machine_cpu() - machine);
    }

    fn ran(&mut self, jobs: u32, took: Duration, machine: Duration) {
        self.rates.push(f64::from(jobs) / took.as_secs_f64());
        self.machine_us.push(us_each(machine, jobs));
    }

    fn rate(&self) -> f64 {
        median(self.rates.clone())
    }

    fn report_weft(&self, table: &mut Table, what: &str) {
        table.row(what, self.rate(), "jobs/s");
        let (client, server) = (self.client_us.clone(), self.server_us.clone());
        table.row(
            format!("{what}: CPU of the client"),
            median(client),
            "us/job",
        );
        table.row(
            format!("{what}: CPU of the server"),
            median(server),
            "us/job",
        );
        let machine = median(self.machine_us.clone());
        table.row(format!("{what}: CPU of the machine"), machine, "us/job");
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let value = percentile(self.round_trips_ms.clone(), share);
            table.row(format!("{what}: {name}"), value, "ms");
        }
    }

    fn report_peer(&self, table: &mut Table, what: &str, version: &str, needs: &str) {
        if self.rates.is_empty() {
            return table.skipped(what, needs);
        }
        table.row(format!("{what} ({version})"), self.rate(), "jobs/s");
        let machine = median(self.machine_us.clone());
        table.row(format!("{what}: CPU of the machine"), machine, "us/job");
    }
}

fn us_each(cpu: Duration, jobs: u32) -> f64 {
    cpu.as_secs_f64() * 1e6 / f64::from(jobs)
}

/// The results are there, and are those of the inputs.
fn check(cluster: &Cluster, submitted: &Submitted) {
    let step = submitted.ids.len() / CHECKED_RESULTS;
    for (number, id) in submitted.ids.iter().step_by(step.max(1)) {
        let answer = cluster.curl(&[], &format!("/v1/jobs/{id}/results"));
        let line: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("a result");
        let expected = crc32c::crc32c(&number.to_le_bytes());
        assert_eq!(line["result"]["checksum"], expected, "{id}: {line}");
    }
}

fn with_bullmq(directory: &Path, redis: &Redis) -> Duration {
    let mut node = Command::new("node");
    let args = [redis.port.into(), JOBS, IN_FLIGHT];
    run_script(
        node.current_dir(directory),
        "run_bullmq.js",
        &args.map(|number: u32| number.to_string()),
    )
}

fn with_celery(interpreter: &Path, redis: &Redis) -> Duration {
    let args = [redis.port.into(), CELERY_TASKS, IN_FLIGHT];
    run_script(
        &mut Command::new(interpreter),
        "run_celery.py",
        &args.map(|number: u32| number.to_string()),
    )
}

fn with_dask(interpreter: &Path) -> Duration {
    let args = [BATCH_TASKS.to_string()];
    run_script(&mut Command::new(interpreter), "run_dask.py", &args)
}

//! Killed agents, and leases under full load: `./x bench failover [--minutes N]`.
//!
//! The machine is kept busy by no-op tasks all the time. Of each killed agent, the time until its
//! tasks run elsewhere is told by the tasks themselves: each writes down when it starts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weft_benches::batch::tasks_per_s;
use weft_benches::process::machine_cpu;
use weft_benches::{Table, percentile};
use weft_e2e::{AgentProcess, Cluster, UpOptions, eventually, eventually_some};

const LEASE_TTL: Duration = Duration::from_secs(3);
/// What may pass beyond the lease until a task runs elsewhere.
const ALLOWED_BEYOND_TTL: Duration = Duration::from_millis(500);
/// Agents that are killed, one after the other.
const KILLS: usize = 5;
/// Tasks that are spread over the agents.
const TASKS: usize = 24;
const AGENTS: usize = 3;
/// Tasks of each job of the load.
const LOAD_TASKS: u64 = 50_000;
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the lease must hold under full load, in minutes, unless told otherwise.
const DEFAULT_MINUTES: f64 = 0.5;

fn main() {
    let minutes = minutes();
    let mut table = Table::new("failover");
    let cluster = Cluster::with(UpOptions {
        args: vec![
            "--lease-ttl".to_owned(),
            format!("{}s", LEASE_TTL.as_secs()),
        ],
        ..UpOptions::default()
    });
    let mut agents: Vec<AgentProcess> = (0..AGENTS)
        .map(|number| cluster.agent(&id_of(number), None, &[]))
        .collect();
    let moved_ms: Vec<f64> = under_load(&cluster, || {
        (0..KILLS)
            .flat_map(|round| kill_one(&cluster, &mut agents, round % AGENTS))
            .collect()
    });
    report_moves(&mut table, moved_ms);
    hold(&mut table, &cluster, minutes);
    table.finish();
}

fn minutes() -> f64 {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => DEFAULT_MINUTES,
        (Some("--minutes"), Some(number)) => number.parse().expect("--minutes takes a number"),
        (Some(other), _) => panic!("{other}: the only argument is --minutes NUMBER"),
    }
}

fn id_of(agent: usize) -> String {
    format!("n{agent}")
}

/// Runs something while jobs of no-op tasks follow each other.
fn under_load<T>(cluster: &Cluster, run: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                tasks_per_s(cluster, LOAD_TASKS);
            }
        });
        let result = run();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}

fn report_moves(table: &mut Table, moved_ms: Vec<f64>) {
    let allowed_ms = (LEASE_TTL + ALLOWED_BEYOND_TTL).as_secs_f64() * 1e3;
    let late = moved_ms.iter().filter(|ms| **ms > allowed_ms).count();
    table.row(
        "tasks of killed agents that were watched",
        moved_ms.len() as f64,
        "",
    );
    let what = "kill -9 of an agent until its task runs elsewhere";
    table.row(
        format!("{what}, p50"),
        percentile(moved_ms.clone(), 0.5),
        "ms",
    );
    table.row(format!("{what}, max"), percentile(moved_ms, 1.0), "ms");
    table.row("lease and what is allowed beyond it", allowed_ms, "ms");
    table.row("tasks that took longer than that", late as f64, "");
}

/// Kills an agent that has tasks; milliseconds until each of them runs elsewhere. The agent is back
/// afterwards.
fn kill_one(cluster: &Cluster, agents: &mut [AgentProcess], first: usize) -> Vec<f64> {
    cluster.wait_for_healthy(agents.len());
    let starts = tempfile::tempdir().expect("a temporary directory");
    let job = submit_watched(cluster, starts.path());
    eventually("every task runs", PATIENCE, || {
        (0..TASKS).all(|task| starts_of(starts.path(), task).len() == 1)
    });
    let nodes = nodes_of(cluster, &job);
    // Under load all may have found their room on one of them.
    let has_tasks = |agent: &usize| nodes.values().any(|node| *node == id_of(*agent));
    let candidates = (first..agents.len()).chain(0..first);
    let victim = candidates.into_iter().find(has_tasks);
    let victim = victim.unwrap_or_else(|| panic!("no task runs on an agent: {nodes:?}"));
    let victims = nodes.iter().filter(|(_, node)| **node == id_of(victim));
    let victims: Vec<usize> = victims.map(|(task, _)| *task).collect();
    let killed = SystemTime::now();
    agents[victim].kill();
    let moved = victims.into_iter().map(|task| {
        let again = eventually_some("the task runs elsewhere", PATIENCE, || {
            starts_of(starts.path(), task).get(1).copied()
        });
        let again = UNIX_EPOCH + Duration::from_nanos(again);
        again
            .duration_since(killed)
            .unwrap_or_default()
            .as_secs_f64()
            * 1e3
    });
    let moved = moved.collect();
    let _ = cluster.weft(["job", "cancel", &job]).run().expect_code(0);
    agents[victim] = AgentProcess::start(cluster, &id_of(victim), None, None, &[]);
    cluster.wait_for_healthy(AGENTS);
    moved
}

/// Tasks that write down when they start and then do nothing, before all others.
fn submit_watched(cluster: &Cluster, starts: &Path) -> String {
    let script = format!(
        "date +%s%N >>{}/{{index}}; exec sleep 300",
        starts.display()
    );
    let count = TASKS.to_string();
    let run = ["run", "-d", "-q", "--array", &count, "--priority", "100"];
    let placed = ["--strategy", "spread", "--sandbox", "none"];
    let resources = ["--cpu", "50m", "--memory", "16Mi", "--disk", "1Mi"];
    let command = ["--", "sh", "-c", &script];
    let args = [&run[..], &placed, &resources, &command].concat();
    let done = cluster.weft(args).run().expect_code(0);
    done.stdout.trim().to_owned()
}

/// When a task started, each time, in nanoseconds since 1970.
fn starts_of(directory: &Path, task: usize) -> Vec<u64> {
    let text = std::fs::read_to_string(directory.join(task.to_string())).unwrap_or_default();
    // A line that is not whole yet is read the next time.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.parse().ok()).collect()
}

fn nodes_of(cluster: &Cluster, job: &str) -> BTreeMap<usize, String> {
    let done = cluster.weft(["job", "tasks", job, "-o", "json"]).run();
    let tasks = done.expect_code(0).json();
    let tasks = tasks.as_array().into_iter().flatten();
    tasks
        .filter_map(|task| {
            let number = usize::try_from(task["task"].as_u64()?).ok()?;
            Some((number, task["node"].as_str()?.to_owned()))
        })
        .collect()
}

/// Whether leases hold while processes spin on every core and no-op tasks follow each other.
fn hold(table: &mut Table, cluster: &Cluster, minutes: f64) {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let events = Followed::start(cluster);
    let spin = ["--", "sh", "-c", "while :; do :; done"];
    let count = cores.to_string();
    let run = ["run", "-d", "-q", "--cpu", "100m", "--array", &count];
    let args = [&run[..], &spin].concat();
    let spinning = cluster.weft(args).run().expect_code(0);
    let busy = machine_cpu();
    let started = Instant::now();
    under_load(cluster, || {
        std::thread::sleep(Duration::from_secs_f64(minutes * 60.0));
    });
    let took = started.elapsed();
    let share = (machine_cpu() - busy).as_secs_f64() / took.as_secs_f64() / cores as f64;
    let job = spinning.stdout.trim();
    let _ = cluster.weft(["job", "cancel", job]).run().expect_code(0);
    let kinds = events.finish(cluster);
    table.row("full load", took.as_secs_f64() / 60.0, "min");
    table.row(
        "full load: share of all cores that was used",
        share * 100.0,
        "%",
    );
    for state in ["suspect", "offline"] {
        let kind = format!("weft.node.{state}");
        let count = kinds.iter().filter(|seen| **seen == kind).count();
        let row = format!("full load: nodes that were taken for {state}");
        table.row(row, count as f64, "times");
    }
}

/// The events of a span of time, followed as they happen: the server keeps the newest only.
struct Followed {
    follower: Child,
    seen: Arc<Mutex<Vec<(u64, String)>>>,
    reader: JoinHandle<()>,
}

impl Followed {
    fn start(cluster: &Cluster) -> Self {
        let since = newest_event(cluster).to_string();
        let follow = ["events", "-f", "-o", "json", "--since", &since];
        let mut follower = cluster.weft(follow).spawn();
        let stdout = follower.stdout.take().expect("its output is a pipe");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reader = std::thread::spawn({
            let seen = Arc::clone(&seen);
            move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let event = serde_json::from_str(&line).expect("an event");
                    seen.lock()
                        .expect("no panic before")
                        .push(seq_and_kind(&event));
                }
            }
        });
        Self {
            follower,
            seen,
            reader,
        }
    }

    /// The kinds of all events until now.
    fn finish(mut self, cluster: &Cluster) -> Vec<String> {
        let newest = newest_event(cluster);
        let seen = || self.seen.lock().expect("no panic before");
        eventually("every event was seen", PATIENCE, || {
            seen().last().map_or(0, |(seq, _)| *seq) >= newest
        });
        let kinds = seen().iter().map(|(_, kind)| kind.clone()).collect();
        let _ = self.follower.kill();
        let _ = self.follower.wait();
        self.reader
            .join()
            .expect("the reader ends with its follower");
        kinds
    }
}

fn newest_event(cluster: &Cluster) -> u64 {
    let events = cluster.weft(["events", "-o", "json"]).run();
    let events = events.expect_code(0).ndjson();
    events.last().map_or(0, |event| seq_and_kind(event).0)
}

fn seq_and_kind(event: &serde_json::Value) -> (u64, String) {
    let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
    (event["seq"].as_u64().unwrap_or(0), text("type"))
}

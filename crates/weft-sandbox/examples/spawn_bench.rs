//! How fast processes start, and what that costs: `cargo run --release -p weft-sandbox --example spawn_bench`.
//!
//! Each line is one JSON object. CPU is that of the whole machine, so run it on an idle one; beside it
//! `seq 10000 | xargs -P2 -n1 true` as the peer.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use weft_sandbox::{Capture, Client, Confinement, Limits, Options, Sandbox, Spec};

const TASKS: u32 = 10_000;
/// Running at once.
const CONCURRENCY: u32 = 4;

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(weft_sandbox::spawner::ARGUMENT) {
        let fd = arguments.next().and_then(|fd| fd.parse().ok()).unwrap_or(3);
        weft_sandbox::spawner::main(fd);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime can be made").block_on(bench());
}

async fn bench() {
    let exe = std::env::current_exe().expect("this binary has a path");
    let options = Options::new(format!("bench-{}", std::process::id()));
    let client = Client::start(exe, options)
        .await
        .expect("the spawner starts");
    let work = tempfile::tempdir().expect("a directory can be made");
    let mut none = Spec::new(["true"], "/", Sandbox::None);
    none.stdout = Capture::Discard;
    none.stderr = Capture::Discard;
    let captured = Spec::new(["true"], "/", Sandbox::None);
    let full = Spec::new(
        ["true"],
        work.path(),
        Sandbox::Full(Confinement::new(work.path())),
    );
    let mut limited = full.clone();
    limited.limits = Limits {
        cpu_quota_millicores: Some(1_000),
        cpu_weight_millicores: Some(1_000),
        memory_bytes: Some(256 << 20),
        disk_bytes: Some(1 << 30),
        processes: Some(100),
        open_files: Some(1_024),
    };
    for round in 1..=3 {
        report("xargs -P2 -n1 true", round, xargs());
        report(
            "none, output discarded",
            round,
            many(&client, &none, work.path()).await,
        );
        report("none", round, many(&client, &captured, work.path()).await);
        report("full", round, many(&client, &full, work.path()).await);
        report(
            "full with every limit",
            round,
            many(&client, &limited, work.path()).await,
        );
    }
    client.shutdown().await.expect("the spawner ends");
}

/// Wall time and CPU time of the machine.
type Cost = (Duration, Duration);

fn report(what: &str, round: u32, (wall, cpu): Cost) {
    let per_second = f64::from(TASKS) / wall.as_secs_f64();
    let cpu_us = cpu.as_secs_f64() * 1e6 / f64::from(TASKS);
    println!(
        r#"{{"bench":"spawn","what":"{what}","round":{round},"tasks_per_s":{per_second:.0},"cpu_us_per_task":{cpu_us:.0}}}"#
    );
}

async fn many(client: &Client, spec: &Spec, work: &Path) -> Cost {
    let (start, before) = (Instant::now(), machine_cpu());
    let lanes = (0..CONCURRENCY).map(|lane| {
        let (client, mut spec) = (client.clone(), spec.clone());
        if let Sandbox::Full(confinement) = &mut spec.sandbox {
            confinement.work_dir = work.join(lane.to_string());
            spec.cwd = confinement.work_dir.clone();
            std::fs::create_dir_all(&spec.cwd).expect("a directory can be made");
        }
        tokio::spawn(async move {
            for _ in 0..TASKS / CONCURRENCY {
                let finished = client.run(spec.clone()).await.expect("the spawner lives");
                assert_eq!(finished.exit.shell_code(), 0, "{:?}", finished.exit);
            }
        })
    });
    for lane in lanes.collect::<Vec<_>>() {
        lane.await.expect("every process ends well");
    }
    (start.elapsed(), machine_cpu() - before)
}

fn xargs() -> Cost {
    let (start, before) = (Instant::now(), machine_cpu());
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("seq {TASKS} | xargs -P2 -n1 true")])
        .stdin(Stdio::null());
    assert!(command.status().expect("xargs runs").success());
    (start.elapsed(), machine_cpu() - before)
}

/// CPU time of everything on this machine, in ticks of 10 ms (proc(5), `/proc/stat`: user, nice, system, …, irq, softirq).
fn machine_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1);
    let ticks: Vec<u64> = numbers.filter_map(|number| number.parse().ok()).collect();
    Duration::from_millis(
        10 * [0, 1, 2, 5, 6]
            .iter()
            .filter_map(|index| ticks.get(*index))
            .sum::<u64>(),
    )
}

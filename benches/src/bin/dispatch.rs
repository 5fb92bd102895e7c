//! Tasks a second end to end, and the round trip of one: `./x bench dispatch`.
//!
//! Server, agents and client share the machine; every acknowledged job and every recorded result
//! is on disk; TLS is on.

use std::time::Instant;

use weft_benches::{Table, median, percentile};
use weft_e2e::Cluster;

/// Runs of each figure.
const RUNS: usize = 5;
/// Round trips that are measured.
const ROUND_TRIPS: usize = 500;

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
    let times = round_trips(&cluster);
    table.row(
        "round trip of one task, API to result, p50",
        percentile(times.clone(), 0.5),
        "ms",
    );
    table.row(
        "round trip of one task, API to result, p99",
        percentile(times, 0.99),
        "ms",
    );
    table.finish();
}

/// From the request to the last recorded result.
fn tasks_per_s(cluster: &Cluster, tasks: u64) -> f64 {
    let body = format!(r#"{{"runtime":"op","op":{{"op":"crc32c"}},"inputs":{{"array":{tasks}}}}}"#);
    let started = Instant::now();
    let answer = cluster.curl(
        &[
            "-X",
            "POST",
            "-H",
            "content-type: application/json",
            "-d",
            &body,
        ],
        "/v1/jobs?wait=60s",
    );
    let elapsed_s = started.elapsed().as_secs_f64();
    let job: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("a job");
    assert_eq!(job["tasks"]["completed"], tasks, "{job}");
    let id = job["id"].as_str().expect("an id");
    cluster.curl(&["-X", "DELETE"], &format!("/v1/jobs/{id}"));
    tasks as f64 / elapsed_s
}

/// Milliseconds of single jobs over one connection, each with its own durable submission.
fn round_trips(cluster: &Cluster) -> Vec<f64> {
    let body = r#"{"runtime":"op","op":{"op":"crc32c"},"tasks":[{"data":"YQ=="}]}"#;
    let mut args = Vec::new();
    let url = format!("https://weft:{}/v1/jobs?wait=10s", cluster.port());
    for number in 0..ROUND_TRIPS {
        if number > 0 {
            args.push("--next");
            args.extend([
                "--resolve",
                "RESOLVE",
                "--cacert",
                "CA",
                "--cert",
                "CERT",
                "--key",
                "KEY",
            ]);
        }
        args.extend([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{time_total} %{time_pretransfer} %{http_code}\n",
            "-X",
            "POST",
        ]);
        args.extend(["-H", "content-type: application/json", "-d", body]);
        if number + 1 < ROUND_TRIPS {
            args.push(&url);
        }
    }
    let resolve = format!("weft:{}:127.0.0.1", cluster.port());
    let pki = cluster.data_dir().join("pki/admin");
    let file = |name: &str| pki.join(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("cert.pem"), file("key.pem"));
    let args: Vec<&str> = args
        .into_iter()
        .map(|arg| match arg {
            "RESOLVE" => resolve.as_str(),
            "CA" => ca.as_str(),
            "CERT" => cert.as_str(),
            "KEY" => key.as_str(),
            arg => arg,
        })
        .collect();
    let output = cluster.curl(&args, "/v1/jobs?wait=10s");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let times: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (end, start) = (
                fields.next()?.parse::<f64>().ok()?,
                fields.next()?.parse::<f64>().ok()?,
            );
            (fields.next()? == "201").then_some((end - start) * 1_000.0)
        })
        .collect();
    assert!(times.len() >= ROUND_TRIPS / 2, "{text}");
    times
}

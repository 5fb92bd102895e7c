//! Many tasks in one job.

use std::time::Instant;

use weft_e2e::Cluster;

/// No-op tasks a second of one job, from the request to the last recorded result.
///
/// # Panics
/// When a task does not complete within a minute.
pub fn tasks_per_s(cluster: &Cluster, tasks: u64) -> f64 {
    let body = format!(r#"{{"runtime":"op","op":{{"op":"crc32c"}},"inputs":{{"array":{tasks}}}}}"#);
    let post = ["-X", "POST", "-H", "content-type: application/json"];
    let args = [&post[..], &["-d", &body]].concat();
    let started = Instant::now();
    let answer = cluster.curl(&args, "/v1/jobs?wait=60s");
    let elapsed_s = started.elapsed().as_secs_f64();
    let job: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("a job");
    assert_eq!(job["tasks"]["completed"], tasks, "{job}");
    let id = job["id"].as_str().expect("an id");
    cluster.curl(&["-X", "DELETE"], &format!("/v1/jobs/{id}"));
    tasks as f64 / elapsed_s
}

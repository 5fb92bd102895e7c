//! Requests that are sent twice, and streams that are read on from the middle.

use std::io::Write;

use weft_e2e::Cluster;

/// Posts a job of some tasks as NDJSON, under a key; answers its id.
fn stream(cluster: &Cluster, key: &str, tasks: usize) -> String {
    let mut body = tempfile::NamedTempFile::new().expect("a file");
    writeln!(body, r#"{{"runtime":"op","op":{{"op":"crc32c"}}}}"#).expect("written");
    for task in 0..tasks {
        writeln!(body, r#"{{"data":"{task:04}"}}"#).expect("written");
    }
    let args = [
        "-X",
        "POST",
        "-H",
        "content-type: application/x-ndjson",
        "-H",
        &format!("idempotency-key: {key}"),
        "--data-binary",
        &format!("@{}", body.path().display()),
    ];
    json(cluster, &args, "/v1/jobs?wait=30s")["id"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn text(cluster: &Cluster, args: &[&str], path: &str) -> String {
    String::from_utf8_lossy(&cluster.curl(args, path).stdout).into_owned()
}

fn json(cluster: &Cluster, args: &[&str], path: &str) -> serde_json::Value {
    let text = text(cluster, args, path);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_stream_with_a_known_key_is_the_same_job_also_after_a_kill() {
    let mut cluster = Cluster::up(1);
    let first = stream(&cluster, "one", 5_000);
    assert!(first.starts_with("job-"), "{first}");
    assert_eq!(stream(&cluster, "one", 5_000), first);
    assert_ne!(stream(&cluster, "two", 10), first);
    cluster.kill_server();
    cluster.start();
    assert_eq!(stream(&cluster, "one", 5_000), first);
    let jobs = json(&cluster, &[], "/v1/jobs");
    assert_eq!(jobs["items"].as_array().map(Vec::len), Some(2), "{jobs}");
}

#[test]
fn results_are_read_on_from_a_task() {
    let cluster = Cluster::up(1);
    let job = stream(&cluster, "key", 3_000);
    for order in ["task", "finish"] {
        let path = format!("/v1/jobs/{job}/results?order={order}&from=2990&wait=10s");
        let lines = text(&cluster, &[], &path);
        let tasks: Vec<_> = lines
            .lines()
            .filter_map(|line| line.split(',').next())
            .collect();
        let wanted: Vec<_> = (2990..3000)
            .map(|task| format!(r#"{{"task":{task}"#))
            .collect();
        assert_eq!(tasks, wanted, "{order}");
    }
    let none = text(&cluster, &[], &format!("/v1/jobs/{job}/results?from=3000"));
    assert_eq!(none, "");
}

#[test]
fn cancelling_twice_or_too_late_forgets_nothing() {
    let cluster = Cluster::up(0);
    let body = r#"{"runtime":"op","op":{"op":"crc32c"},"inputs":{"array":10}}"#;
    let args = [
        "-X",
        "POST",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ];
    let job = json(&cluster, &args, "/v1/jobs");
    let path = format!("/v1/jobs/{}/cancel", job["id"].as_str().unwrap_or_default());
    for _ in 0..2 {
        let cancelled = json(&cluster, &["-X", "POST"], &path);
        assert_eq!(cancelled["id"], job["id"], "{cancelled}");
        assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    }
    let results = format!(
        "/v1/jobs/{}/results",
        job["id"].as_str().unwrap_or_default()
    );
    let lines = text(&cluster, &[], &results);
    assert_eq!(
        lines.matches(r#""state":"cancelled""#).count(),
        10,
        "{lines}"
    );
    assert_eq!(
        lines.matches(r#""reason":"cancelled""#).count(),
        10,
        "{lines}"
    );
    let unknown = json(
        &cluster,
        &["-X", "POST"],
        "/v1/jobs/job-0000000000000/cancel",
    );
    assert_eq!(unknown["status"], 404, "{unknown}");
}

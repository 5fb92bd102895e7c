//! What waits for what, until when, and what is started twice.

use std::time::Duration;

use serde_json::{Value, json};
use weft_e2e::{Cluster, eventually};

const SOON: Duration = Duration::from_secs(60);

/// A process job of these tasks, each a line of shell and what it waits for.
fn shell_job(tasks: &[(&str, &[u32])]) -> Value {
    let tasks: Vec<Value> = tasks
        .iter()
        .map(|(line, after)| json!({ "args": ["sh", "-c", line], "after": after }))
        .collect();
    json!({
        "runtime": "process",
        "process": { "command": ["true"], "sandbox": "none" },
        "resources": { "cpu": "10m", "memory": "16Mi" },
        "tasks": tasks,
    })
}

fn post(cluster: &Cluster, job: &Value, query: &str) -> Value {
    let body = job.to_string();
    let args = [
        "-X",
        "POST",
        "-H",
        "content-type: application/json",
        "-d",
        &body,
    ];
    let done = cluster.curl(&args, &format!("/v1/jobs{query}"));
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&done.stdout));
    })
}

/// The results of a job, by task, once it is final.
fn results(cluster: &Cluster, job: &str) -> Vec<Value> {
    let done = cluster.curl(&[], &format!("/v1/jobs/{job}/results?wait=60s&order=task"));
    String::from_utf8_lossy(&done.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

fn states(results: &[Value]) -> Vec<&str> {
    let states = results.iter().filter_map(|result| result["state"].as_str());
    states.collect()
}

#[test]
fn tasks_run_in_the_order_of_their_dependencies_across_a_kill_of_the_server() {
    let mut cluster = Cluster::up(2);
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().display();
    let note = |task: u32| format!("echo {task} >> {at}/order");
    let first = format!("while [ ! -e {at}/go ]; do sleep 0.05; done; {}", note(0));
    let (one, two, three) = (note(1), note(2), note(3));
    let job = shell_job(&[
        (&first, &[]),
        (&one, &[0]),
        (&two, &[0]),
        (&three, &[1, 2]),
        ("exit 3", &[0]),
        ("true", &[4]),
        ("true", &[5]),
    ]);
    let id = post(&cluster, &job, "")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    cluster.kill_server();
    cluster.start();
    std::fs::write(dir.path().join("go"), "").expect("written");
    let results = results(&cluster, &id);
    assert_eq!(
        states(&results),
        [
            "completed",
            "completed",
            "completed",
            "completed",
            "failed",
            "cancelled",
            "cancelled"
        ]
    );
    let order = std::fs::read_to_string(dir.path().join("order")).expect("written");
    let order: Vec<&str> = order.lines().collect();
    assert_eq!(
        (order.first(), order.last()),
        (Some(&"0"), Some(&"3")),
        "{order:?}"
    );
    let detail = |task: usize| results[task]["detail"].as_str().unwrap_or_default();
    assert_eq!(detail(5), "task 4, which it waits for, failed");
    assert_eq!(detail(6), "task 5, which it waits for, was cancelled");
}

#[test]
fn a_cycle_and_an_unknown_job_are_refused_with_the_field() {
    let cluster = Cluster::up(0);
    let cycle = post(&cluster, &shell_job(&[("true", &[1]), ("true", &[0])]), "");
    assert_eq!(cycle["errors"][0]["path"], "tasks[0].after", "{cycle}");
    let mut job = shell_job(&[("true", &[])]);
    job["after"] = json!(["no-such-job"]);
    let unknown = post(&cluster, &job, "");
    assert_eq!(unknown["errors"][0]["path"], "after[0]", "{unknown}");
    job["after"] = json!([]);
    job["deadline"] = json!("2001-01-01T00:00:00Z");
    let past = post(&cluster, &job, "");
    assert_eq!(past["errors"][0]["path"], "deadline", "{past}");
}

#[test]
fn a_job_waits_for_another_and_is_cancelled_when_that_one_fails() {
    let cluster = Cluster::up(1);
    let run = |args: &[&str]| {
        let mut all = vec!["run"];
        all.extend(args);
        cluster.weft(all).run()
    };
    let _ = run(&["-d", "--name", "good", "--", "true"]).expect_code(0);
    let _ = run(&["--after", "good", "--", "true"]).expect_code(0);
    let _ = run(&["-d", "--name", "bad", "--", "sh", "-c", "exit 3"]).expect_code(0);
    let done = run(&["--after", "bad", "--", "true"]).expect_code(125);
    assert!(
        done.stderr.contains("(bad), which it waited for, failed"),
        "{}",
        done.stderr
    );
}

#[test]
fn a_deadline_cancels_what_is_left_and_survives_a_kill_of_the_server() {
    let mut cluster = Cluster::up(1);
    let done = cluster
        .weft(["run", "--deadline", "1s", "--", "sleep", "60"])
        .run();
    let _ = done.expect_code(124);
    let mut job = shell_job(&[("sleep 60", &[])]);
    job["deadline"] = json!("4s");
    let id = post(&cluster, &job, "")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    cluster.kill_server();
    cluster.start();
    let ended = cluster.curl(&[], &format!("/v1/jobs/{id}?wait=30s"));
    let ended: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    assert_eq!(ended["state"], "cancelled", "{ended}");
    assert_eq!(ended["reason"], "timeout", "{ended}");
    assert_eq!(ended["detail"], "the job's deadline passed", "{ended}");
}

#[test]
fn a_straggler_is_started_again_and_the_first_result_counts() {
    let cluster = Cluster::up(2);
    // The length of the sleep tells this test's processes from all others.
    let slow = format!(
        "[ \"$WEFT_ATTEMPT\" -gt 1 ] || sleep 61.{}",
        std::process::id()
    );
    let mut job = shell_job(&[
        ("true", &[]),
        ("true", &[]),
        ("true", &[]),
        ("true", &[]),
        (&slow, &[]),
    ]);
    job["speculate"] = json!(true);
    let started = std::time::Instant::now();
    let ended = post(&cluster, &job, "?wait=50s");
    assert_eq!(ended["state"], "succeeded", "{ended}");
    assert!(
        started.elapsed() < SOON,
        "without waiting for the straggler"
    );
    let id = ended["id"].as_str().expect("an id");
    let last = results(&cluster, id).pop().expect("five results");
    assert_eq!(last["attempts"], 2, "{last}");
    let sleep = format!("sleep 61.{}", std::process::id());
    eventually("the slower attempt is stopped", SOON, || {
        weft_e2e::processes_with(&sleep).is_empty()
    });
}

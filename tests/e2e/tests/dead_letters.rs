//! Work that keeps failing: a person can see it with every attempt, mend it, queue it again, or
//! let it go; nothing of that is lost to a crash.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use weft_e2e::{Cluster, Done, eventually, eventually_some};

/// How long a small job may take.
const SOON: Duration = Duration::from_secs(60);

/// A workload whose tasks fail until a file exists, three attempts each.
fn fails_without(cluster: &Cluster, file: &Path, tasks: u32) -> PathBuf {
    let script = format!(
        "echo attempt $WEFT_ATTEMPT of $WEFT_TASK_INDEX >&2; test -e {} || exit 9",
        file.display()
    );
    let workload = format!(
        "apiVersion: weft/v1\nname: needs-a-file\nruntime: process\nprocess:\n  command: [sh, -c, \
         '{script}']\n  sandbox: none\ninputs: {{ array: {tasks} }}\nretry: {{ attempts: 3, \
         backoff: 10ms, max_backoff: 20ms, on: [nonzero-exit] }}\n"
    );
    let path = cluster.dir.path().join("needs-a-file.yaml");
    std::fs::write(&path, workload).expect("written");
    path
}

fn submit(cluster: &Cluster, workload: &Path) -> String {
    let workload = workload.display().to_string();
    let done = cluster.weft(["run", "-d", "-q", "-f", &workload]).run();
    done.expect_code(0).stdout.trim().to_owned()
}

fn wait_for_end(cluster: &Cluster, id: &str) {
    let _ = cluster
        .weft(["wait", id, "--timeout", "60s"])
        .run()
        .expect_code(0);
}

/// A job of so many dead letters.
fn dead_job(cluster: &Cluster, file: &Path, tasks: u32) -> String {
    let id = submit(cluster, &fails_without(cluster, file, tasks));
    wait_for_end(cluster, &id);
    id
}

fn json(cluster: &Cluster, args: &[&str]) -> Value {
    let done: Done = cluster.weft(args).run();
    let done = done.expect_code(0);
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
}

fn list(cluster: &Cluster) -> Vec<Value> {
    let letters = json(cluster, &["dlq", "ls", "-o", "json"]);
    letters.as_array().cloned().unwrap_or_default()
}

fn tasks_of(letters: &[Value]) -> Vec<u64> {
    letters
        .iter()
        .filter_map(|letter| letter["task"].as_u64())
        .collect()
}

fn crash_and_restart(cluster: &mut Cluster) {
    cluster.kill_server();
    cluster.start();
    cluster.wait_for_healthy(1);
}

fn figure(cluster: &Cluster, name: &str) -> Option<f64> {
    let text = String::from_utf8(cluster.curl(&[], "/metrics").stdout).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|value| value.trim().parse().ok())
}

#[test]
fn a_task_that_keeps_failing_is_seen_mended_and_requeued_over_crashes() {
    let mut cluster = Cluster::up(1);
    let file = cluster.dir.path().join("the-file");
    let id = dead_job(&cluster, &file, 1);

    let letters = list(&cluster);
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert_eq!(letter["job"], id.as_str());
    assert_eq!(letter["name"], "needs-a-file");
    assert_eq!(letter["reason"], "nonzero-exit");
    assert_eq!(letter["class"], "user");
    let next = letter["next"].as_str().unwrap_or_default();
    assert!(next.contains(&format!("weft dlq requeue {id}/0")), "{next}");
    let attempts = letter["attempts"].as_array().expect("attempts");
    let numbers: Vec<_> = attempts.iter().map(|a| a["attempt"].as_u64()).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
    for attempt in attempts {
        assert_eq!(attempt["node"], "node-1");
        assert_eq!(attempt["reason"], "nonzero-exit");
        assert_eq!(attempt["exit_code"], 9);
        assert!(attempt["started_at"].is_string() && attempt["run_us"].as_u64() > Some(0));
        assert!(!attempt["detail"].as_str().unwrap_or_default().is_empty());
    }
    assert_eq!(letter["died_at"], attempts[2]["ended_at"]);
    let shown = json(&cluster, &["dlq", "show", "last/0", "-o", "json"]);
    assert_eq!(shown["attempts"][1]["stderr_tail"], "attempt 2 of 0\n");

    crash_and_restart(&mut cluster);
    assert_eq!(
        list(&cluster),
        letters,
        "the history is the same after a crash"
    );

    std::fs::write(&file, "here").expect("written");
    let letter = format!("{id}/0");
    let _ = cluster
        .weft(["dlq", "requeue", &letter])
        .run()
        .expect_code(0);
    let _ = cluster
        .weft(["wait", &id, "--for", "succeeded", "--timeout", "60s"])
        .run()
        .expect_code(0);
    assert_eq!(list(&cluster), Vec::<Value>::new());
    let task = json(&cluster, &["job", "show", &letter, "-o", "json"]);
    let attempts = task["attempts"].as_array().expect("attempts");
    assert_eq!(attempts.len(), 4, "{task:#}");
    assert_eq!(attempts[3]["attempt"], 4);
    assert!(attempts[3]["reason"].is_null(), "{task:#}");

    crash_and_restart(&mut cluster);
    let again = json(&cluster, &["job", "show", &letter, "-o", "json"]);
    assert_eq!(again["attempts"], task["attempts"]);
    assert_eq!(again["state"], "completed");
}

#[test]
fn a_requeued_task_has_all_its_attempts_again_also_after_a_crash() {
    let mut cluster = Cluster::up(1);
    let file = cluster.dir.path().join("never");
    let id = dead_job(&cluster, &file, 1);
    crash_and_restart(&mut cluster);
    let _ = cluster.weft(["dlq", "requeue", &id]).run().expect_code(0);
    wait_for_end(&cluster, &id);
    eventually("it is dead again", SOON, || list(&cluster).len() == 1);
    let attempts = list(&cluster)[0]["attempts"].clone();
    let numbers: Vec<_> = attempts
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|attempt| attempt["attempt"].as_u64())
        .collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn what_is_dropped_leaves_the_list_and_keeps_its_result() {
    let mut cluster = Cluster::up(1);
    let file = cluster.dir.path().join("never");
    let id = dead_job(&cluster, &file, 5);
    assert_eq!(tasks_of(&list(&cluster)), [0, 1, 2, 3, 4]);

    let _ = cluster
        .weft(["dlq", "drop", &format!("{id}/1-2,4")])
        .run()
        .expect_code(0);
    assert_eq!(tasks_of(&list(&cluster)), [0, 3]);
    let done = cluster.weft(["dlq", "drop", &format!("{id}/1")]).run();
    let _ = done.expect_code(1);
    let missing = cluster.weft(["dlq", "show", &format!("{id}/1")]).run();
    let missing = missing.expect_code(1);
    assert!(
        missing.stderr.contains("weft job show"),
        "{}",
        missing.stderr
    );

    crash_and_restart(&mut cluster);
    assert_eq!(tasks_of(&list(&cluster)), [0, 3], "dropped is dropped");
    let job = json(&cluster, &["job", "show", &id, "-o", "json"]);
    assert_eq!(job["tasks"]["dead"], 5, "the results stay");
    let task = json(&cluster, &["job", "show", &format!("{id}/1"), "-o", "json"]);
    assert_eq!(task["state"], "dead");
    assert_eq!(task["attempts"].as_array().map(Vec::len), Some(3));
    let results = cluster.weft(["job", "results", &id, "-o", "json"]).run();
    let results = results.expect_code(0).ndjson();
    assert!(
        results.len() == 5 && results.iter().all(|result| result["exit_code"] == 9),
        "{results:?}"
    );

    let _ = cluster
        .weft(["dlq", "drop", "--all", "--reason", "timeout"])
        .run()
        .expect_code(0);
    assert_eq!(
        tasks_of(&list(&cluster)),
        [0, 3],
        "they died for another reason"
    );
    let _ = cluster.weft(["dlq", "drop", &id]).run().expect_code(0);
    assert_eq!(list(&cluster), Vec::<Value>::new());

    // A job that is tried again as a whole, and fails again, is a matter for people again.
    let _ = cluster.weft(["job", "retry", &id]).run().expect_code(0);
    wait_for_end(&cluster, &id);
    assert_eq!(tasks_of(&list(&cluster)), [0, 1, 2, 3, 4]);
}

#[test]
fn the_list_is_paged_and_filtered_and_nonsense_is_refused() {
    let cluster = Cluster::up(1);
    let file = cluster.dir.path().join("never");
    let older = dead_job(&cluster, &file, 3);
    let newer = dead_job(&cluster, &file, 2);

    let mut seen = Vec::new();
    let mut path = "/v1/dlq?limit=2".to_owned();
    loop {
        let page: Value = serde_json::from_slice(&cluster.curl(&[], &path).stdout).expect("a page");
        let items = page["items"].as_array().expect("items");
        assert!(items.len() <= 2);
        let id = |item: &Value| format!("{}/{}", item["job"].as_str().unwrap_or(""), item["task"]);
        seen.extend(items.iter().map(id));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/dlq?limit=2&cursor={next}");
    }
    let expected = [
        (&newer, 0),
        (&newer, 1),
        (&older, 0),
        (&older, 1),
        (&older, 2),
    ];
    let expected: Vec<String> = expected.map(|(job, task)| format!("{job}/{task}")).into();
    assert_eq!(seen, expected);

    let of = |args: &[&str]| tasks_of(json(&cluster, args).as_array().expect("a list"));
    assert_eq!(of(&["dlq", "ls", "-o", "json", "--job", &older]), [0, 1, 2]);
    let other = ["dlq", "ls", "-o", "json", "--reason", "timeout"];
    assert_eq!(of(&other), Vec::<u64>::new());
    let elsewhere = ["dlq", "ls", "-o", "json", "-n", "elsewhere"];
    assert_eq!(of(&elsewhere), Vec::<u64>::new());

    let status = |args: &[&str], path: &str| {
        let mut all = vec!["-o", "/dev/null", "-w", "%{http_code}"];
        all.extend(args);
        String::from_utf8(cluster.curl(&all, path).stdout).expect("a status")
    };
    assert_eq!(status(&[], "/v1/dlq?cursor=x"), "400");
    assert_eq!(status(&[], "/v1/dlq?reason=bad-luck"), "400");
    assert_eq!(status(&[], "/v1/dlq?nonsense=1"), "400");
    assert_eq!(status(&[], &format!("/v1/dlq/{older}/7")), "404");
    for body in [
        "{}",
        "{\"tasks\": [1]}",
        "[]",
        "{\"all\": true, \"job\": \"x\"}",
    ] {
        let post = [
            "-X",
            "POST",
            "-H",
            "content-type: application/json",
            "-d",
            body,
        ];
        assert_eq!(status(&post, "/v1/dlq/requeue"), "400", "{body}");
    }
    let _ = cluster
        .weft(["dlq", "requeue", &format!("{older}/9")])
        .run()
        .expect_code(1);
    let _ = cluster
        .weft(["dlq", "requeue", &format!("{older}/x")])
        .run()
        .expect_code(2);
    let _ = cluster.weft(["dlq", "requeue"]).run().expect_code(2);

    std::fs::write(&file, "here").expect("written");
    let args = ["dlq", "requeue", "--all", "--reason", "nonzero-exit"];
    let _ = cluster.weft(args).run().expect_code(0);
    for job in [&older, &newer] {
        let args = ["wait", job, "--for", "succeeded", "--timeout", "60s"];
        let _ = cluster.weft(args).run().expect_code(0);
    }
    assert_eq!(list(&cluster), Vec::<Value>::new());
}

#[test]
fn a_poison_job_is_dead_and_its_node_is_not_to_blame() {
    let cluster = Cluster::up(1);
    let module = cluster.dir.path().join("poison.wat");
    let text = r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#;
    std::fs::write(&module, text).expect("written");
    let workload = cluster.dir.path().join("poison.yaml");
    let text = format!(
        "apiVersion: weft/v1\nname: poison\nruntime: wasm\nwasm: {{ module: {} }}\ninputs: {{ \
         array: 40 }}\nretry: {{ attempts: 3, backoff: 10ms, max_backoff: 20ms }}\n",
        module.display()
    );
    std::fs::write(&workload, text).expect("written");
    let id = submit(&cluster, &workload);
    wait_for_end(&cluster, &id);

    let letters = list(&cluster);
    assert_eq!(letters.len(), 40);
    for letter in &letters {
        assert_eq!(letter["reason"], "runtime-error", "{letter:#}");
        assert_eq!(letter["attempts"].as_array().map(Vec::len), Some(3));
    }
    let node = json(&cluster, &["node", "show", "node-1", "-o", "json"]);
    assert_eq!(node["breaker"], "closed", "{node:#}");
    assert_eq!(
        figure(&cluster, "weft_node_breakers{state=\"open\"}"),
        Some(0.0)
    );
    assert_eq!(
        figure(&cluster, "weft_dead_letters{namespace=\"default\"}"),
        Some(40.0)
    );
    let _ = cluster.weft(["run", "--", "true"]).run().expect_code(0);
}

#[test]
fn an_attempt_on_a_lost_node_is_in_the_history() {
    let cluster = Cluster::up(0);
    let mut lost = cluster.agent("n1", None, &[]);
    let args = ["run", "-d", "-q", "--", "sleep", "300.125"];
    let id = cluster
        .weft(args)
        .run()
        .expect_code(0)
        .stdout
        .trim()
        .to_owned();
    let task = format!("{id}/0");
    let show = || json(&cluster, &["job", "show", &task, "-o", "json"]);
    eventually("it runs", SOON, || show()["state"] == "running");
    let _other = cluster.agent("n2", None, &[]);
    lost.kill();
    let lost = eventually_some("it has moved and says why", SOON, || {
        let task = show();
        let lost = task["attempts"][0].clone();
        (task["node"] == "n2" && lost["reason"] == "node-lost").then_some(lost)
    });
    assert_eq!(lost["node"], "n1", "{lost:#}");
    assert_eq!(lost["class"], "node");
    let _ = cluster.weft(["job", "cancel", &id]).run().expect_code(0);
}

#[test]
fn jobs_that_were_submitted_elsewhere_can_be_watched() {
    let cluster = Cluster::up(1);
    let run = |args: &[&str]| {
        let all = [&["run", "-d", "-q"], args].concat();
        cluster
            .weft(all)
            .run()
            .expect_code(0)
            .stdout
            .trim()
            .to_owned()
    };
    let good = run(&["--array", "5", "--", "sleep", "0.2"]);
    let bad = run(&["--array", "3", "--", "sh", "-c", "exit $((5 + {index}))"]);

    let watched = cluster
        .weft(["job", "watch", &good, "-o", "json"])
        .run()
        .expect_code(0);
    let states = watched.ndjson();
    assert!(states.iter().all(|state| state["id"] == good.as_str()));
    let last = states.last().expect("a last state");
    assert_eq!(last["state"], "succeeded");
    assert_eq!(last["tasks"]["completed"], 5);

    let done = cluster
        .weft(["job", "watch", &good, &bad])
        .run()
        .expect_code(5);
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert!(lines.len() >= 2, "{}", done.stdout);
    assert!(lines[0].starts_with(&good) && lines[0].contains("5/5 done: 5 completed"));
    assert!(
        lines[lines.len() - 1].contains("3 failed"),
        "{}",
        done.stdout
    );
    assert!(!done.stdout.contains('\x1b') && !done.stderr.contains('\x1b'));

    let waiting = run(&["--cpu", "10000", "--", "true"]);
    let _ = cluster
        .weft(["job", "cancel", &waiting])
        .run()
        .expect_code(0);
    let _ = cluster
        .weft(["job", "watch", &waiting])
        .run()
        .expect_code(130);
    let _ = cluster
        .weft(["job", "watch", "no-such-job"])
        .run()
        .expect_code(1);
}

#[test]
fn top_shows_nodes_and_jobs_once_without_a_terminal() {
    let cluster = Cluster::up(2);
    let args = [
        "run", "-d", "-q", "--array", "20000", "--cpu", "10m", "--", "sleep", "0.05",
    ];
    let id = cluster
        .weft(args)
        .run()
        .expect_code(0)
        .stdout
        .trim()
        .to_owned();
    // Between two looks of a busy machine nothing may have ended.
    let top = eventually_some("something moves", SOON, || {
        let top = json(&cluster, &["top", "-o", "json"]);
        (rate(&top["nodes"]) > 0.0 && rate(&top["jobs"]) > 0.0).then_some(top)
    });
    let nodes = top["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 2, "{top:#}");
    assert!(
        nodes
            .iter()
            .all(|node| node["breaker"] == "closed" && node["load_percent"].is_u64())
    );
    assert_eq!(top["jobs"][0]["id"], id.as_str());
    let text = cluster.weft(["top", "--once"]).run().expect_code(0).stdout;
    for word in ["NODE", "BREAKER", "node-1", "node-2", "JOB", &id] {
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(!text.contains('\x1b'));
    let _ = cluster.weft(["job", "cancel", &id]).run().expect_code(0);
}

/// What all rows of `top` together end a second.
fn rate(rows: &Value) -> f64 {
    let rows = rows.as_array().into_iter().flatten();
    rows.filter_map(|row| row["per_second"].as_f64()).sum()
}

#[test]
fn figures_say_how_deep_the_queue_is_and_how_slow_the_disk() {
    let cluster = Cluster::up(1);
    let _ = cluster
        .weft(["run", "--array", "7", "--", "true"])
        .run()
        .expect_code(0);
    let _ = cluster.weft(["run", "--", "false"]).run().expect_code(1);
    let waiting = [
        "run", "-d", "-q", "--array", "3", "--cpu", "10000", "--", "true",
    ];
    let _ = cluster.weft(waiting).run().expect_code(0);
    let depth = "weft_queue_depth{namespace=\"default\",state=\"queued\"}";
    assert_eq!(figure(&cluster, depth), Some(3.0));
    assert_eq!(
        figure(&cluster, "weft_dispatch_latency_seconds_count"),
        Some(8.0)
    );
    assert!(figure(&cluster, "weft_journal_fsync_seconds_count") > Some(0.0));
    let failures = "weft_task_failures_total{reason=\"nonzero-exit\",class=\"user\"}";
    assert_eq!(figure(&cluster, failures), Some(1.0));
    assert_eq!(
        figure(&cluster, "weft_dead_letters{namespace=\"default\"}"),
        Some(0.0)
    );
    assert_eq!(
        figure(&cluster, "weft_node_certificates{validity=\"fresh\"}"),
        Some(1.0)
    );
    for identity in ["ca", "server", "admin"] {
        let name = format!("weft_certificate_expiry_timestamp_seconds{{identity=\"{identity}\"}}");
        assert!(figure(&cluster, &name) > Some(1.7e9), "{identity}");
    }
}

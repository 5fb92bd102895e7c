//! Bad input: refused with the field and the next step, and the server goes on.

use weft_e2e::{Cluster, Weft};

#[test]
fn the_command_line_names_what_is_wrong() {
    for (args, words) in [
        (vec!["run"], "nothing to run"),
        (vec!["run", "--op", "crc32", "--array", "1"], "crc32c"),
        (vec!["run", "--op", "counteq=300", "--array", "1"], "300"),
        (vec!["run", "--memory", "lots", "--", "true"], "lots"),
        (
            vec!["run", "--each", "/nonexistent/*", "--", "cat", "{}"],
            "no such file",
        ),
        (vec!["run", "--strategy", "cheap", "--", "true"], "cheapest"),
        (vec!["rum", "--", "true"], "run"),
        (vec!["run", "--wasm", "/nonexistent.wasm"], "not a file"),
    ] {
        let done = Weft::new(&args).run().expect_code(2);
        assert!(done.stderr.contains(words), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn a_workload_file_names_the_field_and_the_nearest_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("work.yaml");
    let text = "apiVersion: weft/v1\nruntime: process\nprocess: {command: [\"true\"]}\nresources: {memry: 1Gi}\n";
    std::fs::write(&file, text).expect("written");
    let done = Weft::new(["run", "-f", &file.display().to_string(), "-o", "json"])
        .run()
        .expect_code(2);
    let problem = done.json();
    assert_eq!(problem["errors"][0]["path"], "resources.memry");
    assert!(
        problem["errors"][0]["message"]
            .as_str()
            .unwrap_or_default()
            .contains("memory"),
        "{problem}"
    );
}

#[test]
fn without_a_cluster_other_commands_say_how_to_start_one() {
    let done = Weft::new(["node", "ls", "-o", "json"])
        .run()
        .expect_code(69);
    assert!(
        done.json()["next"]
            .as_str()
            .unwrap_or_default()
            .contains("weft up")
    );
}

#[test]
fn malformed_requests_get_problem_documents_and_the_server_goes_on() {
    let cluster = Cluster::up(1);
    let json = [
        "-X",
        "POST",
        "-H",
        "content-type: application/json",
        "-w",
        "\n%{http_code}",
        "-d",
    ];
    for (body, status, path) in [
        ("{", "400", ""),
        ("[]", "400", ""),
        (r#"{"runtime":"op"}"#, "400", "op"),
        (r#"{"runtime":"op","op":{"op":"sum"}}"#, "400", "op"),
        (
            r#"{"runtime":"op","op":{"op":"crc32c"},"tasks":[{"data":"***"}]}"#,
            "400",
            "tasks[0].data",
        ),
        (
            r#"{"runtime":"op","op":{"op":"crc32c"},"tasks":[{},{"offset":-1}]}"#,
            "400",
            "tasks[1].offset",
        ),
        (
            r#"{"runtime":"process","process":{"command":[]}}"#,
            "400",
            "process.command",
        ),
        (
            r#"{"runtime":"op","op":{"op":"crc32c"},"priority":1000}"#,
            "400",
            "priority",
        ),
    ] {
        let args: Vec<&str> = json.iter().copied().chain([body]).collect();
        let answer = String::from_utf8_lossy(&cluster.curl(&args, "/v1/jobs").stdout).into_owned();
        let (text, code) = answer.rsplit_once('\n').unwrap_or_default();
        assert_eq!(code, status, "{body}: {text}");
        let problem: serde_json::Value = serde_json::from_str(text).expect("a problem document");
        assert_eq!(problem["reason"], "invalid-spec", "{text}");
        assert!(text.contains(path), "{path} in {text}");
    }
    let wrong = cluster.curl(
        &["-X", "POST", "-H", "content-type: text/plain", "-d", "x"],
        "/v1/jobs",
    );
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("application/json"));
    let health = cluster.curl(&[], "/health");
    assert!(String::from_utf8_lossy(&health.stdout).contains("\"ok\""));
}

#[test]
fn nobody_gets_in_without_credentials() {
    let cluster = Cluster::up(0);
    let ca = cluster.data_dir().join("pki/admin/ca.pem");
    let open = std::process::Command::new("curl")
        .args([
            "-sS",
            "--resolve",
            &format!("weft:{}:127.0.0.1", cluster.port()),
            "--cacert",
        ])
        .arg(ca)
        .args([
            "-w",
            "\n%{http_code}",
            &format!("https://weft:{}/v1/nodes", cluster.port()),
        ])
        .output()
        .expect("curl runs");
    let answer = String::from_utf8_lossy(&open.stdout).into_owned();
    assert!(
        answer.ends_with("\n401") && answer.contains("permission-denied"),
        "{answer}"
    );
    let plain = std::process::Command::new("curl")
        .args([
            "-sS",
            &format!("http://127.0.0.1:{}/health", cluster.port()),
        ])
        .output()
        .expect("curl runs");
    assert!(!plain.status.success(), "plain HTTP is not answered");
}

#[test]
fn the_shortest_job_over_rest_works_as_documented() {
    let cluster = Cluster::up(1);
    let body = r#"{"name":"sums","runtime":"op","op":{"op":"counteq","imm":42},
        "tasks":[{"data":"KioqYQ=="},{"data":"Zm9vYmFy","op":{"op":"fnv64"}}]}"#;
    let post = cluster.curl(
        &[
            "-X",
            "POST",
            "-H",
            "content-type: application/json",
            "-d",
            body,
        ],
        "/v1/jobs",
    );
    let job: serde_json::Value = serde_json::from_slice(&post.stdout).expect("JSON");
    assert_eq!(job["tasks"]["total"], 2, "{job}");
    let id = job["id"].as_str().expect("an id");
    let results = cluster.curl(&[], &format!("/v1/jobs/{id}/results?wait=30s"));
    let text = String::from_utf8_lossy(&results.stdout).into_owned();
    let mut rows: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    rows.sort_by_key(|row| row["task"].as_u64());
    assert_eq!(
        rows[0]["result"],
        serde_json::json!({"op": "counteq", "count": 3, "bytes": 4}),
        "{text}"
    );
    assert_eq!(rows[1]["result"]["hash"], "85944171f73967e8", "{text}");
    let done = cluster.curl(&[], &format!("/v1/jobs/{id}?wait=30s"));
    let job: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(job["state"], "succeeded");
}

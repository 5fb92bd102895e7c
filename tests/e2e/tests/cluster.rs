//! Several nodes: work spreads, nodes and servers die, nothing acknowledged is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use weft_e2e::{
    AgentProcess, Cluster, Namespaces, UpOptions, Weft, can_make_namespaces, eventually,
    eventually_some, finish, processes_with,
};

/// How long anything may take that a machine at rest does in a moment.
const SOON: Duration = Duration::from_secs(60);
/// Longer than a machine stands still: for tests of something else than leases.
const LONG_LEASE: [&str; 2] = ["--lease-ttl", "15s"];

/// A server with these arguments and no agent yet.
fn server(args: &[&str]) -> Cluster {
    Cluster::with(UpOptions {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..UpOptions::default()
    })
}

/// Three agents in three network namespaces, the server with these arguments in a fourth.
fn spread_out(args: &[&str]) -> Option<(Namespaces, Cluster, Vec<AgentProcess>)> {
    if !can_make_namespaces() {
        return None;
    }
    let hosts = Namespaces::new(4);
    let cluster = Cluster::with(UpOptions {
        listen: format!("{}:7700", hosts.address(0)),
        namespace: Some(hosts.host(0)),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..UpOptions::default()
    });
    let agents = (1..4)
        .map(|number| cluster.agent(&format!("n{number}"), Some(&hosts.host(number)), &[]))
        .collect();
    Some((hosts, cluster, agents))
}

#[test]
fn the_cheapest_node_gets_the_task_and_nonsense_is_no_price() {
    let cluster = server(&LONG_LEASE);
    let _dear = cluster.agent("dear", None, &["--price-per-hour", "0.50"]);
    let _cheap = cluster.agent("some", None, &["--price-per-hour", "$0.05"]);
    cluster.wait_for_healthy(2);
    for number in 0..3 {
        let args = ["run", "--strategy", "cheapest", "-o", "json", "--", "true"];
        let done = cluster.weft(args).run().expect_code(0);
        assert_eq!(done.ndjson()[0]["node"], "some", "run {number}");
    }
    let nodes = cluster.nodes();
    let price = |id: &str| {
        let node = nodes.iter().find(|node| node["id"] == id);
        node.map(|node| node["capacity"]["price_per_hour"].clone())
    };
    assert_eq!(price("dear"), Some("$0.50".into()));
    assert_eq!(price("some"), Some("$0.05".into()));
    for wrong in ["-1", "cheap", "0.12 EUR", "9999999"] {
        let refused = cluster.weft(["agent", "--price-per-hour", wrong]).run();
        assert_eq!(refused.code, 2, "{wrong}: {}", refused.stderr);
        assert!(
            refused.stderr.contains("--price-per-hour"),
            "{}",
            refused.stderr
        );
    }
}

#[test]
fn work_spreads_over_nodes_with_addresses_of_their_own() {
    let Some((_hosts, cluster, _agents)) = spread_out(&LONG_LEASE) else {
        return;
    };
    let done = cluster
        .weft([
            "run",
            "--strategy",
            "spread",
            "--array",
            "60",
            "-o",
            "json",
            "--",
            "sh",
            "-c",
            "sleep 0.05; echo {index}",
        ])
        .run()
        .expect_code(0);
    let nodes: BTreeSet<String> = done
        .ndjson()
        .iter()
        .map(|row| row["node"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        nodes,
        BTreeSet::from(["n1".to_owned(), "n2".to_owned(), "n3".to_owned()]),
        "{}",
        done.stdout
    );
}

#[test]
fn tasks_of_a_killed_agent_run_elsewhere_and_its_processes_are_gone() {
    let Some((_hosts, cluster, mut agents)) = spread_out(&[]) else {
        return;
    };
    let done = cluster
        .weft([
            "run",
            "-d",
            "-q",
            "--strategy",
            "spread",
            "--array",
            "6",
            "--cpu",
            "100m",
            "--",
            "sh",
            "-c",
            "sleep 15.75; echo {index}",
        ])
        .run()
        .expect_code(0);
    let id = done.stdout.trim().to_owned();
    let victim = "n2";
    let running_on = |node: &str| {
        let tasks = cluster
            .weft(["job", "tasks", &id, "-o", "json"])
            .run()
            .json();
        tasks
            .as_array()
            .into_iter()
            .flatten()
            .filter(|task| task["node"] == node && task["state"] == "running")
            .count()
    };
    eventually("the victim runs something", SOON, || running_on(victim) > 0);
    let spawned = descendants(agents[1].pid());
    assert!(!spawned.is_empty(), "the agent has processes");
    agents[1].kill();
    // Sooner than they would end by themselves.
    eventually("its processes are gone", Duration::from_secs(10), || {
        spawned.iter().all(|pid| !alive(*pid))
    });
    eventually("its tasks are elsewhere", SOON, || running_on(victim) == 0);
    let results = cluster
        .weft(["job", "results", &id, "-o", "json"])
        .run()
        .expect_code(0)
        .ndjson();
    assert_eq!(results.len(), 6);
    assert!(
        results
            .iter()
            .all(|row| row["state"] == "completed" && row["node"] != victim),
        "{results:?}"
    );
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        let path = format!("/proc/{parent}/task");
        for task in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children
                .split_whitespace()
                .filter_map(|child| child.parse().ok())
            {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .and_then(|rest| rest.split_whitespace().next().map(|state| state != "Z"))
        .unwrap_or(false)
}

#[test]
fn every_acknowledged_job_survives_kills_of_the_server() {
    let mut cluster = Cluster::up(0);
    let _agents: Vec<AgentProcess> = (1..=2)
        .map(|number| cluster.agent(&format!("n{number}"), None, &[]))
        .collect();
    let mut acknowledged: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..4 {
        for number in 0..10u64 {
            let count = 20 + number;
            let done = cluster
                .weft([
                    "run",
                    "-d",
                    "-q",
                    "--op",
                    "crc32c",
                    "--array",
                    &count.to_string(),
                ])
                .run();
            if done.code == 0 {
                acknowledged.insert(done.stdout.trim().to_owned(), count);
            }
        }
        cluster.kill_server();
        assert!(
            acknowledged.len() >= (round + 1) * 5,
            "{} acknowledged",
            acknowledged.len()
        );
        cluster.start();
    }
    cluster.wait_for_healthy(2);
    for (id, count) in &acknowledged {
        let _ = cluster
            .weft(["wait", id, "--for", "succeeded", "--timeout", "60s"])
            .run()
            .expect_code(0);
        let results = cluster
            .weft(["job", "results", id, "-o", "json"])
            .run()
            .expect_code(0)
            .ndjson();
        let tasks: BTreeSet<u64> = results
            .iter()
            .filter_map(|row| row["task"].as_u64())
            .collect();
        assert_eq!(
            (results.len() as u64, tasks.len() as u64),
            (*count, *count),
            "{id}: each result once"
        );
    }
}

#[test]
fn running_work_goes_on_while_the_server_is_away() {
    let mut cluster = server(&LONG_LEASE);
    let _agent = cluster.agent("n1", None, &[]);
    let id = cluster
        .weft([
            "run",
            "-d",
            "-q",
            "--",
            "sh",
            "-c",
            "sleep 13.35; echo finished",
        ])
        .run()
        .expect_code(0);
    let id = id.stdout.trim().to_owned();
    eventually("it runs", SOON, || {
        !processes_with("sleep 13.35").is_empty()
    });
    let pids = processes_with("sleep 13.35");
    cluster.kill_server();
    cluster.start();
    let _ = cluster
        .weft(["wait", &id, "--timeout", "120s"])
        .run()
        .expect_code(0);
    let results = cluster
        .weft(["job", "results", &id, "-o", "json"])
        .run()
        .expect_code(0)
        .ndjson();
    assert_eq!(results[0]["stdout"], "finished\n");
    assert_eq!(
        results[0]["attempts"], 1,
        "it was not run twice (pids {pids:?}): {results:?}"
    );
}

#[test]
fn a_node_that_is_not_let_in_gets_nothing() {
    let cluster = Cluster::up(0);
    // No token, a made-up token, a spent token.
    let mut nobody = AgentProcess::start(
        &cluster,
        "nobody",
        None,
        None,
        &["--join", &format!("127.0.0.1:{}", cluster.port())],
    );
    let code = eventually_some("it gives up", SOON, || nobody.ended());
    assert_ne!(code, 0);
    let token = cluster.token();
    let first = AgentProcess::start(&cluster, "first", Some(&token), None, &[]);
    cluster.wait_for_state("first", "healthy");
    let mut second = AgentProcess::start(&cluster, "second", Some(&token), None, &[]);
    let code = eventually_some("a spent token is refused", SOON, || second.ended());
    assert_ne!(code, 0);
    assert!(
        cluster.log("second").contains("token"),
        "{}",
        cluster.log("second")
    );
    let mut garbled = token.clone();
    garbled.replace_range(12..13, if &token[12..13] == "a" { "b" } else { "a" });
    let mut third = AgentProcess::start(&cluster, "third", Some(&garbled), None, &[]);
    assert_ne!(
        eventually_some("a garbled token is refused", SOON, || third.ended()),
        0
    );
    // Removed: its certificate opens nothing any more.
    let mut first = first;
    let _ = cluster.weft(["node", "rm", "first"]).run().expect_code(0);
    assert_ne!(
        eventually_some("a removed node ends", SOON, || first.ended()),
        0
    );
    let mut again = AgentProcess::start(&cluster, "first", None, None, &[]);
    assert_ne!(
        eventually_some("it does not come back", SOON, || again.ended()),
        0
    );
    assert!(cluster.nodes().is_empty());
}

#[test]
fn certificates_are_renewed_without_dropping_the_session_and_an_expired_one_needs_approval() {
    let cluster = server(&[&LONG_LEASE[..], &["--cert-ttl", "20s"]].concat());
    let mut agent = cluster.agent("n1", None, &[]);
    let certificate = |cluster: &Cluster| {
        let node = cluster
            .nodes()
            .into_iter()
            .find(|node| node["id"] == "n1")
            .unwrap_or_default();
        (
            node["certificate"]["expires_at"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            node["epoch"].as_u64(),
        )
    };
    let (first, epoch) = certificate(&cluster);
    let renewed = eventually_some("a renewal", SOON, || {
        let now = certificate(&cluster);
        (now.0 != first && !now.0.is_empty()).then_some(now)
    });
    assert_eq!(renewed.1, epoch, "the session was not dropped");
    agent.kill();
    eventually("the certificate ends", Duration::from_secs(90), || {
        let nodes = cluster.nodes();
        nodes
            .iter()
            .any(|node| node["certificate"]["validity"] == "expired")
    });
    let _back = AgentProcess::start(&cluster, "n1", None, None, &[]);
    let code = eventually_some("it asks to come back", SOON, || {
        cluster
            .nodes()
            .iter()
            .find_map(|node| node["approval_code"].as_str().map(str::to_owned))
    });
    assert!(
        cluster.log("n1").contains(&code),
        "the same code is seen on both sides: {}",
        cluster.log("n1")
    );
    let _ = cluster
        .weft(["node", "approve", "n1", "XXXX-XXXX"])
        .run()
        .expect_code(77);
    let _ = cluster
        .weft(["node", "approve", "n1", &code])
        .run()
        .expect_code(0);
    cluster.wait_for_state("n1", "healthy");
}

#[test]
fn a_stopped_agent_loses_its_lease_and_its_late_reports_change_nothing() {
    let cluster = Cluster::up(0);
    let frozen = cluster.agent("n1", None, &[]);
    let _other = cluster.agent("n2", None, &[]);
    let run = ["run", "-d", "-q", "--label", "side=left", "--", "true"];
    let _ = run;
    let id = cluster
        .weft([
            "run",
            "-d",
            "-q",
            "--strategy",
            "spread",
            "--array",
            "4",
            "--",
            "sh",
            "-c",
            "sleep 12.85; echo {index}",
        ])
        .run()
        .expect_code(0);
    let id = id.stdout.trim().to_owned();
    eventually("both nodes run", SOON, || {
        let tasks = cluster
            .weft(["job", "tasks", &id, "-o", "json"])
            .run()
            .json();
        let nodes: BTreeSet<String> = tasks
            .as_array()
            .into_iter()
            .flatten()
            .filter(|t| t["state"] == "running")
            .map(|t| t["node"].to_string())
            .collect();
        nodes.len() == 2
    });
    frozen.signal(libc::SIGSTOP);
    cluster.wait_for_state("n1", "offline");
    let _ = cluster
        .weft(["wait", &id, "--timeout", "120s"])
        .run()
        .expect_code(0);
    let before = cluster
        .weft(["job", "results", &id, "-o", "json"])
        .run()
        .expect_code(0)
        .stdout;
    frozen.signal(libc::SIGCONT);
    cluster.wait_for_state("n1", "healthy");
    let after = cluster
        .weft(["job", "results", &id, "-o", "json"])
        .run()
        .expect_code(0)
        .stdout;
    assert_eq!(before, after);
    assert_eq!(after.lines().count(), 4);
}

#[test]
fn work_that_fits_nowhere_is_explained_with_the_nearest_change() {
    let cluster = Cluster::up(1);
    let id = cluster
        .weft(["run", "-d", "-q", "--memory", "900Gi", "--", "true"])
        .run()
        .expect_code(0);
    let id = id.stdout.trim().to_owned();
    let explained = cluster
        .weft(["explain", &id, "-o", "json"])
        .run()
        .expect_code(75)
        .json();
    assert_eq!(explained["reason"], "insufficient-resources", "{explained}");
    assert!(
        explained["nearest_change"]
            .as_str()
            .unwrap_or_default()
            .contains("memory"),
        "{explained}"
    );
    let _ = cluster.weft(["job", "cancel", &id]).run().expect_code(0);
    let _ = cluster
        .weft(["wait", &id, "--timeout", "60s"])
        .run()
        .expect_code(0);
    let job = cluster
        .weft(["job", "show", &id, "-o", "json"])
        .run()
        .json();
    assert_eq!(job["state"], "cancelled");
}

#[test]
fn a_cordoned_node_takes_nothing_new() {
    let cluster = Cluster::up(2);
    let _ = cluster
        .weft(["node", "cordon", "node-1"])
        .run()
        .expect_code(0);
    let done = cluster
        .weft(["run", "--array", "20", "-o", "json", "--op", "crc32c"])
        .run()
        .expect_code(0);
    assert!(
        done.ndjson().iter().all(|row| row["node"] == "node-2"),
        "{}",
        done.stdout
    );
    let _ = cluster
        .weft(["node", "uncordon", "node-1"])
        .run()
        .expect_code(0);
    cluster.wait_for_healthy(2);
    let events = cluster.weft(["events", "-o", "json"]).run().expect_code(0);
    assert!(
        events
            .ndjson()
            .iter()
            .any(|event| event["type"] == "weft.node.cordoned"),
        "{}",
        events.stdout
    );
}

#[test]
fn results_and_the_artifacts_of_their_job_go_when_their_time_is_over() {
    let cluster = Cluster::with(UpOptions {
        nodes: 1,
        args: vec!["--result-ttl".to_owned(), "15s".to_owned()],
        ..UpOptions::default()
    });
    let input = cluster.data_dir().join("input");
    std::fs::write(&input, "some bytes that only this test has").expect("written");
    let input = input.display().to_string();
    let run = ["run", "--op", "crc32c", "--each", &input, "-o", "json"];
    let _ = cluster.weft(run).run().expect_code(0);
    let artifacts = || {
        let dirs = std::fs::read_dir(cluster.data_dir().join("blobs")).expect("a directory");
        let files = dirs
            .flatten()
            .filter_map(|dir| std::fs::read_dir(dir.path()).ok());
        files.map(Iterator::count).sum::<usize>()
    };
    assert_eq!(artifacts(), 1);
    eventually("the artifact is gone", Duration::from_secs(90), || {
        artifacts() == 0
    });
    let jobs = cluster
        .weft(["job", "ls", "-o", "json"])
        .run()
        .expect_code(0);
    assert_eq!(jobs.json(), serde_json::json!([]));
}

#[test]
fn a_service_manager_is_told_when_the_server_is_ready_and_when_it_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    let timeout = Some(SOON);
    socket.set_read_timeout(timeout).expect("a timeout");
    let hear = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..length]).trim().to_owned()
    };
    let data_dir = dir.path().join("server").display().to_string();
    let args = [
        "server",
        "--no-mdns",
        "--listen",
        "127.0.0.1:0",
        "--data-dir",
        &data_dir,
    ];
    let child = Weft::new(args).env("NOTIFY_SOCKET", &path).spawn();
    assert_eq!(hear(), "READY=1");
    // SAFETY: kill has no memory preconditions; the child is ours and not yet waited for.
    unsafe { libc::kill(child.id().cast_signed(), libc::SIGTERM) };
    assert_eq!(hear(), "STOPPING=1");
    let _ = finish(child, SOON, "weft server").expect_code(0);
}

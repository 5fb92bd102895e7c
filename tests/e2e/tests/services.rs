//! Services on three nodes with addresses of their own: applied, updated under load, rolled back,
//! drained, scaled, killed and deleted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use weft_e2e::{Fleet, Load, PATIENCE, eventually, instances_of, web_image};

/// A web service of an image.
fn web(image: &str, replicas: u32, more: &str) -> String {
    format!(
        "apiVersion: weft/v1\nname: web\nrun: service\nruntime: container\ncontainer:\n  \
         image: {image}\n  ports: ['8080:80/http']\n  healthcheck: {{http: {{port: 80, path: /healthz}}, \
         interval: 300ms, timeout: 2s, retries: 3, start_period: 20s}}\nreplicas: {{min: 1, max: 6, target: {replicas}}}\n\
         update: {{deadline: 2m}}\nresources: {{cpu: 100m, memory: 64Mi, disk: 0}}\n\
         placement: {{spread: node}}\n{more}"
    )
}

fn ready(service: &Value) -> u64 {
    service["replicas"]["ready"].as_u64().unwrap_or(0)
}

/// The nodes of units that are ready.
fn nodes(service: &Value) -> BTreeSet<String> {
    let units = service["units"].as_array().cloned().unwrap_or_default();
    units
        .iter()
        .filter(|unit| unit["ready"] == true)
        .filter_map(|unit| unit["node"].as_str().map(str::to_owned))
        .collect()
}

#[test]
fn a_web_service_lives_through_updates_a_bad_version_a_drain_and_its_end() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let first = fleet.push("web:1", &web_image("one", true)).tagged;
    let second = fleet.push("web:2", &web_image("two", true)).tagged;
    let bad = fleet.push("web:3", &web_image("three", false)).tagged;

    fleet.apply(&web(&first, 3, ""), true).expect_code(0);
    let service = fleet.service("web");
    assert_eq!(ready(&service), 3, "{service}");
    assert_eq!(nodes(&service).len(), 3, "one on each node: {service}");
    for node in 1..=3 {
        fleet.answers(node, "one");
    }
    let again = fleet.apply(&web(&first, 3, ""), false).expect_code(0);
    assert!(again.stdout.contains("unchanged"), "{}", again.stdout);

    let load = Load::start(&fleet, 1, 8080, 600);
    fleet.apply(&web(&second, 3, ""), true).expect_code(0);
    for node in 1..=3 {
        fleet.answers(node, "two");
    }

    let soon = web(&bad, 3, "").replace("deadline: 2m", "deadline: 15s");
    let done = fleet.apply(&soon, true);
    assert_eq!(done.code, 1, "{}{}", done.stdout, done.stderr);
    fleet.wait_for("web", "is rolled back", |service| {
        service["rollout"]["state"] == "rolled-back" && ready(service) == 3
    });
    fleet.answers(2, "two");
    if let Some(load) = load {
        let load = Load::stop(load);
        assert!(load.requests() > 100, "{}", load.text);
        assert!(load.is_flawless(), "a request failed:\n{}", load.text);
    }

    fleet.apply(&web(&second, 3, ""), true).expect_code(0);
    fleet
        .cluster
        .weft(["node", "drain", "n2"])
        .run()
        .expect_code(0);
    fleet.wait_for("web", "has left n2", |service| {
        ready(service) == 3 && !nodes(service).contains("n2")
    });
    fleet.answers(1, "two");
    fleet
        .cluster
        .weft(["node", "uncordon", "n2"])
        .run()
        .expect_code(0);

    let logs = fleet.cluster.weft(["logs", "web"]).run().expect_code(0);
    assert!(logs.stdout.contains("serving"), "{}", logs.stdout);
    let exec = fleet
        .cluster
        .weft([
            "exec",
            "web",
            "--",
            "sh",
            "-c",
            "cat /www/index.html; exit 7",
        ])
        .run();
    assert_eq!(
        (exec.code, exec.stdout.as_str()),
        (7, "two"),
        "{}",
        exec.stderr
    );
    let piped = fleet
        .cluster
        .weft(["exec", "-i", "web", "--", "wc", "-c"])
        .stdin(vec![0u8; 100_000])
        .run();
    assert_eq!(piped.stdout.trim(), "100000", "{}", piped.stderr);

    fleet
        .cluster
        .weft(["scale", "web=5", "--wait"])
        .run()
        .expect_code(0);
    assert_eq!(ready(&fleet.service("web")), 5);
    fleet
        .cluster
        .weft(["stop", "web", "--wait"])
        .run()
        .expect_code(0);
    fleet
        .cluster
        .weft(["start", "web", "--wait"])
        .run()
        .expect_code(0);
    fleet
        .cluster
        .weft(["restart", "web", "--wait"])
        .run()
        .expect_code(0);

    let delete = ["delete", "web", "--yes", "--wait"];
    fleet
        .cluster
        .weft(delete)
        .timeout(PATIENCE)
        .run()
        .expect_code(0);
    eventually("nothing is left", PATIENCE, || fleet.leftovers().is_empty());
}

#[test]
fn replicas_follow_the_load() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let scaling = "scaling: {requests_per_second: 5, up_cooldown: 1s, down_cooldown: 3s}\n";
    fleet.apply(&web(&image, 1, scaling), true).expect_code(0);
    assert_eq!(ready(&fleet.service("web")), 1);
    let Some(load) = Load::start(&fleet, 1, 8080, 180) else {
        return;
    };
    fleet.wait_for("web", "grows under load", |service| ready(service) >= 3);
    let load = Load::stop(load);
    assert!(load.requests() > 0, "{}", load.text);
    assert!(load.is_flawless(), "{}", load.text);
    fleet.wait_for("web", "shrinks again", |service| {
        service["replicas"]["existing"] == 1
    });
}

#[test]
fn a_service_that_cannot_run_says_why_and_what_would_help() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = format!("{}/nothing:1", fleet.registry.address);
    fleet.apply(&web(&image, 1, ""), false).expect_code(0);
    fleet.wait_for("web", "says that there is no such image", |service| {
        let detail = service["detail"].as_str().unwrap_or_default();
        let is_told = service["reason"] == "image-not-found" && detail.contains("prepare");
        is_told && service["next_try_at"].is_string()
    });

    let image = fleet.push("web:1", &web_image("one", true));
    let wrong = format!("{}0000", &image.digested[..image.digested.len() - 4]);
    fleet.apply(&web(&wrong, 1, ""), false).expect_code(0);
    fleet.wait_for("web", "has no image of that digest", |service| {
        service["reason"] == "image-not-found" || service["reason"] == "image-pull-failed"
    });

    let large = web(&image.tagged, 1, "").replace("memory: 64Mi", "memory: 900Gi");
    fleet.apply(&large, false).expect_code(0);
    fleet.wait_for("web", "is too large", |service| {
        service["reason"] == "insufficient-resources"
    });
    let explained = fleet.cluster.weft(["explain", "web"]).run();
    assert!(
        explained.stdout.contains("nearest change"),
        "{}",
        explained.stdout
    );

    let privileged = web(&image.tagged, 1, "").replace("  image:", "  privileged: true\n  image:");
    let refused = fleet.apply(&privileged, false);
    assert_eq!(refused.code, 77, "{}", refused.stderr);
    assert!(refused.stderr.contains("privileged"), "{}", refused.stderr);
    let host = web(&image.tagged, 1, "").replace(
        "  image:",
        "  volumes: [{target: /x, host: /etc}]\n  image:",
    );
    assert_eq!(fleet.apply(&host, false).code, 77);
}

#[test]
fn data_waits_while_a_service_is_stopped_and_goes_when_it_is_deleted() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let text = web(&image, 2, "").replace(
        "  image:",
        "  volumes: [{target: /data, class: local, name: data}]\n  image:",
    );
    fleet.apply(&text, true).expect_code(0);
    let slots = || {
        let dirs = ["n1", "n2", "n3"].map(|id| fleet.cluster.dir.path().join(id).join("volumes"));
        let inside = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten();
        let workloads = dirs.into_iter().flat_map(inside);
        let volumes = workloads.flat_map(|workload| inside(workload.path()));
        let slots = volumes.flat_map(|volume| inside(volume.path()));
        slots
            .filter(|slot| slot.path().join("data").is_dir())
            .count()
    };
    assert_eq!(slots(), 2);
    fleet
        .cluster
        .weft(["stop", "web", "--wait"])
        .run()
        .expect_code(0);
    assert_eq!(slots(), 2, "its data waits");
    fleet
        .cluster
        .weft(["delete", "web", "--yes", "--wait"])
        .run()
        .expect_code(0);
    assert_eq!(slots(), 0);
}

#[test]
fn units_stand_still_and_go_on() {
    let Some(mut fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    fleet.apply(&web(&image, 2, ""), true).expect_code(0);
    let one = |fleet: &Fleet| {
        let units = fleet.service("web")["units"].as_array().cloned();
        let units = units.unwrap_or_default().into_iter();
        let mut first = units.filter(|unit| unit["number"] == 1);
        first.next().unwrap_or_default()
    };
    let pause = ["pause", "web", "--instance", "1"];
    for _ in 0..2 {
        let paused = fleet.cluster.weft(pause).run().expect_code(0);
        assert!(paused.stdout.contains("unit 1 paused"), "{}", paused.stdout);
    }
    let stands_still = |service: &Value| {
        let text = service["units"].to_string();
        ready(service) == 1 && text.contains("stands still")
    };
    fleet.wait_for("web", "one unit stands still", stands_still);
    for node in 1..=3 {
        // The one that stands still does not.
        fleet.answers(node, "one");
    }
    let before = one(&fleet)["restarts"].clone();
    let node = one(&fleet)["node"].as_str().unwrap_or_default().to_owned();
    let number: usize = node.trim_start_matches('n').parse().expect("a node");
    fleet.agents[number - 1].kill();
    fleet.restart_agent(number);
    // Exit code 75 until its agent is back: try again.
    eventually("it is told to go on", PATIENCE, || {
        let resumed = fleet.cluster.weft(["resume", "web"]).run();
        assert!([0, 75].contains(&resumed.code), "{}", resumed.stderr);
        resumed.code == 0
    });
    fleet.wait_for("web", "both answer", |service| ready(service) == 2);
    assert_eq!(one(&fleet)["restarts"], before, "{}", one(&fleet));
    let nobody = ["pause", "web", "--instance", "99"];
    assert_eq!(fleet.cluster.weft(nobody).run().code, 1);

    fleet.agents[number - 1].kill();
    let told = fleet.cluster.weft(["pause", "web"]).run();
    assert_eq!(told.code, 75, "{}", told.stderr);
    fleet.wait_for("web", "what can be told stands still", |service| {
        let units = service["units"].as_array().cloned().unwrap_or_default();
        let elsewhere = |unit: &Value| unit["node"] != node.as_str();
        let mut others = units.iter().filter(|unit| elsewhere(unit));
        others.any(|unit| unit.to_string().contains("stands still"))
    });
    fleet.restart_agent(number);
    eventually("all are told", PATIENCE, || {
        fleet.cluster.weft(["pause", "web"]).run().code == 0
    });
    let delete = ["delete", "web", "--yes", "--wait"];
    let deleted = fleet.cluster.weft(delete).timeout(PATIENCE).run();
    deleted.expect_code(0);
    eventually("nothing is left", PATIENCE, || fleet.leftovers().is_empty());
}

#[test]
fn units_of_a_lost_node_run_elsewhere_and_nothing_runs_twice_when_it_returns() {
    let Some(mut fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    fleet.apply(&web(&image, 3, ""), true).expect_code(0);
    fleet.hosts.connect(2, false);
    fleet.cluster.wait_for_state("n2", "offline");
    fleet.wait_for("web", "runs elsewhere", |service| {
        ready(service) == 3 && !nodes(service).contains("n2")
    });
    fleet.hosts.connect(2, true);
    fleet.cluster.wait_for_state("n2", "healthy");
    eventually("three replicas in all", PATIENCE, || {
        instances_of("/bin/sh /run.sh").len() == 3
    });
    // The server away: nothing stops, and it judges nobody when it is back.
    fleet.cluster.kill_server();
    fleet.agents[0].kill();
    fleet.restart_agent(1);
    // Ports answer without a server.
    fleet.answers(3, "one");
    fleet.cluster.start();
    fleet.wait_for("web", "is as before", |service| ready(service) == 3);
    eventually("still three replicas in all", PATIENCE, || {
        instances_of("/bin/sh /run.sh").len() == 3
    });
}

#[test]
fn agents_that_are_told_to_clear_up_leave_nothing_when_they_are_stopped() {
    let peers = ["--on-shutdown", "remove", "--peer-listen", "0.0.0.0:7800"];
    let Some(mut fleet) = Fleet::with(|_| peers.map(str::to_owned).to_vec()) else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    fleet.apply(&web(&image, 2, ""), true).expect_code(0);
    for node in 1..=3 {
        // One of them has no replica, and asks another node at the port that was chosen.
        fleet.answers(node, "one");
        assert!(fleet.listens(node, 7800), "node {node}");
    }
    for agent in &fleet.agents {
        agent.signal(libc::SIGTERM);
    }
    for agent in &mut fleet.agents {
        let mut code = None;
        eventually("the agent ends", PATIENCE, || {
            code = agent.ended();
            code.is_some()
        });
        assert_eq!(code, Some(0));
    }
    assert_eq!(fleet.leftovers(), Vec::<String>::new());
}

#[test]
fn an_exclusive_service_stops_where_the_lease_was_lost_before_it_starts_elsewhere() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let text = web(&image, 1, "exclusive: true\n").replace("max: 6, ", "max: 1, ");
    fleet.apply(&text, true).expect_code(0);
    let holder = nodes(&fleet.service("web"));
    let number: usize = holder
        .first()
        .and_then(|node| node.trim_start_matches('n').parse().ok())
        .expect("a node");
    fleet.hosts.connect(number, false);
    let mut most = 0;
    let other = |fleet: &Fleet| {
        let now = nodes(&fleet.service("web"));
        !now.is_empty() && now != holder
    };
    eventually("it runs elsewhere", PATIENCE, || {
        most = most.max(instances_of("/bin/sh /run.sh").len());
        other(&fleet)
    });
    assert!(most <= 1, "it ran in {most} places at once");
    fleet.hosts.connect(number, true);
}

/// How many times something is killed; more by `WEFT_KILLS`.
fn kills() -> u32 {
    let wanted = std::env::var("WEFT_KILLS").ok();
    wanted.and_then(|kills| kills.parse().ok()).unwrap_or(8)
}

#[test]
fn agents_and_servers_killed_at_random_moments_reach_what_was_asked() {
    let Some(mut fleet) = Fleet::up() else {
        return;
    };
    let images = [
        fleet.push("web:1", &web_image("one", true)).tagged,
        fleet.push("web:2", &web_image("two", true)).tagged,
    ];
    let mut random = u64::from(std::process::id()) | 1;
    eprintln!("seed {random}");
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    for round in 0..kills() {
        match round % 4 {
            3 => {
                let done = fleet.cluster.weft(["delete", "web", "--yes"]).run();
                assert!(done.code == 0, "{}", done.stderr);
            }
            even => {
                let image = &images[even as usize % 2];
                fleet.apply(&web(image, 2 + even, ""), false).expect_code(0);
            }
        }
        std::thread::sleep(Duration::from_millis(next(1_500)));
        let victim = next(4) as usize;
        if victim == 0 {
            fleet.cluster.kill_server();
            fleet.cluster.start();
        } else {
            fleet.agents[victim - 1].kill();
            fleet.restart_agent(victim);
        }
        if round % 4 == 3 {
            fleet.wait_for("web", "is gone", Value::is_null);
            eventually("nothing is left", PATIENCE, || fleet.leftovers().is_empty());
            continue;
        }
        let wanted = u64::from(2 + round % 4);
        fleet.wait_for("web", "is as asked", |service| {
            ready(service) == wanted
                && service["replicas"]["existing"] == wanted
                && service["replicas"]["updated"] == wanted
        });
        eventually("each replica runs once", PATIENCE, || {
            instances_of("/bin/sh /run.sh").len() as u64 == wanted
        });
    }
}

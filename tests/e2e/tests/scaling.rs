//! How many replicas there are: by load, by people, by priority.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_e2e::asked::{nodes_of, published, replicas, resources, service_file};
use weft_e2e::{Fleet, PATIENCE, eventually, web_image};
use weft_unit::conformance::images::ImageConfig;

/// A web service that computes when `/cgi-bin/burn` is asked for.
fn burning_image() -> ImageConfig {
    let mut config = web_image("idle", true);
    let burn = "#!/bin/sh\nn=0\nwhile [ $n -lt 20000 ]; do n=$((n + 1)); done\n\
                printf 'Content-Type: text/plain\\r\\n\\r\\nburnt\\n'\n";
    config.files.push((
        "/www/cgi-bin/burn".to_owned(),
        burn.as_bytes().to_vec(),
        true,
    ));
    config
}

/// Clients that ask for the same thing again and again until this is dropped.
struct Clients(Vec<Child>);

impl Clients {
    fn start(fleet: &Fleet, count: usize, url_path: &str) -> Self {
        let url = format!("http://{}:8080{url_path}", fleet.hosts.address(1));
        let script = format!("while :; do curl -s -m 20 -o /dev/null {url} || sleep 0.2; done");
        let start = || {
            let mut command = Command::new("ip");
            command
                .args(["netns", "exec", &fleet.hosts.host(0), "sh", "-c", &script])
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().expect("a client starts")
        };
        Self((0..count).map(|_| start()).collect())
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn replicas_follow_the_processor_time_they_use_without_flapping() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("burn:1", &burning_image()).tagged;
    let more = format!(
        "replicas: {{min: 2, max: 4, target: 2}}\n\
         scaling: {{cpu: 50%, up_cooldown: 1s, down_cooldown: 4s}}\n{}",
        resources("100m")
    );
    let text = published(&service_file("web", &image, &more));
    fleet.apply(&text, true).expect_code(0);
    eventually("it computes", PATIENCE, || {
        fleet.fetch(2, 8080, "/cgi-bin/burn") == "burnt\n"
    });

    let is_within = |service: &Value| (2..=4).contains(&replicas(service, "wanted"));
    let clients = Clients::start(&fleet, 8, "/cgi-bin/burn");
    fleet.wait_for("web", "grows to its maximum", |service| {
        assert!(is_within(service), "{service}");
        replicas(service, "ready") == 4
    });
    fleet.stays("web", Duration::from_secs(8), |service| {
        replicas(service, "wanted") == 4 && replicas(service, "existing") == 4
    });
    drop(clients);
    fleet.wait_for("web", "shrinks to its minimum", |service| {
        assert!(is_within(service), "{service}");
        replicas(service, "existing") == 2
    });
    let told = fleet.events("service.scaled");
    let details: Vec<&str> = told
        .iter()
        .filter_map(|event| event["data"]["detail"].as_str())
        .collect();
    let is_up = |detail: &&&str| {
        let numbers: Vec<u32> = detail
            .split(' ')
            .filter_map(|word| word.parse().ok())
            .collect();
        numbers[0] < numbers[1]
    };
    let ups = details.iter().take_while(is_up).count();
    assert!(ups > 0, "{details:?}");
    assert_eq!(
        details.iter().skip(ups).filter(is_up).count(),
        0,
        "{details:?}"
    );
}

#[test]
fn replicas_follow_memory_and_a_person_is_obeyed_until_it_is_taken_back() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let more = format!(
        "replicas: {{min: 1, max: 3, target: 1}}\n\
         scaling: {{memory: 25%, up_cooldown: 1s, down_cooldown: 4s}}\n{}",
        resources("100m")
    );
    fleet
        .apply(&service_file("web", &image, &more), true)
        .expect_code(0);
    let fill = "dd if=/dev/zero of=/dev/shm/full bs=1M count=40 2>/dev/null";
    let first = ["exec", "web", "--instance", "1", "--", "sh", "-c"];
    fleet.run(&[&first[..], &[fill]].concat()).expect_code(0);
    fleet.wait_for("web", "grows with its memory", |service| {
        replicas(service, "ready") == 3
    });

    fleet.run(&["scale", "web=2", "--wait"]).expect_code(0);
    fleet.stays("web", Duration::from_secs(8), |service| {
        replicas(service, "wanted") == 2 && replicas(service, "existing") <= 3
    });
    let refused = fleet.run(&["scale", "web=4"]);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("replicas.max"),
        "{}",
        refused.stderr
    );
    fleet.run(&["scale", "web=auto"]).expect_code(0);
    fleet.wait_for("web", "follows the load again", |service| {
        replicas(service, "ready") == 3
    });

    fleet
        .run(&[&first[..], &["rm /dev/shm/full"]].concat())
        .expect_code(0);
    fleet.wait_for("web", "shrinks with its memory", |service| {
        assert!((1..=3).contains(&replicas(service, "wanted")), "{service}");
        replicas(service, "existing") == 1
    });
}

#[test]
fn greater_priority_makes_room_and_gives_it_back() {
    let Some(fleet) = Fleet::zoned() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let more = |replicas: u32, priority: i32| {
        format!(
            "replicas: {{target: {replicas}}}\npriority: {priority}\n{}",
            resources("700m")
        )
    };
    fleet
        .apply(&service_file("low", &image, &more(3, 0)), true)
        .expect_code(0);
    assert_eq!(nodes_of(&fleet.service("low")), ["n1", "n2", "n3"]);

    // Neither equal nor lower priority has anybody stopped.
    fleet
        .apply(&service_file("equal", &image, &more(1, 0)), false)
        .expect_code(0);
    fleet.wait_for("equal", "waits", |service| {
        service["reason"] == "insufficient-resources"
    });
    assert_eq!(replicas(&fleet.service("low"), "ready"), 3);
    fleet
        .run(&["delete", "equal", "--yes", "--wait"])
        .expect_code(0);

    fleet
        .apply(&service_file("high", &image, &more(2, 50)), true)
        .expect_code(0);
    fleet.wait_for("low", "has made room for two", |service| {
        replicas(service, "ready") == 1 && replicas(service, "existing") == 1
    });
    let low = fleet.service("low");
    assert_eq!(low["reason"], "insufficient-resources", "{low}");
    let told = fleet.events("service.preempted");
    assert_eq!(told.len(), 2, "{told:?}");
    for event in &told {
        assert_eq!(event["subject"], low["id"], "{event}");
        assert_eq!(event["data"]["by"], fleet.service("high")["id"], "{event}");
        let detail = event["data"]["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("greater priority"), "{event}");
    }
    fleet.stays("high", Duration::from_secs(2), |service| {
        replicas(service, "ready") == 2
    });

    fleet
        .run(&["delete", "high", "--yes", "--wait"])
        .expect_code(0);
    fleet.wait_for("low", "is whole again", |service| {
        replicas(service, "ready") == 3
    });
    assert_eq!(nodes_of(&fleet.service("low")), ["n1", "n2", "n3"]);
}

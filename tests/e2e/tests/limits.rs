//! What units may use at most, and what is said of those that use more.

use std::time::Duration;

use serde_json::Value;
use weft_e2e::asked::{replicas, service_file};
use weft_e2e::{Fleet, PATIENCE, eventually, web_image};

/// Longer than three readings of what units use.
const MEASURED: Duration = Duration::from_secs(16);

/// A service that runs a script within limits and is not started again.
fn limited(name: &str, image: &str, script: &str, resources: &str) -> String {
    let more = format!("resources: {{cpu: 100m, {resources}}}\n");
    service_file(name, image, &more).replacen(
        "update:",
        &format!("  command: [/bin/sh, -c]\n  args: [\"{script}\"]\n  restart: 'no'\nupdate:"),
        1,
    )
}

/// The same, given up when it has not become ready soon.
fn soon(file: &str) -> String {
    file.replace("deadline: 2m", "deadline: 30s")
}

fn is_for(service: &Value, reason: &str) -> bool {
    service["state"] == "failed" && service["reason"] == reason
}

#[test]
fn what_writes_more_than_its_disk_fails_and_says_so_and_what_writes_less_stays() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let write = |mebibytes: u32, path: &str| {
        format!("dd if=/dev/urandom of={path} bs=1M count={mebibytes}; exec sleep 1000")
    };
    let disk = "memory: 128Mi, disk: 16Mi";
    let thrifty = limited("thrifty", &image, &write(8, "/file"), disk);
    fleet.apply(&thrifty, true).expect_code(0);
    // What goes to a volume is not its own layer's.
    let kept = limited("kept", &image, &write(64, "/data/file"), disk).replacen(
        "  restart:",
        "  volumes: [{target: /data, class: local}]\n  restart:",
        1,
    );
    fleet.apply(&kept, true).expect_code(0);

    let greedy = soon(&limited("greedy", &image, &write(64, "/file"), disk));
    fleet.apply(&greedy, false).expect_code(0);
    fleet.wait_for("greedy", "has failed for its disk", |service| {
        is_for(service, "storage-error")
    });
    // It is tried elsewhere, and fails there as well.
    eventually("`get` says why", PATIENCE, || {
        let shown = fleet.run(&["get", "greedy"]);
        let all = format!("{}{}", shown.stdout, shown.stderr);
        let says = ["storage-error", "limit of 16Mi", "raise `resources.disk`"];
        says.iter().all(|it| all.contains(it))
    });
    eventually("`ps` says why", PATIENCE, || {
        let listed = fleet.run(&["ps", "--all"]).expect_code(0).stdout;
        let mut rows = listed.lines().filter(|line| line.contains("greedy"));
        rows.any(|row| row.contains("failed") && row.contains("storage-error"))
    });
    for name in ["thrifty", "kept"] {
        fleet.stays(name, MEASURED, |service| {
            replicas(service, "ready") == 1 && service["units"][0]["restarts"] == 0
        });
    }
    let used = |service: &Value| service["units"][0]["load"]["disk_bytes"].as_u64();
    fleet.wait_for("thrifty", "is measured", |service| {
        used(service).is_some_and(|used| (8 << 20..12 << 20).contains(&used))
    });
    fleet.wait_for("kept", "is measured", |service| {
        used(service).is_some_and(|used| used < 1 << 20)
    });
}

#[test]
fn what_takes_more_memory_than_it_may_is_told_to_have_been_killed_for_it() {
    let Some(fleet) = Fleet::up() else {
        return;
    };
    let image = fleet.push("web:1", &web_image("one", true)).tagged;
    let hungry = limited(
        "hungry",
        &image,
        "exec tail /dev/zero",
        "memory: 32Mi, disk: 0",
    );
    fleet.apply(&soon(&hungry), false).expect_code(0);
    fleet.wait_for("hungry", "has failed for its memory", |service| {
        is_for(service, "oom-killed")
    });
    eventually("`get` says what helps", PATIENCE, || {
        let shown = fleet.run(&["get", "hungry"]);
        let all = format!("{}{}", shown.stdout, shown.stderr);
        all.contains("oom-killed") && all.contains("raise `resources.memory`")
    });
}

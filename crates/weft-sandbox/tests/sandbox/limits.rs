//! CPU, memory, processes, disk.

use crate::setup::{client, full, shell, text, work_dir};
use std::time::Duration;
use weft_sandbox::{Outcome, Sandbox};

pub(crate) async fn fork_bomb() {
    let (client, work) = (client().await, work_dir());
    if !client.capabilities().cgroup.pids {
        return;
    }
    for sandbox in [Sandbox::None, full(work.path())] {
        let mut spec = shell(
            "bomb() { bomb | bomb & }; bomb; sleep 1000",
            work.path(),
            sandbox,
        );
        spec.limits.processes = Some(40);
        spec.timeout = Some(Duration::from_millis(700));
        let exit = client.run(spec).await.unwrap().exit;
        assert!(
            exit.timed_out || matches!(exit.outcome, Outcome::Exited(_)),
            "{exit:?}"
        );
        // The slot is usable again, with all of its processes.
        let mut after = shell(
            "for i in 1 2 3 4 5; do sleep 0.05 & done; wait; echo fine",
            work.path(),
            full(work.path()),
        );
        after.limits.processes = Some(40);
        assert_eq!(text(&client.run(after).await.unwrap()), "fine");
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn memory_hog() {
    let (client, work) = (client().await, work_dir());
    if !client.capabilities().cgroup.memory {
        return;
    }
    for sandbox in [Sandbox::None, full(work.path())] {
        let mut spec = shell(
            "head -c 200000000 /dev/zero | tail -c 200000000 | wc -c",
            work.path(),
            sandbox.clone(),
        );
        spec.limits.memory_bytes = Some(64 << 20);
        let exit = client.run(spec).await.unwrap().exit;
        assert!(exit.oom_killed, "{exit:?}");
        let mut modest = shell("true", work.path(), sandbox);
        modest.limits.memory_bytes = Some(64 << 20);
        let exit = client.run(modest).await.unwrap().exit;
        assert!(
            !exit.oom_killed && exit.outcome == Outcome::Exited(0),
            "the next one in the slot is not blamed: {exit:?}"
        );
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn large_file() {
    let (client, work) = (client().await, work_dir());
    for script in [
        "exec head -c 50000000 /dev/zero > big",
        "head -c 50000000 /dev/zero > big",
    ] {
        let mut spec = shell(script, work.path(), full(work.path()));
        spec.limits.disk_bytes = Some(5_000_000);
        let exit = client.run(spec).await.unwrap().exit;
        assert!(exit.disk_exceeded, "{exit:?}");
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn many_files() {
    let (client, work) = (client().await, work_dir());
    for sandbox in [Sandbox::None, full(work.path())] {
        let script = "i=0; while :; do i=$((i+1)); head -c 100000 /dev/zero > f$i; done";
        let mut spec = shell(script, work.path(), sandbox);
        spec.limits.disk_bytes = Some(5_000_000);
        spec.timeout = Some(Duration::from_secs(15));
        let exit = client.run(spec).await.unwrap().exit;
        assert!(exit.disk_exceeded && !exit.timed_out, "{exit:?}");
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn cpu_quota() {
    let (client, work) = (client().await, work_dir());
    if !client.capabilities().cgroup.cpu {
        return;
    }
    let mut spec = shell("while :; do :; done", work.path(), full(work.path()));
    spec.limits.cpu_quota_millicores = Some(200);
    spec.limits.cpu_weight_millicores = Some(200);
    spec.timeout = Some(Duration::from_millis(1_000));
    let exit = client.run(spec).await.unwrap().exit;
    let used_us = exit.usage.user_us + exit.usage.system_us;
    let wall_us = exit.usage.wall_us;
    assert!(
        used_us < wall_us * 45 / 100,
        "used {used_us} of {wall_us} µs at a fifth of a core"
    );
    client.shutdown().await.unwrap();
}

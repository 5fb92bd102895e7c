//! The caller is killed at any moment; the next one takes over.
//!
//! The caller is this program again, with the directory in an environment variable.

use std::process::{Child, Command};
use std::time::Duration;

use weft_types::UnitId;
use weft_unit::UnitRuntime;
use weft_vm::Vms;

use crate::support;
use crate::support::{
    Lab, PATIENCE, printed, spec, start, unit, until_booted, until_ended, until_printed,
};

const SCRIPT: &str = "n=0; while :; do n=$((n+1)); echo count-$n; sleep 0.5; done";
const DIR: &str = "WEFT_VM_TEST_DIR";

fn counting(id: UnitId) -> weft_unit::Unit {
    unit(id, spec(SCRIPT, ""))
}

/// Not a test: what the tests run in a process of its own, to kill it.
#[tokio::test]
#[ignore = "run by the other tests in a process of its own"]
async fn the_caller_that_is_killed() {
    let Ok(named) = std::env::var(DIR) else {
        return;
    };
    let Some((dir, node, id)) = named
        .split_once('|')
        .and_then(|(dir, rest)| rest.split_once('|').map(|(node, id)| (dir, node, id)))
    else {
        return;
    };
    let Some(mut lab) = Lab::new("caller") else {
        return;
    };
    lab.node = node.to_owned();
    let mut options = lab.options();
    options.data_dir = format!("{dir}/data,with comma").into();
    options.pools = [("fast".to_owned(), format!("{dir}/fast pool,").into())].into();
    let vms = Vms::open(options).await.unwrap();
    start(&vms, &counting(id.parse().unwrap())).await.unwrap();
    tokio::time::sleep(PATIENCE).await;
}

fn caller(lab: &Lab, id: UnitId) -> Child {
    let dir = lab.dir.path().display();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::the_caller_that_is_killed", "--ignored"])
        .env(DIR, format!("{dir}|{}|{id}", lab.node))
        // What it cannot remove when it is killed goes with our directory.
        .env("TMPDIR", lab.dir.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap()
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machine_survives_its_caller_and_the_next_one_takes_over() {
    let Some(lab) = Lab::new("survive") else {
        return;
    };
    let id = support::fresh_id();
    let first = caller(&lab, id);
    let seen_by_all = lab.open().await;
    until_printed(&seen_by_all, id, "count-3").await;
    drop(seen_by_all);
    kill(first);
    let before = lab.processes(&format!("guest={id} "));
    assert_eq!(before.len(), 1, "{before:?}");

    let vms = lab.open().await;
    assert!(vms.observe(id).await.unwrap().is_running());
    let last = printed(&vms, id).await.matches("count-").count();
    until_printed(&vms, id, &format!("count-{}", last + 5)).await;
    until_booted(&vms, id).await;
    start(&vms, &counting(id)).await.unwrap();
    assert_eq!(lab.processes(&format!("guest={id} ")), before);
    let text = printed(&vms, id).await;
    assert_eq!(text.matches("count-2\n").count(), 1, "{text}");

    // A machine whose process is killed from outside is told as such.
    support::kill(&lab.pid(id).unwrap());
    let (reason, detail) = until_ended(&vms, id).await;
    assert_eq!(reason, Some(weft_types::Reason::RuntimeError), "{detail}");
    assert!(detail.contains("its process is gone"), "{detail}");
    vms.remove(id, false).await.unwrap();
    assert_eq!(lab.leftovers(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caller_killed_while_it_starts_leaves_what_the_next_one_starts_or_removes() {
    let Some(lab) = Lab::new("starting") else {
        return;
    };
    let vms = lab.open().await;
    for (round, after_ms) in [0, 10, 30, 60, 100, 160, 250, 400].into_iter().enumerate() {
        let id = support::fresh_id();
        let child = caller(&lab, id);
        let unit = lab.dir.path().join("data,with comma/nodes");
        let unit = unit.join(&lab.node).join(id.to_string());
        let end = std::time::Instant::now() + PATIENCE;
        while !unit.exists() && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        kill(child);
        if round % 2 == 0 {
            start(&vms, &counting(id)).await.unwrap();
            until_booted(&vms, id).await;
            let count = lab.processes(&format!("guest={id} ")).len();
            assert_eq!(count, 1, "killed after {after_ms} ms");
        }
        for owned in vms.list().await.unwrap() {
            vms.remove(owned.unit, false).await.unwrap();
        }
        let left = lab.leftovers();
        assert_eq!(left, [""; 0], "killed after {after_ms} ms");
    }
}

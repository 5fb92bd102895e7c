//! Machines on one node: applied, reached, adopted after their agent was killed, stopped, deleted;
//! and what is said of one that does not boot.

#[path = "../../../crates/weft-vm/tests/vm/support/guest.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod guest;
#[path = "../../../crates/weft-vm/tests/vm/support/http.rs"]
#[allow(dead_code, reason = "a part of it is used")]
mod http;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use weft_e2e::{
    AgentProcess, Cluster, Done, LEASE, UpOptions, eventually, lease_args, processes_with,
};

/// How long an emulated machine may take to boot or to end, on a machine where others build.
const PATIENCE: Duration = Duration::from_secs(240);
const AGENT: [&str; 2] = ["--engine", "oci"];
/// What the guest runs: it counts aloud.
const SCRIPT: &str = "n=0; while :; do n=$((n+1)); echo count-$n; sleep 0.5; done";

/// A server, an agent that can run machines, and what they boot from.
struct Site {
    cluster: Cluster,
    agent: Option<AgentProcess>,
    images: http::Server,
    hashes: [String; 2],
    _runtime: tokio::runtime::Runtime,
}

fn sha256(content: &[u8]) -> String {
    hex::encode(ring::digest::digest(&ring::digest::SHA256, content))
}

impl Site {
    /// `None` when this machine lacks something, which is said.
    fn up() -> Option<Self> {
        let guest = match guest::guest() {
            Ok(guest) => guest,
            Err(why) => {
                eprintln!("skipped: needs {why}");
                return None;
            }
        };
        let kernel = std::fs::read(&guest.kernel).expect("the kernel");
        let initrd = std::fs::read(&guest.initrd).expect("the initial RAM disk");
        let hashes = [sha256(&kernel), sha256(&initrd)];
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let files = vec![("kernel", kernel), ("initrd", initrd)];
        let images = runtime.block_on(http::Server::start(files));
        let cluster = Cluster::with(UpOptions {
            args: lease_args(LEASE),
            ..UpOptions::default()
        });
        let agent = cluster.agent("n1", None, &AGENT);
        Some(Self {
            cluster,
            agent: Some(agent),
            images,
            hashes,
            _runtime: runtime,
        })
    }

    /// A service of one machine; without its RAM disk the kernel panics.
    fn spec(&self, name: &str, boots: bool) -> String {
        let image = |what: &str, hash: &str| {
            let url = self.images.url(what);
            format!("{what}: {{url: '{url}', sha256: {hash}, format: raw}}")
        };
        let kernel = image("kernel", &self.hashes[0]);
        let initrd = image("initrd", &self.hashes[1]);
        let initrd = if boots { initrd.as_str() } else { "" };
        format!(
            "apiVersion: weft/v1\nname: {name}\nrun: service\nruntime: vm\nvm:\n  {kernel}\n  \
             {initrd}\n  cmdline: console=ttyS0 no_timer_check quiet loglevel=1 panic=0 agent\n  \
             disks: [{{name: data, size: 8Mi}}]\n  boot_timeout: 4m\n  cloud_init:\n    \
             user_data: |\n      #!/bin/sh\n      {SCRIPT}\n\
             resources: {{cpu: '1', memory: 192Mi, disk: 0}}\nupdate: {{deadline: 4m}}\n"
        )
    }

    fn weft(&self, args: &[&str]) -> Done {
        self.cluster.weft(args).timeout(PATIENCE).run()
    }

    fn apply(&self, text: &str) -> Done {
        let file = self.cluster.dir.path().join("workload.yaml");
        std::fs::write(&file, text).expect("a file");
        self.weft(&["apply", "-f", &file.display().to_string()])
    }

    fn service(&self, name: &str) -> Value {
        self.cluster.service("default", name)
    }

    /// Waits until the only unit of a service is as wanted.
    fn wait_for(&self, name: &str, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let begun = std::time::Instant::now();
        while begun.elapsed() < PATIENCE {
            last = self.service(name);
            if holds(&last["units"][0]) {
                eprintln!("{what}: after {:?}", begun.elapsed());
                return last;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{name}: not in time: {what}: {last:#}");
    }

    fn wait_until_ready(&self, name: &str) -> Value {
        let is_ready = |unit: &Value| unit["state"] == "running" && unit["ready"] == true;
        self.wait_for(name, "the machine is ready", is_ready)
    }

    /// Processes of machines.
    fn machines(&self) -> Vec<u32> {
        let dir = self.cluster.dir.path().join("n1/vm/nodes");
        processes_with(&dir.display().to_string())
    }

    /// Everything that machines of a service left on the node.
    fn leftovers(&self, service: &Value) -> Vec<String> {
        let vm = self.cluster.dir.path().join("n1/vm");
        let processes = self.machines().into_iter();
        let mut left: Vec<_> = processes.map(|pid| format!("process {pid}")).collect();
        for dir in ["nodes", "pool"] {
            left.extend(entries(&vm.join(dir)));
        }
        let id = service["id"].as_str().unwrap_or("no id");
        left.extend(lines(&format!("find /sys/fs/cgroup -type d -name {id}-*")));
        let links = lines("ip -o link").into_iter();
        left.extend(links.filter(|line| line.contains(id)));
        let table = sha256(format!("n1 {}", vm.display()).as_bytes());
        let tables = lines("nft list tables").into_iter();
        left.extend(tables.filter(|line| line.ends_with(&table[..12])));
        left
    }
}

impl Drop for Site {
    /// Machines outlive their agents: whatever the test did, they are ended while theirs lives.
    fn drop(&mut self) {
        for name in ["guest", "broken"] {
            let delete = ["delete", name, "--yes", "--wait", "--timeout", "30s"];
            let _ = self.cluster.weft(delete).run();
        }
        for pid in self.machines() {
            // SAFETY: kill has no memory preconditions; the process was started for this test.
            unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
        }
        if std::thread::panicking() {
            eprintln!("n1:\n{}", self.cluster.log("n1"));
        }
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
    all.map(|entry| entry.path().display().to_string())
        .collect()
}

/// What a program prints; nothing when it is not there.
fn lines(command: &str) -> Vec<String> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// The highest number that the guest has said.
fn counted(text: &str) -> u32 {
    let numbers = text.lines().filter_map(|line| line.rsplit_once("count-"));
    let numbers = numbers.filter_map(|(_, number)| number.trim().parse().ok());
    numbers.max().unwrap_or(0)
}

#[test]
fn a_machine_is_reached_outlives_its_agent_and_leaves_nothing() {
    let Some(mut site) = Site::up() else {
        return;
    };
    site.apply(&site.spec("guest", true)).expect_code(0);
    let service = site.wait_until_ready("guest");
    let unit = &service["units"][0];
    assert_eq!(unit["address"], "10.0.2.15", "{service:#}");
    let source = unit["source"].as_str().unwrap_or_default();
    assert_eq!(source, format!("sha256:{}", site.hashes[0]));
    let shown = site.weft(&["get", "guest"]).expect_code(0).stdout;
    assert!(shown.contains("10.0.2.15"), "{shown}");
    assert!(site.leftovers(&service).len() >= 4, "they are not seen");
    let listed = site.weft(&["ps", "-o", "wide"]).expect_code(0).stdout;
    assert!(
        listed.contains("running") && listed.contains("10.0.2.15"),
        "{listed}"
    );

    let mut logs = String::new();
    eventually("the console is told", PATIENCE, || {
        logs = site.weft(&["logs", "guest"]).expect_code(0).stdout;
        logs.contains("host guest is up") && counted(&logs) > 0
    });
    let ran = site.weft(&["exec", "guest", "--", "/bin/busybox", "hostname"]);
    assert_eq!(
        (ran.code, ran.stdout.trim()),
        (0, "guest"),
        "{}",
        ran.stderr
    );

    let running = site.machines();
    assert_eq!(running.len(), 1, "{running:?}");
    let said = counted(&logs);
    if let Some(mut agent) = site.agent.take() {
        agent.kill();
    }
    assert_eq!(site.machines(), running, "the machine went with its agent");
    site.agent = Some(AgentProcess::start(&site.cluster, "n1", None, None, &AGENT));
    eventually("the console goes on", PATIENCE, || {
        let logs = site.weft(&["logs", "guest"]);
        counted(&logs.stdout) > said + 5
    });
    let service = site.wait_until_ready("guest");
    assert_eq!(site.machines(), running, "it was not adopted");
    assert_eq!(service["units"][0]["restarts"], 0, "{service:#}");

    site.weft(&["restart", "guest"]).expect_code(0);
    let number = service["units"][0]["number"].clone();
    site.wait_for("guest", "another unit is ready", |unit| {
        unit["number"] != number && unit["ready"] == true
    });
    let after = site.machines();
    assert!(after.len() == 1 && after != running, "{after:?}");

    let stop = ["stop", "guest", "--wait", "--timeout", "120s"];
    site.weft(&stop).expect_code(0);
    assert_eq!(site.machines(), [0; 0]);
    site.weft(&["start", "guest"]).expect_code(0);
    site.wait_until_ready("guest");

    let delete = ["delete", "guest", "--yes", "--wait", "--timeout", "120s"];
    site.weft(&delete).expect_code(0);
    eventually("nothing is left", PATIENCE, || {
        site.leftovers(&service).is_empty()
    });
}

#[test]
fn a_machine_that_does_not_boot_says_why_shows_its_console_and_when_it_is_tried_again() {
    let Some(site) = Site::up() else {
        return;
    };
    site.apply(&site.spec("broken", false)).expect_code(0);
    let has_failed =
        |unit: &Value| unit["reason"] == "vm-boot-failed" && unit["next_try_at"].is_string();
    let service = site.wait_for("broken", "its boot has failed", has_failed);
    let unit = &service["units"][0];
    let text = unit.to_string();
    assert!(text.contains("its kernel panicked"), "{unit:#}");
    assert!(text.contains("Unable to mount root fs"), "{unit:#}");
    // Only between two tries: the pauses grow.
    eventually("`get` says so as well", PATIENCE, || {
        let shown = site.weft(&["get", "broken"]).expect_code(0).stdout;
        let mut wanted = ["vm-boot-failed", "Unable to mount root fs", "next try"].iter();
        wanted.all(|it| shown.contains(it))
    });
    let tried = |service: &Value| service["units"][0]["restarts"].as_u64().unwrap_or(0);
    let first = tried(&service);
    site.wait_for("broken", "it is tried again", |unit| {
        unit["restarts"].as_u64().unwrap_or(0) > first
            || unit["number"] != service["units"][0]["number"]
    });
    let delete = ["delete", "broken", "--yes", "--wait", "--timeout", "120s"];
    site.weft(&delete).expect_code(0);
    eventually("nothing is left", PATIENCE, || {
        site.leftovers(&service).is_empty()
    });
}

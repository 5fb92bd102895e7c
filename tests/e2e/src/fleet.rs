//! A server and three agents in network namespaces, with a registry that each of them reaches.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use weft_unit::conformance::images::{ImageConfig, Pushed, Registry, build, is_installed, missing};

use crate::site::mirror;
use crate::{
    AgentProcess, Cluster, Done, Namespaces, UpOptions, can_make_namespaces, eventually,
    eventually_seen,
};

/// How many agents there are.
pub const AGENTS: usize = 3;
/// How long something may take that has to pull, start and pass health checks on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// The lease of nodes: none is lost because the machine is busy.
pub const LEASE: Duration = Duration::from_secs(15);

/// A server and three agents, each with a network namespace and thus an address of its own.
pub struct Fleet {
    /// The server.
    pub cluster: Cluster,
    /// The agents `n1`, `n2`, `n3`.
    pub agents: Vec<AgentProcess>,
    /// Where images come from.
    pub registry: Registry,
    mirrors: Vec<Child>,
    /// The arguments of each agent.
    args: Vec<Vec<String>>,
    /// The namespaces: the server's is host 0, that of agent `n1` is host 1.
    pub hosts: Namespaces,
    /// Control groups that others have left on this machine.
    foreign_groups: BTreeSet<String>,
}

/// Arguments of a server that gives this lease.
pub fn lease_args(lease: Duration) -> Vec<String> {
    vec!["--lease-ttl".to_owned(), format!("{}s", lease.as_secs())]
}

/// Programs of a web service's image: what it answers, and whether it says that it is well.
pub fn web_image(text: &str, is_well: bool) -> ImageConfig {
    // As process 1 a program without a handler would not see the signal that asks it to end.
    let run = "#!/bin/sh\ntrap 'exit 0' TERM\necho serving; httpd -f -p 80 -h /www &\nwait\n";
    let mut files = vec![
        ("/run.sh".to_owned(), run.as_bytes().to_vec(), true),
        (
            "/www/index.html".to_owned(),
            text.as_bytes().to_vec(),
            false,
        ),
    ];
    if is_well {
        files.push(("/www/healthz".to_owned(), b"well\n".to_vec(), false));
    }
    ImageConfig {
        entrypoint: vec!["/run.sh".to_owned()],
        files,
    }
}

impl Fleet {
    /// Starts everything; `None` when this machine lacks something, which is said.
    ///
    /// # Panics
    /// When something does not start in time.
    pub fn up() -> Option<Self> {
        Self::with(|_| Vec::new())
    }

    /// The same, with further arguments for the agent of each number.
    ///
    /// # Panics
    /// When something does not start in time.
    pub fn with(args: impl Fn(usize) -> Vec<String>) -> Option<Self> {
        Self::with_lease(LEASE, args)
    }

    /// The same, with another lease of nodes.
    ///
    /// # Panics
    /// When something does not start in time.
    pub fn with_lease(lease: Duration, args: impl Fn(usize) -> Vec<String>) -> Option<Self> {
        if !can_make_namespaces() {
            return None;
        }
        if let Some(program) = missing() {
            eprintln!("skipped: needs {program}");
            return None;
        }
        if !is_installed("crun") && !is_installed("runc") {
            eprintln!("skipped: needs crun or runc");
            return None;
        }
        let foreign_groups = control_groups();
        let hosts = Namespaces::new(AGENTS + 1);
        let cluster = Cluster::with(UpOptions {
            listen: format!("{}:7700", hosts.address(0)),
            namespace: Some(hosts.host(0)),
            args: lease_args(lease),
            ..UpOptions::default()
        });
        let registry = Registry::start(cluster.dir.path()).expect("a registry");
        let mirrors = (1..=AGENTS)
            .map(|number| mirror(&hosts.host(number), &registry))
            .collect();
        let engine = || vec!["--engine".to_owned(), "oci".to_owned()];
        let args: Vec<Vec<String>> = (1..=AGENTS)
            .map(|number| [engine(), args(number)].concat())
            .collect();
        let agents = (1..=AGENTS)
            .map(|number| {
                let id = format!("n{number}");
                let args: Vec<&str> = args[number - 1].iter().map(String::as_str).collect();
                cluster.agent(&id, Some(&hosts.host(number)), &args)
            })
            .collect();
        for number in 1..=AGENTS {
            cluster.wait_for_runtime(&format!("n{number}"), "container");
        }
        Some(Self {
            cluster,
            agents,
            registry,
            mirrors,
            args,
            hosts,
            foreign_groups,
        })
    }

    /// Starts an agent again that was killed.
    pub fn restart_agent(&mut self, number: usize) {
        let id = format!("n{number}");
        let host = self.hosts.host(number);
        let args: Vec<&str> = self.args[number - 1].iter().map(String::as_str).collect();
        self.agents[number - 1] = AgentProcess::start(&self.cluster, &id, None, Some(&host), &args);
    }

    /// Builds an image and puts it under `NAME:TAG`.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn push(&self, name_and_tag: &str, config: &ImageConfig) -> Pushed {
        let dir = self.cluster.dir.path();
        let image = build(dir, &name_and_tag.replace(':', "-"), config).expect("an image");
        self.registry
            .push(&image, name_and_tag)
            .expect("it is pushed")
    }

    /// Writes a workload file and applies it; how the command ended.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn apply(&self, text: &str, wait: bool) -> Done {
        let file = self.cluster.dir.path().join("workload.yaml");
        std::fs::write(&file, text).expect("a file");
        let file = file.display().to_string();
        let mut args = vec!["apply", "-f", &file];
        if wait {
            args.extend(["--wait", "--timeout", "3m"]);
        }
        self.cluster
            .weft(args)
            .timeout(PATIENCE + Duration::from_secs(30))
            .run()
    }

    /// A service as the API shows it; null when there is none.
    pub fn service(&self, name: &str) -> Value {
        self.cluster.service("default", name)
    }

    /// Waits until a service is as wanted.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn wait_for(&self, name: &str, what: &str, holds: impl FnMut(&Value) -> bool) {
        let what = format!("{name}: {what}");
        eventually_seen(&what, PATIENCE, || self.service(name), holds);
    }

    /// What a node answers at a port to somebody on host 0; empty when it does not.
    pub fn fetch(&self, node: usize, port: u16, path: &str) -> String {
        let url = format!("http://{}:{port}{path}", self.hosts.address(node));
        let output = Command::new("ip")
            .args(["netns", "exec", &self.hosts.host(0)])
            .args(["curl", "-sS", "--max-time", "20", &url])
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until a node answers at port 8080 with this.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn answers(&self, node: usize, text: &str) {
        eventually(&format!("n{node} answers {text:?}"), PATIENCE, || {
            self.fetch(node, 8080, "/") == text
        });
    }

    /// Whether somebody listens at a port of a node.
    pub fn listens(&self, node: usize, port: u16) -> bool {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.hosts.host(node), "ss", "-Hltn"])
            .arg(format!("sport = :{port}"))
            .output()
            .expect("ss runs");
        !output.stdout.is_empty()
    }

    /// Everything that units left on the nodes.
    pub fn leftovers(&self) -> Vec<String> {
        let dir = self.cluster.dir.path().display().to_string();
        let mut left = mounts_beneath(&dir);
        for number in 1..=AGENTS {
            left.extend(interfaces(&self.hosts.host(number)));
        }
        left.extend(control_groups().difference(&self.foreign_groups).cloned());
        left.extend(
            crate::processes_with("/run.sh")
                .into_iter()
                .map(|pid| format!("process {pid}")),
        );
        left
    }
}

impl Fleet {
    /// Kills what a failed test has left in control groups: other tests count processes too.
    fn end_what_is_left(&self) {
        for group in control_groups().difference(&self.foreign_groups) {
            let path = group.trim_start_matches("cgroup ");
            let members = std::fs::read_to_string(format!("{path}/cgroup.procs"));
            for pid in members.unwrap_or_default().lines() {
                let Ok(pid) = pid.parse() else { continue };
                // SAFETY: kill has no memory preconditions; the group is one of this test's units.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Units outlive their agents: whatever the test did, they are cleared while agents live.
        let names = self.cluster.weft(["ps", "-a", "-o", "json"]).run();
        let work: Value = serde_json::from_str(&names.stdout).unwrap_or_default();
        for service in work.as_array().into_iter().flatten() {
            if let Some(name) = service["name"]
                .as_str()
                .filter(|_| service["kind"] == "service")
            {
                let delete = ["delete", "--yes", "--wait", "--timeout", "30s", name];
                let _ = self.cluster.weft(delete).run();
            }
        }
        for mirror in &mut self.mirrors {
            let _ = mirror.kill();
            let _ = mirror.wait();
        }
        if std::thread::panicking() {
            self.end_what_is_left();
            for number in 1..=AGENTS {
                eprintln!("n{number}:\n{}", self.cluster.log(&format!("n{number}")));
            }
        }
    }
}

fn mounts_beneath(dir: &str) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter(|line| line.contains(dir))
        .map(|line| format!("mount {line}"))
        .collect()
}

/// Network interfaces of containers; the namespace's own two and the bridge stay.
fn interfaces(namespace: &str) -> Vec<String> {
    let output = Command::new("ip")
        .args(["-n", namespace, "-o", "link"])
        .output()
        .expect("ip runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter(|line| line.contains("veth") && !line.contains("eth0@"))
        .map(|line| format!("{namespace}: {line}"))
        .collect()
}

fn control_groups() -> BTreeSet<String> {
    let output = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-name", "*wl-*"])
        .output()
        .expect("find runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| format!("cgroup {line}")).collect()
}

/// How a run of `wrk` went.
#[derive(Debug)]
pub struct Load {
    /// What it printed.
    pub text: String,
}

impl Load {
    /// Starts `wrk` on host 0 against a node for some seconds; `None` when it is not installed.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(fleet: &Fleet, node: usize, port: u16, seconds: u32) -> Option<Child> {
        if !is_installed("wrk") {
            eprintln!("skipped: needs wrk");
            return None;
        }
        let url = format!("http://{}:{port}/", fleet.hosts.address(node));
        let child = Command::new("ip")
            .args([
                "netns",
                "exec",
                &fleet.hosts.host(0),
                "nice",
                "wrk",
                "-t1",
                "-c8",
            ])
            .arg(format!("-d{seconds}s"))
            .args(["--timeout", "10s", &url])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        Some(child.expect("wrk starts"))
    }

    /// Ends it early.
    pub fn stop(child: Child) -> Self {
        // SAFETY: kill has no memory preconditions; the child is ours and not yet waited for.
        unsafe { libc::kill(child.id().cast_signed(), libc::SIGINT) };
        Self::finish(child)
    }

    /// Waits for its end.
    pub fn finish(child: Child) -> Self {
        let done = crate::finish(child, Duration::from_secs(180), "wrk");
        Self {
            text: format!("{}{}", done.stdout, done.stderr),
        }
    }

    /// How many requests were answered.
    pub fn requests(&self) -> u64 {
        let line = self.text.lines().find(|line| line.contains("requests in"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok())
            .unwrap_or(0)
    }

    /// Whether every request was answered well.
    pub fn is_flawless(&self) -> bool {
        !self.text.contains("Socket errors") && !self.text.contains("Non-2xx")
    }
}

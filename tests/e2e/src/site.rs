//! A server and one node with an engine of its own, with a registry and a Git server.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_unit::conformance::docker::Docker;
use weft_unit::conformance::git::GitServer;
use weft_unit::conformance::images::{ImageConfig, Pushed, Registry, build, is_installed, missing};

use crate::fleet::{LEASE, lease_args};
use crate::{
    Cluster, Done, Namespaces, PATIENCE, UpOptions, can_make_namespaces, eventually,
    eventually_seen,
};

/// The namespace of Weft that may have what reaches the node.
pub const TRUSTED: &str = "trusted";
const READY: Duration = Duration::from_secs(60);

/// A server on host 0, beside it a Git server; an agent on host 1, with an engine of its own and a
/// registry at the same address that the tests push to.
pub struct Site {
    agent: Option<Child>,
    mirror: Child,
    has_docker: bool,
    /// Ids of services that were seen: control groups of others are not ours to judge.
    seen: Mutex<BTreeSet<String>>,
    /// Docker Engine, unless the node has none.
    pub docker: Option<Docker>,
    /// Where images come from.
    pub registry: Registry,
    /// Where Compose files come from.
    pub git: GitServer,
    /// The server.
    pub cluster: Cluster,
    /// The network of the two hosts.
    pub hosts: Namespaces,
}

impl Site {
    /// Starts everything, with Docker Engine or without any; `None` when this machine lacks
    /// something, which is said.
    ///
    /// # Panics
    /// When something does not start in time.
    pub fn up(has_docker: bool) -> Option<Self> {
        if !can_make_namespaces() {
            return None;
        }
        let engine: &[&str] = if has_docker {
            &["dockerd", "docker-compose"]
        } else {
            &["crun"]
        };
        let programs = ["git", "nsenter", "curl", "redis-server", "ldd"];
        let lacks = programs.iter().chain(engine).find(|it| !is_installed(it));
        if let Some(lacks) = lacks.copied().or_else(missing) {
            eprintln!("skipped: needs {lacks}");
            return None;
        }
        let hosts = Namespaces::new(2);
        let mut args = lease_args(LEASE);
        args.extend(["--allow-privileged".to_owned(), TRUSTED.to_owned()]);
        let cluster = Cluster::with(UpOptions {
            listen: format!("{}:7700", hosts.address(0)),
            namespace: Some(hosts.host(0)),
            args,
            ..UpOptions::default()
        });
        let dir = cluster.dir.path();
        let registry = Registry::start(dir).expect("a registry");
        let mirror = mirror(&hosts.host(1), &registry);
        let listener = listen(&hosts.host(0), &hosts.address(0));
        let git = GitServer::serve(dir, listener, None).expect("a Git server");
        let docker = has_docker.then(|| {
            let dir = dir.join("docker");
            std::fs::create_dir(&dir).expect("a directory");
            Docker::start(&dir, Some(&hosts.host(1))).expect("Docker Engine")
        });
        let mut site = Self {
            agent: None,
            mirror,
            has_docker,
            seen: Mutex::default(),
            docker,
            registry,
            git,
            cluster,
            hosts,
        };
        let token = site.cluster.token();
        site.start_agent(Some(&token));
        Some(site)
    }

    /// Starts the agent, again after it was killed, and waits until it is healthy.
    fn start_agent(&mut self, token: Option<&str>) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.hosts.host(1)));
        let binary = std::env::var_os("WEFT_BIN").expect("WEFT_BIN names the binary");
        if let Some(docker) = &self.docker {
            // An agent looks for the engine where it usually is: it gets a `/run` of its own.
            command.args(["unshare", "--mount", "--propagation", "private", "sh", "-c"]);
            command
                .arg("mount -t tmpfs tmpfs /run && ln -s \"$0\" /run/docker.sock && exec \"$@\"");
            command.arg(docker.host.trim_start_matches("unix://"));
        }
        command.arg(binary).args(["agent", "--id", "n1"]);
        command.arg("--data-dir").arg(self.agent_dir());
        let engine = if self.has_docker { "docker" } else { "oci" };
        command.args(["--engine", engine]);
        if let Some(token) = token {
            command.args(["--token", token]);
        }
        let log = self.cluster.dir.path().join("n1.log");
        let log = File::options().create(true).append(true).open(log);
        let agent = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log file"))
            .spawn()
            .expect("the agent starts");
        self.agent = Some(agent);
        self.cluster.wait_for_state("n1", "healthy");
    }

    /// Kills the agent without a warning and starts it again.
    pub fn kill_agent(&mut self) {
        self.end_agent();
        self.start_agent(None);
    }

    fn end_agent(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }

    /// The agent's data directory.
    pub fn agent_dir(&self) -> PathBuf {
        self.cluster.dir.path().join("n1")
    }

    /// Builds an image and puts it under `NAME:TAG`.
    ///
    /// # Panics
    /// When it cannot be built.
    pub fn push(&self, name_and_tag: &str, config: &ImageConfig) -> Pushed {
        let dir = self.cluster.dir.path();
        let image = build(dir, &name_and_tag.replace(':', "-"), config).expect("an image");
        let pushed = self.registry.push(&image, name_and_tag);
        pushed.expect("it is pushed")
    }

    /// Sets a secret with one key.
    pub fn set_secret(&self, name: &str, key: &str, value: &str) {
        let value_of = format!("{key}=-");
        let set = self.cluster.weft(["secret", "set", name, &value_of]);
        set.stdin(value).run().expect_code(0);
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
        let apply = self.cluster.weft(args);
        apply.timeout(PATIENCE + Duration::from_secs(30)).run()
    }

    /// A service as the API shows it; null when there is none.
    pub fn service(&self, namespace: &str, name: &str) -> Value {
        let service = self.cluster.service(namespace, name);
        if let Some(id) = service["id"].as_str() {
            let mut seen = self.seen.lock().expect("nobody panicked");
            seen.insert(id.to_owned());
        }
        service
    }

    /// Waits until a service is as wanted; it as it was then.
    ///
    /// # Panics
    /// When it is not in time.
    pub fn wait_for(
        &self,
        namespace: &str,
        name: &str,
        what: &str,
        holds: impl FnMut(&Value) -> bool,
    ) -> Value {
        let what = format!("{name}: {what}");
        eventually_seen(&what, PATIENCE, || self.service(namespace, name), holds)
    }

    /// Deletes a service and waits until it is gone.
    pub fn delete(&self, namespace: &str, name: &str) {
        let delete = ["-n", namespace, "delete", name, "--yes", "--wait"];
        let delete = self.cluster.weft(delete);
        delete.timeout(PATIENCE).run().expect_code(0);
    }

    /// What the node answers at a port to somebody on host 0; empty when it does not.
    pub fn fetch(&self, port: u16, path: &str) -> String {
        let url = format!("http://{}:{port}{path}", self.hosts.address(1));
        self.curl(&[url.as_str()]).trim().to_owned()
    }

    /// Sends a push to the server as a Git server does, without credentials; the status.
    pub fn hook(&self, path: &str, body: &str, headers: &[String]) -> String {
        let ca = self.cluster.data_dir().join("pki/admin/ca.pem");
        let ca = ca.display().to_string();
        let resolve = format!("weft:7700:{}", self.hosts.address(0));
        let url = format!("https://weft:7700/v1/hooks/{path}");
        let mut args = vec![
            "--cacert",
            &ca,
            "--resolve",
            &resolve,
            "--data-binary",
            body,
        ];
        for header in headers {
            args.extend(["--header", header]);
        }
        args.extend(["-o", "/dev/null", "-w", "%{http_code}", &url]);
        self.curl(&args)
    }

    fn curl(&self, args: &[&str]) -> String {
        let output = Command::new("ip")
            .args(["netns", "exec", &self.hosts.host(0), "curl", "-sS"])
            .args(["--max-time", "30"])
            .args(args)
            .output()
            .expect("curl runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Everything that units left on the node: in the engine, of the backends' files, mounts and
    /// control groups.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(self.docker.iter().flat_map(Docker::leftovers));
        for place in ["units", "slots", "locks", "sources"] {
            left.extend(entries(&self.agent_dir().join("compose").join(place)));
        }
        left.extend(entries(&self.agent_dir().join("units")));
        if !self.has_docker {
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let dir = self.agent_dir().display().to_string();
            let ours = table.lines().filter(|line| line.contains(&dir));
            left.extend(ours.map(|line| format!("mount {line}")));
        }
        let seen = self.seen.lock().expect("nobody panicked");
        let is_ours = |group: &String| seen.iter().any(|id| group.contains(id));
        left.extend(groups().into_iter().filter(is_ours));
        left
    }

    /// Waits until nothing is left of any unit.
    ///
    /// # Panics
    /// When something is.
    pub fn wait_until_nothing_is_left(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left: {left:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Units outlive their agents: whatever the test did, they are cleared while the agent lives.
        for namespace in ["default", TRUSTED] {
            let list = ["-n", namespace, "ps", "-a", "-o", "json"];
            let list = self.cluster.weft(list).run();
            let work: Value = serde_json::from_str(&list.stdout).unwrap_or_default();
            for service in work.as_array().into_iter().flatten() {
                let name = service["name"].as_str().unwrap_or_default();
                let delete = [
                    "-n",
                    namespace,
                    "delete",
                    "--yes",
                    "--wait",
                    "--timeout",
                    "30s",
                ];
                let _ = self.cluster.weft(delete.into_iter().chain([name])).run();
            }
        }
        self.end_agent();
        let _ = self.mirror.kill();
        let _ = self.mirror.wait();
        if std::thread::panicking() {
            eprintln!("n1:\n{}", self.cluster.log("n1"));
        }
    }
}

/// A listener in a network namespace: a thread that went there for its sake has made it.
fn listen(namespace: &str, address: &str) -> TcpListener {
    let file = File::open(format!("/run/netns/{namespace}")).expect("the namespace");
    let address = format!("{address}:0");
    let made = std::thread::spawn(move || {
        // SAFETY: setns has no memory preconditions; the descriptor is open, and only this thread,
        // which ends here, is moved.
        let moved = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "setns: {}", std::io::Error::last_os_error());
        TcpListener::bind(address).expect("a free port")
    });
    made.join().expect("a listener")
}

/// A registry in a network namespace, with what another one has; it answers.
pub(crate) fn mirror(namespace: &str, registry: &Registry) -> Child {
    let mirror = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["docker-registry", "serve"])
        .arg(registry.config())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a registry in a namespace");
    let url = format!("http://{}/v2/", registry.address);
    eventually("the registry answers on the node", READY, || {
        let mut curl = Command::new("ip");
        curl.args(["netns", "exec", namespace, "curl", "-sSf", &url]);
        curl.output().is_ok_and(|output| output.status.success())
    });
    mirror
}

fn entries(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

/// Control groups of units, of whatever hierarchy.
fn groups() -> Vec<String> {
    let mut find = Command::new("find");
    find.args(["/sys/fs/cgroup", "-type", "d", "-name", "wl-*"]);
    let output = find.output().expect("find runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| format!("cgroup {line}")).collect()
}

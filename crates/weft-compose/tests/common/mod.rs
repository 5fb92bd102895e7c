//! A private Docker engine, images from Debian packages and a Git server, each ended with its test.
#![allow(dead_code)]

pub mod git;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_compose::{Compose, Options};
use weft_types::{ComposeSpec, UnitId, WorkloadId};
use weft_unit::conformance::images::{self, ImageConfig, Registry};
use weft_unit::{Observed, Progress, Secrets, Unit, UnitRuntime, UnitWork};

const READY: Duration = Duration::from_secs(60);
/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// What this machine lacks for these tests.
pub fn missing() -> Option<&'static str> {
    let programs = ["dockerd", "docker-compose", "git", "redis-server", "ldd"];
    let lacks = programs
        .into_iter()
        .find(|program| !images::is_installed(program));
    lacks.or_else(images::missing)
}

/// A `dockerd` of its own.
pub struct Daemon {
    child: Child,
    subnet: String,
    pub dir: TempDir,
    pub host: String,
}

/// Lets containers of a subnet speak with each other where another engine of the machine has closed
/// its forwarding, or ends that.
fn forward(action: &str, subnet: &str) {
    let mut iptables = Command::new("iptables");
    iptables.args([
        "-w", action, "FORWARD", "-s", subnet, "-d", subnet, "-j", "ACCEPT",
    ]);
    // Without `iptables` nothing is closed.
    let _ = iptables.stderr(Stdio::null()).status();
}

impl Daemon {
    pub fn start() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let dir = tempfile::Builder::new().prefix("wc").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let host = format!("unix://{}", at("d.sock").display());
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let subnet = format!(
            "10.{}.0.0/16",
            100 + std::process::id() % 30 * 5 + u32::from(number) % 5
        );
        forward("-I", &subnet);
        let child = Command::new("dockerd")
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args([
                "--host",
                &host,
                "--bridge=none",
                "--iptables=false",
                "--ip6tables=false",
            ])
            .args([
                "--ip-forward=false",
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
            ])
            .arg("--default-address-pool")
            .arg(format!("base={subnet},size=24"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(at("log")).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        let daemon = Self {
            child,
            subnet,
            dir,
            host,
        };
        let end = Instant::now() + READY;
        while daemon.docker(&["version"]).is_err() {
            let log = fs::read_to_string(daemon.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "dockerd does not answer: {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
        daemon
    }

    /// What `docker` prints.
    pub fn docker(&self, args: &[&str]) -> Result<String, String> {
        images::output(
            Command::new("docker")
                .env("DOCKER_HOST", &self.host)
                .args(args),
        )
    }

    fn lines(&self, args: &[&str]) -> Vec<String> {
        let text = self.docker(args).unwrap();
        text.lines()
            .map(|line| format!("{}: {line}", args[0]))
            .collect()
    }

    /// Everything that is there but images.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.lines(&["ps", "-a", "--format", "{{.Names}}"]);
        left.extend(self.lines(&[
            "network",
            "ls",
            "--filter",
            "type=custom",
            "--format",
            "{{.Name}}",
        ]));
        left.extend(self.lines(&["volume", "ls", "--format", "{{.Name}}"]));
        left
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ids = self.docker(&["ps", "-aq"]).unwrap_or_default();
        let mut remove = vec!["rm", "-fv"];
        remove.extend(ids.split_whitespace());
        if remove.len() > 2 {
            let _ = self.docker(&remove);
        }
        let networks = self.docker(&["network", "ls", "-q", "--filter", "type=custom"]);
        for network in networks.unwrap_or_default().split_whitespace() {
            let _ = self.docker(&["network", "rm", network]);
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let end = Instant::now() + Duration::from_secs(20);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        forward("-D", &self.subnet);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.dir.path().display().to_string();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in ours.filter(|mount| mount.starts_with(&root)) {
            let _ = Command::new("umount").args(["-l", mount]).status();
        }
    }
}

/// An engine with a registry, and a backend over it.
pub struct World {
    pub runtime: Arc<Compose>,
    pub registry: Registry,
    pub busybox: String,
    workload: WorkloadId,
    pub daemon: Daemon,
}

impl World {
    pub fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let daemon = Daemon::start();
        let dir = daemon.dir.path();
        let registry = Registry::start(dir).unwrap();
        let image = images::busybox(dir, "busybox", &[]).unwrap();
        let busybox = registry.push(&image, "busybox:1").unwrap().tagged;
        Self {
            runtime: Arc::new(backend(&daemon, "n1", |_| {})),
            registry,
            busybox,
            workload: WorkloadId(u64::from(std::process::id()) << 8 | u64::from(number)),
            daemon,
        }
    }

    /// Redis with the libraries it needs, as Debian has them.
    pub fn redis(&self) -> String {
        let program = "/usr/bin/redis-server";
        let mut files = Vec::new();
        for name in [program, "/usr/bin/redis-cli"] {
            let real = fs::canonicalize(name).unwrap();
            let said = images::output(Command::new("ldd").arg(&real)).unwrap();
            let words = said.split_whitespace();
            let libraries = words.filter(|word| word.starts_with('/'));
            files.extend(libraries.map(|path| (path.to_owned(), fs::read(path).unwrap(), true)));
            files.push((name.to_owned(), fs::read(&real).unwrap(), true));
        }
        let config = ImageConfig {
            entrypoint: vec![program.to_owned()],
            files,
        };
        let image = images::build(self.daemon.dir.path(), "redis", &config).unwrap();
        self.registry.push(&image, "redis:1").unwrap().tagged
    }

    /// A unit of a workload that no other test has.
    pub fn id(&self, number: u32) -> UnitId {
        UnitId {
            workload: self.workload,
            number,
        }
    }

    pub async fn up(&self, unit: &Unit) {
        self.runtime
            .prepare(unit, &Progress::new(String::new()))
            .await
            .unwrap();
        self.runtime.start(unit).await.unwrap();
    }

    pub async fn until(&self, id: UnitId, what: &str, is: impl Fn(&Observed) -> bool) -> Observed {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = self.runtime.observe(id).await.unwrap();
            if is(&seen) {
                return seen;
            }
            assert!(Instant::now() < end, "not in time: {what}; {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is left of any unit: in the engine, in groups, on disk.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.daemon.leftovers();
        let data = self.daemon.dir.path().join("weft-n1");
        for place in ["units", "slots", "locks"] {
            left.extend(entries(&data.join(place)));
        }
        let prefix = format!("weft-compose-{}-", node(&self.daemon, "n1"));
        left.extend(
            entries(Path::new("/dev/shm"))
                .into_iter()
                .filter(|path| path.contains(&prefix)),
        );
        left
    }
}

/// A name of this engine's node that no other test has.
pub fn node(daemon: &Daemon, name: &str) -> String {
    let unique: String = daemon
        .host
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    format!("{name}-{}", unique.to_ascii_lowercase())
}

pub fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path().display().to_string())
        .collect()
}

pub fn backend(daemon: &Daemon, name: &str, change: impl FnOnce(&mut Options)) -> Compose {
    let data_dir: PathBuf = daemon.dir.path().join(format!("weft-{name}"));
    let mut options = Options::new(data_dir, node(daemon, name).parse().unwrap());
    options.docker_host = Some(daemon.host.clone());
    options.allow_loopback_git = true;
    change(&mut options);
    Compose::open(options).unwrap()
}

/// A unit of an application.
pub fn unit(id: UnitId, revision: u64, spec: ComposeSpec) -> Unit {
    Unit {
        id,
        namespace: Default::default(),
        name: "app".parse().unwrap(),
        revision,
        work: UnitWork::Compose(Box::new(spec)),
        resources: Default::default(),
        secrets: Secrets::default(),
    }
}

pub fn inline(text: impl Into<String>) -> ComposeSpec {
    ComposeSpec {
        inline: Some(text.into()),
        ..ComposeSpec::default()
    }
}

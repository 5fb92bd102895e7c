//! What tests stand on: a registry with an image, and backends over directories of their own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use weft_oci::{MonitorCommand, Oci, Options};
use weft_types::{Bytes, ContainerSpec, Millicores, Resources, UnitId, WorkloadId};
use weft_unit::conformance::images::{self, Pushed, Registry};
use weft_unit::conformance::{Abilities, Program, Subject};
use weft_unit::{Secrets, Unit, UnitRuntime, UnitWork};
use weft_volumes::{HostPaths, Volumes};

pub const MONITOR: &str = "oci-monitor";

/// Why a test cannot be run here.
pub fn missing(programs: &[&str]) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("root".into());
    }
    images::missing()
        .or_else(|| {
            programs
                .iter()
                .copied()
                .find(|program| !images::is_installed(program))
        })
        .map(str::to_owned)
}

/// Runs a test on a runtime of its own, unless the machine lacks something.
pub fn with_ground(programs: &[&str], test: impl AsyncFnOnce(&Ground)) {
    if let Some(missing) = missing(programs) {
        println!("skipped: needs {missing}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let ground = Ground::new();
    runtime.block_on(test(&ground));
}

/// A directory, a registry in it, and an image in that.
pub struct Ground {
    pub dir: tempfile::TempDir,
    pub registry: Registry,
    pub image: Pushed,
}

impl Ground {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("weft-oci-")
            .tempdir()
            .expect("a directory");
        let registry = Registry::start(dir.path()).expect("a registry");
        let image = images::busybox(dir.path(), "busybox", &[]).expect("an image");
        let image = registry.push(&image, "busybox:1").expect("a push");
        Self {
            dir,
            registry,
            image,
        }
    }

    pub fn node(&self, name: &str) -> Node {
        Node::new(self.dir.path(), name, &["crun", "runc"])
    }
}

/// The parts from which a backend of a node is opened, as often as wanted.
#[derive(Clone)]
pub struct Node {
    pub name: String,
    pub data_dir: PathBuf,
    pub runtimes: Vec<String>,
}

impl Node {
    pub fn new(dir: &Path, name: &str, runtimes: &[&str]) -> Self {
        Self {
            name: format!("{name}-{}", std::process::id()),
            data_dir: dir.join(name),
            runtimes: runtimes.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    pub fn open(&self) -> Oci {
        let volumes = Volumes::open(weft_volumes::Options {
            dir: self.data_dir.join("volumes"),
            host_paths: HostPaths::refusing([]),
        });
        let monitor = MonitorCommand {
            program: std::env::current_exe().expect("our own path"),
            args: vec![MONITOR.into()],
        };
        let node = self.name.parse().expect("a node id");
        let mut options = Options::new(
            self.data_dir.join("oci"),
            node,
            monitor,
            volumes.expect("volumes"),
        );
        options.runtimes = self.runtimes.clone();
        Oci::open(options).expect("a backend")
    }

    fn hash(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.name.as_bytes());
        hex::encode(&digest.as_ref()[..4])
    }

    /// What is there of the node's units outside of its caches.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for part in ["units", "exits", "locks", "addresses"] {
            left.extend(names(&self.data_dir.join("oci").join(part)));
        }
        let group = format!("weft-{}", self.hash());
        for hierarchy in names(Path::new("/sys/fs/cgroup")) {
            let dir = Path::new(&hierarchy).join(&group);
            if dir.exists() {
                left.push(dir.display().to_string());
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.data_dir.display().to_string();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&ours))
                .map(str::to_owned),
        );
        let links = images::output(std::process::Command::new("ip").args(["-o", "link"]));
        let prefixes = ["wv", "weft"];
        let is_ours = |line: &&str| {
            let name = line.split_whitespace().nth(1).unwrap_or_default();
            prefixes.iter().any(|prefix| name.starts_with(prefix))
        };
        // Other tests may be at work in the same network namespace.
        if std::env::var_os("WEFT_TEST_ALONE").is_some() {
            let links = links.unwrap_or_default();
            left.extend(links.lines().filter(is_ours).map(str::to_owned));
        }
        left
    }
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths.map(|path| path.display().to_string()).collect()
}

/// A new unit that runs a command in the image.
pub fn unit(image: &str, command: &[&str]) -> Unit {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let count = NEXT.fetch_add(1, Ordering::Relaxed);
    let workload = WorkloadId((u64::from(std::process::id()) << 32) | (count << 8));
    let spec = ContainerSpec {
        image: image.to_owned(),
        command: command.iter().map(|&word| word.to_owned()).collect(),
        ..ContainerSpec::default()
    };
    of_spec(
        UnitId {
            workload,
            number: 1,
        },
        spec,
    )
}

pub fn of_spec(id: UnitId, spec: ContainerSpec) -> Unit {
    Unit {
        id,
        namespace: "default".parse().expect("a namespace"),
        name: "test".parse().expect("a name"),
        revision: 7,
        work: UnitWork::Container(Box::new(spec)),
        resources: Resources {
            cpu: Millicores(1000),
            memory: Bytes(256 << 20),
            ..Resources::default()
        },
        secrets: Secrets::default(),
        may_be_privileged: false,
    }
}

pub fn spec(unit: &mut Unit) -> &mut ContainerSpec {
    match &mut unit.work {
        UnitWork::Container(spec) => spec,
        other => panic!("{other:?}"),
    }
}

/// The subject of the suite.
pub struct Tested {
    pub node: Node,
    pub stranger: Node,
    pub runtime: Oci,
    pub image: Pushed,
    pub class: String,
    pub abilities: Abilities,
    pub left_out: BTreeMap<&'static str, &'static str>,
}

#[async_trait]
impl Subject for Tested {
    fn runtime(&self) -> Arc<dyn UnitRuntime> {
        Arc::new(self.runtime.clone())
    }

    async fn restarted(&self) -> Arc<dyn UnitRuntime> {
        Arc::new(self.node.open())
    }

    async fn stranger(&self) -> Option<Arc<dyn UnitRuntime>> {
        Some(Arc::new(self.stranger.open()))
    }

    fn unit(&self, id: UnitId, program: Program) -> Unit {
        let wrong = format!("sha256:{}", "0".repeat(64));
        let repository = self.image.tagged.trim_end_matches(":1");
        let image = match program {
            Program::MissingImage => format!("{repository}-missing:1"),
            Program::WrongDigest => format!("{repository}@{wrong}"),
            _ => self.image.tagged.clone(),
        };
        let script = program.script();
        let spec = ContainerSpec {
            image,
            command: ["/bin/sh", "-c", script.as_str()]
                .map(str::to_owned)
                .to_vec(),
            runtime_class: Some(self.class.clone()),
            pids: (program == Program::ForkBomb).then_some(64),
            ..ContainerSpec::default()
        };
        let mut unit = of_spec(id, spec);
        unit.resources.memory = Bytes(match program {
            Program::MemoryHog => 48 << 20,
            _ => 256 << 20,
        });
        unit
    }

    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn not_applicable(&self, scenario: &str) -> Option<String> {
        self.left_out.get(scenario).map(|&why| why.to_owned())
    }

    async fn instances(&self, id: UnitId) -> Option<usize> {
        // Every container of a unit is in its control group.
        let group = format!("weft-{}/{id}", self.node.hash());
        let roots = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];
        if names(Path::new(roots[1])).is_empty() {
            return None;
        }
        let found = roots
            .iter()
            .filter(|root| Path::new(root).join(&group).exists());
        Some(found.count())
    }

    async fn leftovers(&self) -> Vec<String> {
        self.node.leftovers()
    }
}

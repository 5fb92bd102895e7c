//! A private Docker engine and images from Debian packages, ended with their test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_compose::{Compose, Options};
use weft_types::{ComposeSpec, UnitId, WorkloadId};
use weft_unit::conformance::docker::Docker;
use weft_unit::conformance::images::{self, ImageConfig, Registry};
use weft_unit::{Observed, Progress, Secrets, Unit, UnitRuntime, UnitWork};

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

/// A `dockerd` with a directory of its own.
pub struct Daemon {
    engine: Docker,
    pub dir: TempDir,
    pub host: String,
}

impl Daemon {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("wc").tempdir().unwrap();
        let engine = Docker::start(dir.path(), None).unwrap();
        let host = engine.host.clone();
        Self { engine, dir, host }
    }

    /// What `docker` prints.
    pub fn docker(&self, args: &[&str]) -> Result<String, String> {
        self.engine.run(args)
    }

    /// Everything that is there but images.
    pub fn leftovers(&self) -> Vec<String> {
        self.engine.leftovers()
    }
}

/// An engine with a registry, and a backend over it.
pub struct World {
    pub runtime: Arc<Compose>,
    pub registry: Registry,
    pub busybox: String,
    workload: WorkloadId,
    pub daemon: Daemon,
    traces: Traces,
}

/// What of a failed test's units is outside of the engine and of its directory. Dropped after the
/// engine, which holds the groups.
#[derive(Default)]
struct Traces {
    units: Vec<UnitId>,
    scratch: Vec<String>,
}

impl Drop for Traces {
    fn drop(&mut self) {
        let mount = Path::new("/sys/fs/cgroup");
        let roots = entries(mount).into_iter();
        for root in roots.chain([mount.display().to_string()]) {
            let above = Path::new(&root).join("weft-compose");
            for unit in &self.units {
                let group = above.join(unit.to_string());
                for inner in entries(&group) {
                    let _ = fs::remove_dir(inner);
                }
                let _ = fs::remove_dir(group);
            }
            // It stays as long as there are others' units in it.
            let _ = fs::remove_dir(above);
        }
        for path in &self.scratch {
            let _ = fs::remove_dir_all(path);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let units = entries(&self.data().join("units"));
        let names = units.iter().filter_map(|path| path.rsplit('/').next());
        self.traces.units = names.filter_map(|name| name.parse().ok()).collect();
        self.traces.scratch = self.scratch();
    }
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
            traces: Traces::default(),
        }
    }

    /// Redis with the libraries it needs, as Debian has them.
    pub fn redis(&self) -> String {
        let program = "/usr/bin/redis-server";
        let config = ImageConfig {
            entrypoint: vec![program.to_owned()],
            files: images::programs(&[program, "/usr/bin/redis-cli"]).unwrap(),
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
        let data = self.data();
        for place in ["units", "slots", "locks"] {
            left.extend(entries(&data.join(place)));
        }
        left.extend(self.scratch());
        left
    }

    fn data(&self) -> PathBuf {
        self.daemon.dir.path().join("weft-n1")
    }

    /// Directories in memory, with variables of units.
    fn scratch(&self) -> Vec<String> {
        let prefix = format!("weft-compose-{}-", node(&self.daemon, "n1"));
        let mut all = entries(Path::new("/dev/shm"));
        all.retain(|path| path.contains(&prefix));
        all
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
        may_be_privileged: false,
    }
}

pub fn inline(text: impl Into<String>) -> ComposeSpec {
    ComposeSpec {
        inline: Some(text.into()),
        ..ComposeSpec::default()
    }
}

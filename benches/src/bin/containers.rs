//! A container's whole life beside `docker run`, `podman run` and bare `crun`:
//! `./x bench containers`.
//!
//! Each runs `true` of the same busybox image without a network and removes it again; the image is
//! there. They take turns, so that a slow moment of the machine touches all.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_benches::{Table, median};
use weft_engine::Engine;
use weft_oci::{MonitorCommand, Oci};
use weft_types::{ContainerSpec, NetworkMode, Resources, UnitId, WorkloadId};
use weft_unit::conformance::images::{
    Registry, busybox, is_installed, missing, output, root_file_system,
};
use weft_unit::{Phase, Progress, Secrets, Unit, UnitRuntime, UnitWork};
use weft_volumes::{HostPaths, Volumes};

/// The argument with which this program is the monitor of a container.
const MONITOR: &str = "oci-monitor";
const ROUNDS: u32 = 11;
const READY: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() {
    if std::env::args().nth(1).as_deref() == Some(MONITOR) {
        std::process::exit(
            if weft_oci::monitor::main() == std::process::ExitCode::SUCCESS {
                0
            } else {
                1
            },
        );
    }
    if let Some(program) = missing() {
        println!("skipped: needs {program}");
        return;
    }
    without_hybrid_groups();
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(dir.path()).expect("a registry");
    let image = busybox(dir.path(), "busybox", &[]).expect("an image");
    let image = registry.push(&image, "busybox:1").expect("pushed").tagged;
    let mut contestants = contestants(dir.path(), &registry.address, &image).await;
    for contestant in &mut contestants {
        contestant.run(0).await;
    }
    for round in 1..=ROUNDS {
        for contestant in &mut contestants {
            let begun = Instant::now();
            contestant.run(round).await;
            contestant
                .times
                .push(begun.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    report(&contestants);
}

/// Starts this program again where only the first version of control groups is mounted, if both
/// are: crun refuses to work there, and all are to have the same.
fn without_hybrid_groups() {
    const SECOND: &str = "/sys/fs/cgroup/unified";
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("the mounts");
    if !mounts.contains(&format!(" {SECOND} ")) {
        return;
    }
    let script = format!("umount --lazy {SECOND} && exec \"$0\" \"$@\"");
    let failed = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .args(std::env::args_os())
        .exec();
    panic!("unshare: {failed}");
}

/// Something that runs a container from its start to its removal.
struct Contestant {
    name: &'static str,
    how: How,
    times: Vec<f64>,
    /// The engine's process, which ends with this.
    _engine: Option<Killed>,
}

enum How {
    Command(Vec<String>),
    Unit(Box<dyn UnitRuntime>, String),
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Asked, so that it removes what it has mounted.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

impl Contestant {
    async fn run(&self, round: u32) {
        match &self.how {
            How::Command(words) => {
                let ran = output(Command::new(&words[0]).args(&words[1..]));
                ran.unwrap_or_else(|error| panic!("{}: {error}", self.name));
            }
            How::Unit(runtime, image) => {
                let unit = unit(image, round);
                let lived = live(runtime.as_ref(), &unit).await;
                lived.unwrap_or_else(|error| panic!("{}: {error}", self.name));
            }
        }
    }
}

async fn live(runtime: &dyn UnitRuntime, unit: &Unit) -> Result<(), weft_unit::Error> {
    runtime.prepare(unit, &Progress::new(String::new())).await?;
    runtime.start(unit).await?;
    while !matches!(runtime.observe(unit.id).await?.phase, Phase::Exited { .. }) {
        // What is told late, or not at all, is looked for.
        let _ = tokio::time::timeout(Duration::from_millis(100), runtime.changed()).await;
    }
    runtime.remove(unit.id, false).await
}

fn unit(image: &str, number: u32) -> Unit {
    let spec = ContainerSpec {
        image: image.to_owned(),
        command: vec!["true".to_owned()],
        network: NetworkMode::None,
        ..ContainerSpec::default()
    };
    Unit {
        id: UnitId {
            workload: WorkloadId(12),
            number: number + 1,
        },
        namespace: Default::default(),
        name: "bench".parse().expect("a name"),
        revision: 1,
        work: UnitWork::Container(Box::new(spec)),
        resources: Resources::default(),
        secrets: Secrets::default(),
        may_be_privileged: false,
    }
}

fn contestant(name: &'static str, how: How, engine: Option<Killed>) -> Contestant {
    Contestant {
        name,
        how,
        times: Vec::new(),
        _engine: engine,
    }
}

fn words(line: &str) -> How {
    How::Command(line.split_whitespace().map(str::to_owned).collect())
}

async fn contestants(dir: &Path, registry: &str, image: &str) -> Vec<Contestant> {
    let mut all = vec![contestant("weft, no engine", direct(dir, image), None)];
    let bundle = bundle(dir);
    if is_installed("crun") {
        all.push(contestant("crun run", bare(dir, &bundle, "crun"), None));
    }
    if is_installed("runc") {
        all.push(contestant("runc run", bare(dir, &bundle, "runc"), None));
    }
    if is_installed("dockerd") {
        let socket = dir.join("docker.sock");
        let daemon = docker(dir, &socket).await;
        let options = weft_engine::Options::new(
            socket.clone(),
            "bench".parse().expect("an id"),
            dir.join("weft-docker"),
        );
        let engine = Engine::new(options).expect("an engine");
        let how = How::Unit(Box::new(engine), image.to_owned());
        all.push(contestant("weft on Docker", how, None));
        let line = format!(
            "docker -H unix://{} run --rm --network none {image}",
            socket.display()
        );
        let how = words(&format!("{line} -c true"));
        all.push(contestant("docker run", how, Some(daemon)));
    }
    if is_installed("podman") {
        all.push(contestant("podman run", podman(dir, registry, image), None));
    }
    all
}

fn direct(dir: &Path, image: &str) -> How {
    let volumes = Volumes::open(weft_volumes::Options {
        dir: dir.join("volumes"),
        host_paths: HostPaths::refusing([]),
    });
    let monitor = MonitorCommand {
        program: std::env::current_exe().expect("this program"),
        args: vec![MONITOR.into()],
    };
    let options = weft_oci::Options::new(
        dir.join("oci"),
        "bench".parse().expect("an id"),
        monitor,
        volumes.expect("volumes"),
    );
    let oci = Oci::open(options).expect("the backend");
    How::Unit(Box::new(oci), image.to_owned())
}

/// A bundle with the least that works, so that only the runtime itself is measured.
fn bundle(dir: &Path) -> PathBuf {
    let bundle = dir.join("bundle");
    root_file_system(&bundle.join("rootfs")).expect("a root file system");
    let runtime = if is_installed("runc") { "runc" } else { "crun" };
    if is_installed(runtime) {
        output(Command::new(runtime).arg("spec").current_dir(&bundle)).expect("a specification");
        let file = bundle.join("config.json");
        let text = std::fs::read_to_string(&file).expect("a specification");
        let text = text
            .replace("\"terminal\": true", "\"terminal\": false")
            .replace("\"sh\"", "\"true\"");
        std::fs::write(&file, text).expect("a specification");
    }
    bundle
}

/// Runs a bundle by a runtime alone.
fn bare(dir: &Path, bundle: &Path, runtime: &str) -> How {
    words(&format!(
        "{runtime} --root {} run --bundle {} weft-bench-{}",
        dir.join("runtime").display(),
        bundle.display(),
        std::process::id()
    ))
}

async fn docker(dir: &Path, socket: &PathBuf) -> Killed {
    let log = std::fs::File::create(dir.join("docker.log")).expect("a log");
    let child = Command::new("dockerd")
        .arg("--data-root")
        .arg(dir.join("docker"))
        .arg("--exec-root")
        .arg(dir.join("docker-exec"))
        .arg("--pidfile")
        .arg(dir.join("docker.pid"))
        .arg("--host")
        .arg(format!("unix://{}", socket.display()))
        .args(["--bridge", "none", "--iptables=false", "--ip-masq=false"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("dockerd starts");
    let daemon = Killed(child);
    let end = Instant::now() + READY;
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < end, "dockerd does not listen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    daemon
}

fn podman(dir: &Path, registry: &str, image: &str) -> How {
    let registries = dir.join("registries.conf");
    let text = format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n");
    std::fs::write(&registries, text).expect("a file");
    words(&format!(
        "env CONTAINERS_REGISTRIES_CONF={} podman --root {} --runroot {} --tmpdir {} \
         --cgroup-manager cgroupfs --events-backend file run --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --rm --network none \
         --entrypoint /bin/true {image}",
        registries.display(),
        dir.join("podman").display(),
        dir.join("podman-run").display(),
        dir.join("podman-tmp").display(),
    ))
}

fn report(contestants: &[Contestant]) {
    let mut table = Table::new("containers");
    let time = |name: &str| {
        let found = contestants
            .iter()
            .find(|contestant| contestant.name == name);
        found.map(|contestant| median(contestant.times.clone()))
    };
    for contestant in contestants {
        table.row(contestant.name, median(contestant.times.clone()), "ms");
    }
    let ratios = [
        (
            "weft on Docker beside docker run",
            "weft on Docker",
            "docker run",
        ),
        (
            "docker run beside weft, no engine",
            "docker run",
            "weft, no engine",
        ),
        (
            "podman run beside weft, no engine",
            "podman run",
            "weft, no engine",
        ),
        (
            "weft, no engine, beside crun run",
            "weft, no engine",
            "crun run",
        ),
    ];
    for (what, one, other) in ratios {
        match (time(one), time(other)) {
            (Some(one), Some(other)) => table.row(what, one / other, "times"),
            _ => table.skipped(what, "docker, podman and crun"),
        }
    }
    table.finish();
}

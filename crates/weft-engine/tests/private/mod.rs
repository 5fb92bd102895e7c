//! Engines of a test's own: their directories, sockets, bridges and control groups are nobody
//! else's, and all of it is gone when they are dropped.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_unit::conformance::images::{free_port, is_installed, output};

/// A loaded machine takes its time.
const READY: Duration = Duration::from_secs(120);
const GOODBYE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A program of an engine, with what is its own.
pub struct PrivateEngine {
    child: Child,
    /// Everything of it is in here.
    pub dir: tempfile::TempDir,
    /// Where it answers.
    pub socket: PathBuf,
    bridge: String,
    is_podman: bool,
    /// Mounts that it has while it runs nothing.
    mounts_before: Vec<String>,
}

/// A network that nobody has: the bridge's name, and the first three numbers of its addresses.
fn free_network() -> (String, String) {
    let routes = output(Command::new("ip").args(["route", "show"])).unwrap_or_default();
    loop {
        // A free port is a number that nobody else gets at the same time.
        let number = free_port().expect("a free port");
        let prefix = format!("10.{}.{}", 200 + number / 256 % 50, number % 256);
        if !routes.contains(&format!("{prefix}.")) {
            return (format!("wfe{number}"), prefix);
        }
    }
}

fn ip(args: &[&str]) -> Result<String, String> {
    output(Command::new("ip").args(args))
}

fn spawned(command: &mut Command, log: &Path) -> Child {
    let file = fs::File::create(log).expect("a log");
    let errors = file.try_clone().expect("a log");
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .expect("the engine starts")
}

/// Podman over a directory of its own.
fn podman(dir: &Path) -> Command {
    let mut command = Command::new("podman");
    let dirs = [
        ("--root", "root"),
        ("--runroot", "run"),
        ("--tmpdir", "tmp"),
        ("--network-config-dir", "net"),
    ];
    for (flag, name) in dirs {
        command.arg(flag).arg(dir.join(name));
    }
    command
        .args(["--cgroup-manager", "cgroupfs", "--events-backend", "file"])
        .env("CONTAINERS_CONF", dir.join("containers.conf"));
    command
}

impl PrivateEngine {
    /// Docker Engine; `None` when it is not installed.
    pub fn docker() -> Option<Self> {
        if !is_installed("dockerd") || !is_installed("ip") {
            eprintln!("skipped: needs dockerd (apt docker.io) and ip (apt iproute2)");
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("wfd")
            .tempdir()
            .expect("a directory");
        let (bridge, prefix) = free_network();
        ip(&["link", "add", &bridge, "type", "bridge"]).expect("a bridge");
        ip(&["addr", "add", &format!("{prefix}.1/24"), "dev", &bridge]).expect("an address");
        ip(&["link", "set", &bridge, "up"]).expect("a bridge that is up");
        let at = |name: &str| dir.path().join(name);
        let socket = at("docker.sock");
        let mut command = Command::new("dockerd");
        command
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("--host")
            .arg(format!("unix://{}", socket.display()))
            .arg("--bridge")
            .arg(&bridge)
            .arg("--cgroup-parent")
            .arg(format!("/{bridge}"))
            // Nothing here reaches the network, and rules would be everybody's.
            .args(["--iptables=false", "--ip-masq=false", "--ip-forward=false"])
            .args(["--shutdown-timeout", "1"]);
        let child = spawned(&mut command, &at("log"));
        Some(Self::ready(child, dir, socket, bridge, false))
    }

    /// Podman's service; `None` when it is not installed. `registry` is spoken to in plain HTTP.
    pub fn podman(registry: &str) -> Option<Self> {
        if !is_installed("podman") || !is_installed("ip") {
            eprintln!("skipped: needs podman (apt podman netavark) and ip (apt iproute2)");
            return None;
        }
        let dir = tempfile::Builder::new()
            .prefix("wfp")
            .tempdir()
            .expect("a directory");
        let (bridge, prefix) = free_network();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("net")).expect("a directory");
        let network = serde_json::json!({
            "name": "podman", "driver": "bridge", "network_interface": bridge,
            "id": "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9",
            "created": "2026-01-01T00:00:00Z",
            "subnets": [{"subnet": format!("{prefix}.0/24"), "gateway": format!("{prefix}.1")}],
            "ipv6_enabled": false, "internal": false, "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        });
        fs::write(at("net/podman.json"), network.to_string()).expect("a file");
        let registries = format!("[[registry]]\nlocation = \"{registry}\"\ninsecure = true\n");
        fs::write(at("registries.conf"), registries).expect("a file");
        // Those in shared memory are every podman's, and one that is new frees them all.
        fs::write(at("containers.conf"), "[engine]\nlock_type = \"file\"\n").expect("a file");
        let socket = at("podman.sock");
        let mut command = podman(dir.path());
        command
            // crun refuses to work where both versions of control groups are mounted.
            .args(if is_hybrid() {
                &["--runtime", "runc"][..]
            } else {
                &[]
            })
            .args(["system", "service", "--time=0"])
            .arg(format!("unix://{}", socket.display()))
            .env("CONTAINERS_REGISTRIES_CONF", at("registries.conf"));
        let child = spawned(&mut command, &at("log"));
        Some(Self::ready(child, dir, socket, bridge, true))
    }

    fn ready(
        child: Child,
        dir: tempfile::TempDir,
        socket: PathBuf,
        bridge: String,
        is_podman: bool,
    ) -> Self {
        let mut engine = Self {
            child,
            dir,
            socket,
            bridge,
            is_podman,
            mounts_before: Vec::new(),
        };
        let end = Instant::now() + READY;
        while UnixStream::connect(&engine.socket).is_err() {
            let has_ended = matches!(engine.child.try_wait(), Ok(Some(_)) | Err(_));
            if has_ended || Instant::now() > end {
                panic!("the engine does not listen: {}", engine.log());
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        engine.mounts_before = engine.mounts();
        engine
    }

    /// What it printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// What is there of containers, seen from the outside.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.processes();
        let mounts = self.mounts().into_iter();
        left.extend(mounts.filter(|mount| !self.mounts_before.contains(mount)));
        let members = Path::new("/sys/class/net").join(&self.bridge).join("brif");
        left.extend(names(&members).map(|name| format!("interface {name}")));
        for group in groups(&self.bridge) {
            let inner = names(&group).filter(|name| group.join(name).is_dir());
            left.extend(inner.map(|name| format!("control group {}", group.join(name).display())));
        }
        left
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let dir = self.dir.path().to_string_lossy().into_owned();
        table
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&dir))
            // The image store of podman is bound to itself as soon as it is used.
            .filter(|point| !point.ends_with("/overlay"))
            .map(|point| format!("mount {point}"))
            .collect()
    }

    /// Processes in a mount namespace of their own that have the engine's layers for their root.
    fn processes(&self) -> Vec<String> {
        let own = fs::read_link("/proc/self/ns/mnt").ok();
        let dir = self.dir.path().to_string_lossy().into_owned();
        names(Path::new("/proc"))
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            .filter(|pid| {
                let proc = Path::new("/proc").join(pid);
                let root = fs::read_to_string(proc.join("mountinfo")).unwrap_or_default();
                let root = root
                    .lines()
                    .find(|line| line.split(' ').nth(4) == Some("/"));
                fs::read_link(proc.join("ns/mnt")).ok() != own
                    && root.is_some_and(|line| line.contains(&dir) && line.contains("overlay"))
            })
            .map(|pid| {
                let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                format!("process {pid} {}", line.replace('\0', " "))
            })
            .collect()
    }

    fn say_goodbye(&mut self) {
        if self.is_podman {
            let mut command = podman(self.dir.path());
            let _ = output(command.args(["rm", "--all", "--force", "--time", "0"]));
        }
        let pid = self.child.id().to_string();
        let _ = output(Command::new("kill").args(["-TERM", &pid]));
        let end = Instant::now() + GOODBYE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
            std::thread::sleep(LOOK_INTERVAL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends what the engine itself did not: whatever is in its control groups, or was started with
    /// its directory among the arguments.
    fn end_processes(&self) {
        let dir = self.dir.path().to_string_lossy().into_owned();
        let own = std::process::id().to_string();
        for pid in names(Path::new("/proc")).filter(|name| *name != own) {
            let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
            let is_its = read("cmdline").is_ok_and(|line| line.contains(&format!("{dir}/")))
                || read("cgroup")
                    .is_ok_and(|groups| groups.contains(&format!("/{}/", self.bridge)));
            if is_its {
                let _ = output(Command::new("kill").args(["-KILL", &pid]));
            }
        }
    }
}

impl Drop for PrivateEngine {
    fn drop(&mut self) {
        self.say_goodbye();
        self.end_processes();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let mut points: Vec<&str> = points.collect();
        points.retain(|point| Path::new(point).starts_with(self.dir.path()));
        for point in points.iter().rev() {
            let _ = output(Command::new("umount").args(["-l", point]));
        }
        let _ = ip(&["link", "del", &self.bridge]);
        for group in groups(&self.bridge) {
            for inner in names(&group) {
                let _ = fs::remove_dir(group.join(inner));
            }
            let _ = fs::remove_dir(group);
        }
    }
}

fn names(dir: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// The directories of a control group in every hierarchy.
fn groups(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = names(root).map(|hierarchy| root.join(hierarchy));
    let candidates = hierarchies.chain([root.to_owned()]);
    candidates
        .map(|hierarchy| hierarchy.join(name))
        .filter(|group| group.is_dir())
        .collect()
}

/// Whether both versions of control groups are mounted.
pub fn is_hybrid() -> bool {
    Path::new("/sys/fs/cgroup/unified").is_dir()
}

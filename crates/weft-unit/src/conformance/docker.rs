//! A Docker Engine of a test's own, from Debian's `docker.io`.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::images::output;

const READY: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(20);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A `dockerd` with a directory, a socket and networks of its own; ended when dropped, with all of
/// its containers.
#[derive(Debug)]
pub struct Docker {
    child: Child,
    dir: PathBuf,
    subnet: String,
    is_shared: bool,
    /// Its socket, as in `DOCKER_HOST`: `unix://…`.
    pub host: String,
}

impl Docker {
    /// Starts one beneath a directory, whose path has to be short: a socket's has 107 bytes. In a
    /// network namespace, if one is named, it is alone; otherwise it shares the machine's network.
    ///
    /// # Errors
    /// That it does not start, with what it printed.
    pub fn start(dir: &Path, namespace: Option<&str>) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Of each process eight, with 32 networks each.
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % 8;
        let subnet = format!("10.{}.{}.0/19", 100 + std::process::id() % 100, 32 * number);
        let at = |name: &str| dir.join(name);
        let host = format!("unix://{}", at("d.sock").display());
        let log = fs::File::create(at("dockerd.log")).map_err(|error| error.to_string())?;
        let mut command = match namespace {
            None => Command::new("dockerd"),
            Some(name) => {
                // `ip netns exec` would hide the control groups.
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}"));
                command.arg("dockerd");
                command
            }
        };
        command
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .args(["--host", &host, "--bridge=none", "--iptables=false"])
            .args(["--ip6tables=false", "--ip-forward=false"])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg("--default-address-pool")
            .arg(format!("base={subnet},size=24"));
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|error| format!("dockerd: {error}"))?;
        let docker = Self {
            child,
            dir: dir.to_owned(),
            subnet,
            is_shared: namespace.is_none(),
            host,
        };
        docker.forward("-I");
        docker.wait_until_ready()?;
        Ok(docker)
    }

    fn wait_until_ready(&self) -> Result<(), String> {
        let end = Instant::now() + READY;
        while self.run(&["version"]).is_err() {
            if Instant::now() > end {
                let log = self.dir.join("dockerd.log");
                let said = fs::read_to_string(log).unwrap_or_default();
                return Err(format!("dockerd does not answer: {said}"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Lets its containers speak with each other where another engine of the machine has closed its
    /// forwarding, or ends that.
    fn forward(&self, action: &str) {
        if !self.is_shared {
            return;
        }
        let mut iptables = Command::new("iptables");
        let subnet = self.subnet.as_str();
        iptables.args(["-w", action, "FORWARD", "-s", subnet, "-d", subnet]);
        // Without `iptables` nothing is closed.
        let _ = iptables
            .args(["-j", "ACCEPT"])
            .stderr(Stdio::null())
            .status();
    }

    /// What `docker` prints.
    ///
    /// # Errors
    /// What it says.
    pub fn run(&self, args: &[&str]) -> Result<String, String> {
        let mut docker = Command::new("docker");
        output(docker.env("DOCKER_HOST", &self.host).args(args))
    }

    /// Everything that is there but images: containers, networks and volumes.
    pub fn leftovers(&self) -> Vec<String> {
        let lists: [&[&str]; 3] = [
            &["ps", "-a", "--format", "container {{.Names}}"],
            &["network", "ls", "--filter", "type=custom"],
            &["volume", "ls", "--format", "volume {{.Name}}"],
        ];
        let mut left = Vec::new();
        for list in lists {
            let mut args = list.to_vec();
            if list[0] == "network" {
                args.extend(["--format", "network {{.Name}}"]);
            }
            match self.run(&args) {
                Ok(text) => left.extend(text.lines().map(str::to_owned)),
                Err(error) => left.push(error),
            }
        }
        left
    }

    fn kill(&self, signal: &str, target: &str) {
        let _ = Command::new("kill").args([signal, "--", target]).status();
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let ids = self.run(&["ps", "-aq"]).unwrap_or_default();
        let mut remove = vec!["rm", "-fv"];
        remove.extend(ids.split_whitespace());
        if remove.len() > 2 {
            let _ = self.run(&remove);
        }
        let networks = self.run(&["network", "ls", "-q", "--filter", "type=custom"]);
        for network in networks.unwrap_or_default().split_whitespace() {
            let _ = self.run(&["network", "rm", network]);
        }
        let pid = self.child.id();
        self.kill("-TERM", &pid.to_string());
        let end = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > end {
                self.kill("-KILL", &format!("-{pid}"));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.forward("-D");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let root = self.dir.display().to_string();
        let ours = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in ours.filter(|mount| mount.starts_with(&root)) {
            let _ = Command::new("umount").args(["-l", mount]).status();
        }
    }
}

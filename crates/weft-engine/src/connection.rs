//! Reaching the engine, and what it is able to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, Docker};
use tokio::sync::Mutex;
use weft_unit::Missing;

use crate::error::said;

/// How long the engine may take to answer, in seconds. Streams may be silent for longer.
const ANSWER_SECONDS: u64 = 120;

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Docker Engine, or what behaves like it.
    Docker,
    /// Podman's service.
    Podman,
}

impl Flavour {
    /// Its name in the port.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// What was learned of an engine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Able {
    pub flavour: Flavour,
    pub version: String,
    /// Runtime class → name of the runtime in the engine.
    pub runtimes: BTreeMap<String, String>,
    /// Whether the storage driver holds containers to a size.
    pub disk_quota: bool,
    /// Whether it runs without root: its containers' addresses cannot be reached.
    pub rootless: bool,
    /// What it cannot limit.
    pub missing: Vec<Missing>,
    /// Where its images lie, to look how full it is there.
    pub root_dir: PathBuf,
}

/// An engine that answers.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub docker: Docker,
    pub able: Arc<Able>,
}

/// The socket, and what was learned when the engine was reached first.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: PathBuf,
    flavour: Option<Flavour>,
    reached: Mutex<Option<Connected>>,
}

impl Connection {
    pub fn new(socket: PathBuf, flavour: Option<Flavour>) -> Self {
        Self {
            socket,
            flavour,
            reached: Mutex::new(None),
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The flavour that was told or found, or what the socket's name suggests.
    pub fn flavour(&self) -> Flavour {
        let found = self.reached.try_lock().ok();
        let found = found.and_then(|reached| reached.as_ref().map(|there| there.able.flavour));
        let looks_like = if self.socket.to_string_lossy().contains("podman") {
            Flavour::Podman
        } else {
            Flavour::Docker
        };
        found.or(self.flavour).unwrap_or(looks_like)
    }

    /// The engine, which is asked only the first time.
    pub async fn get(&self) -> Result<Connected, Missing> {
        let mut reached = self.reached.lock().await;
        if let Some(there) = &*reached {
            return Ok(there.clone());
        }
        let there = self.reach().await?;
        *reached = Some(there.clone());
        Ok(there)
    }

    /// The engine, asked anew.
    pub async fn ask(&self) -> Result<Connected, Missing> {
        let there = self.reach().await;
        *self.reached.lock().await = there.as_ref().ok().cloned();
        there
    }

    async fn reach(&self) -> Result<Connected, Missing> {
        let missing = |error: &bollard::errors::Error| {
            Missing {
            what: format!("Docker Engine or Podman at {}", self.socket.display()),
            why: said(error),
            fix: "start the engine (systemctl start docker, or podman.socket), or give the agent the path of its socket".to_owned(),
        }
        };
        let path = self.socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, ANSWER_SECONDS, API_DEFAULT_VERSION)
            .map_err(|error| missing(&error))?;
        let docker = docker
            .negotiate_version()
            .await
            .map_err(|error| missing(&error))?;
        let version = docker.version().await.map_err(|error| missing(&error))?;
        let info = docker.info().await.map_err(|error| missing(&error))?;
        let components = version.components.unwrap_or_default();
        let is_podman = components.iter().any(|part| part.name.contains("Podman"));
        let asked = if is_podman {
            Flavour::Podman
        } else {
            Flavour::Docker
        };
        let able = Able {
            flavour: self.flavour.unwrap_or(asked),
            version: version.version.unwrap_or_default(),
            runtimes: runtimes(&info),
            disk_quota: has_disk_quota(&info),
            rootless: is_rootless(&info),
            missing: missing_limits(&info),
            root_dir: info.docker_root_dir.unwrap_or_default().into(),
        };
        Ok(Connected {
            docker,
            able: Arc::new(able),
        })
    }
}

/// The names under which engines know a runtime class.
const CLASSES: [(&str, &[&str]); 5] = [
    ("runc", &["runc"]),
    ("crun", &["crun"]),
    ("runsc", &["runsc", "gvisor", "io.containerd.runsc.v1"]),
    ("kata", &["kata", "kata-runtime", "io.containerd.kata.v2"]),
    ("youki", &["youki"]),
];

fn runtimes(info: &SystemInfo) -> BTreeMap<String, String> {
    let known = info.runtimes.clone().unwrap_or_default();
    // Podman tells every runtime that it would know, with the path where it would be.
    let is_there = |name: &&&str| {
        known.get(**name).is_some_and(|runtime| {
            let path = runtime.path.as_deref().unwrap_or_default();
            !path.starts_with('/') || Path::new(path).exists()
        })
    };
    CLASSES
        .iter()
        .filter_map(|(class, names)| {
            let name = names.iter().find(is_there)?;
            Some(((*class).to_owned(), (*name).to_owned()))
        })
        .collect()
}

fn is_rootless(info: &SystemInfo) -> bool {
    let options = info.security_options.iter().flatten();
    options.into_iter().any(|option| option == "name=rootless")
}

fn has_disk_quota(info: &SystemInfo) -> bool {
    let status = info.driver_status.iter().flatten();
    let is_on_xfs = status
        .filter_map(|pair| pair.get(1))
        .any(|value| value == "xfs");
    match info.driver.as_deref() {
        Some("btrfs" | "zfs" | "devicemapper") => true,
        Some("overlay2" | "overlay") if is_on_xfs => {
            let root = info.docker_root_dir.as_deref().unwrap_or("/");
            std::fs::read_to_string("/proc/self/mountinfo")
                .is_ok_and(|table| has_project_quota(&table, Path::new(root)))
        }
        _ => false,
    }
}

/// Whether the file system at a path was mounted with project quotas, by proc(5)'s table.
fn has_project_quota(table: &str, path: &Path) -> bool {
    table
        .lines()
        .filter(|line| {
            let point = line.split(' ').nth(4).unwrap_or_default();
            path.starts_with(point)
        })
        .max_by_key(|line| line.split(' ').nth(4).map(str::len))
        .is_some_and(|line| line.contains("prjquota") || line.contains("pquota"))
}

fn missing_limits(info: &SystemInfo) -> Vec<Missing> {
    let limits = [
        ("memory", info.memory_limit),
        ("swap", info.swap_limit),
        ("CPU", info.cpu_cfs_quota),
        ("the number of processes", info.pids_limit),
    ];
    limits
        .into_iter()
        .filter(|(_, has)| *has == Some(false))
        .map(|(what, _)| Missing {
            what: format!("a limit of {what}"),
            why: "the engine says that the kernel has none".to_owned(),
            fix: "enable the control group controller on the kernel's command line".to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_those_of_the_nearest_mount() {
        let table = "1 0 8:1 / / rw - xfs /dev/a rw,prjquota\n\
                     2 1 8:2 / /var rw - xfs /dev/b rw,noquota\n\
                     3 2 8:3 / /var/lib/docker rw - xfs /dev/c rw,prjquota\n";
        for (path, has) in [
            ("/srv", true),
            ("/var/x", false),
            ("/var/lib/docker/x", true),
        ] {
            assert_eq!(has_project_quota(table, Path::new(path)), has, "{path}");
        }
    }

    #[test]
    fn only_runtimes_that_are_there_are_told() {
        let json = r#"{"Runtimes": {"runc": {"path": "runc"}, "crun": {"path": "/no/crun"},
                      "kata-runtime": {"path": "/bin/sh"}}}"#;
        let info: SystemInfo = serde_json::from_str(json).unwrap();
        let found = runtimes(&info);
        let classes: Vec<_> = found
            .iter()
            .map(|(a, b)| (a.as_str(), b.as_str()))
            .collect();
        assert_eq!(classes, [("kata", "kata-runtime"), ("runc", "runc")]);
    }
}

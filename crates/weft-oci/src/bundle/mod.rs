//! The configuration of a container, in the form of the OCI runtime specification 1.0.

mod capabilities;
mod mounts;
mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use weft_types::{ContainerSpec, NetworkMode};
use weft_unit::{Unit, labels};

use crate::Error;
use crate::image::ImageConfig;

pub(crate) use mounts::Bind;
pub(crate) use process::stop_signal;

/// The most processes and threads of a container that names no number.
const DEFAULT_PIDS: u32 = 4096;
const CPU_PERIOD_US: u64 = 100_000;

/// What a container's configuration is made of.
pub(crate) struct Bundle<'a> {
    pub(crate) unit: &'a Unit,
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) image: &'a ImageConfig,
    pub(crate) node: &'a str,
    pub(crate) hostname: &'a str,
    /// The monitor's directory of this run: `rootfs/`, `files/` and `netns` are in it.
    pub(crate) run: &'a Path,
    pub(crate) binds: Vec<Bind>,
    pub(crate) cgroup: &'a str,
    pub(crate) limits_swap: bool,
}

/// Where a network namespace is bound in the directory of a run.
pub(crate) fn netns_path(run: &Path) -> PathBuf {
    run.join("netns")
}

impl Bundle<'_> {
    /// The configuration. The monitor completes the user, as only the mounted image tells who that
    /// is.
    pub(crate) fn config(&self) -> Result<Value, Error> {
        let mut config = json!({
            "ociVersion": "1.0.2",
            "root": {"path": self.run.join("rootfs"), "readonly": false},
            "process": process::process(self)?,
            "mounts": mounts::mounts(self),
            "annotations": annotations(self.unit, self.node),
            "linux": self.linux()?,
        });
        if self.spec.network != NetworkMode::Host {
            config["hostname"] = json!(self.hostname);
        }
        Ok(config)
    }

    fn linux(&self) -> Result<Value, Error> {
        let mut linux = json!({
            "cgroupsPath": self.cgroup,
            "namespaces": self.namespaces(),
            "resources": self.resources(),
            "rootfsPropagation": "private",
        });
        if !self.spec.privileged {
            linux["maskedPaths"] = json!(mounts::MASKED);
            linux["readonlyPaths"] = json!(mounts::READ_ONLY);
            linux["seccomp"] = seccomp()?;
        }
        Ok(linux)
    }

    fn namespaces(&self) -> Vec<Value> {
        let mut namespaces = vec![
            json!({"type": "pid"}),
            json!({"type": "ipc"}),
            json!({"type": "mount"}),
            json!({"type": "cgroup"}),
        ];
        if self.spec.network != NetworkMode::Host {
            namespaces.push(json!({"type": "uts"}));
            namespaces.push(json!({"type": "network", "path": netns_path(self.run)}));
        }
        namespaces
    }

    fn resources(&self) -> Value {
        let mut resources = json!({
            "devices": mounts::device_rules(self.spec.privileged),
            "pids": {"limit": self.spec.pids.unwrap_or(DEFAULT_PIDS)},
        });
        let cpu = self.unit.resources.cpu.0;
        if cpu > 0 {
            resources["cpu"] = json!({
                "period": CPU_PERIOD_US,
                // The kernel takes no quota of less than a millisecond.
                "quota": (cpu * CPU_PERIOD_US / 1000).max(1000),
                "shares": (cpu * 1024 / 1000).max(2),
            });
        }
        let memory = self.unit.resources.memory.0;
        if memory > 0 {
            resources["memory"] = json!({"limit": memory});
            if self.limits_swap {
                let swap = self.spec.swap.map_or(0, |swap| swap.0);
                resources["memory"]["swap"] = json!(memory.saturating_add(swap));
            }
        }
        resources
    }
}

fn seccomp() -> Result<Value, Error> {
    let mut profile: Value = serde_json::from_str(include_str!("../../data/seccomp.json"))
        .map_err(|e| Error::Spec(format!("the system-call filter: {e}")))?;
    profile["architectures"] = match std::env::consts::ARCH {
        "x86_64" => json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        "aarch64" => json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
        _ => json!([]),
    };
    Ok(profile)
}

/// The labels that everything of a unit carries.
pub(crate) fn annotations(unit: &Unit, node: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (labels::NODE, node.to_owned()),
        (labels::UNIT, unit.id.to_string()),
        (labels::REVISION, unit.revision.to_string()),
        (
            labels::WORKLOAD,
            format!("{}/{}", unit.namespace, unit.name),
        ),
    ])
}

#[cfg(test)]
mod tests;

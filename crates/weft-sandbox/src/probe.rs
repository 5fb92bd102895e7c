//! What this machine lets the sandbox do, found by trying.

use serde::{Deserialize, Serialize};

/// What the sandbox can do on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// User namespaces.
    pub user_namespace: bool,
    /// Mount namespaces, with a fresh `/proc`.
    pub mount_namespace: bool,
    /// Pid namespaces.
    pub pid_namespace: bool,
    /// Network namespaces.
    pub network_namespace: bool,
    /// Control groups.
    pub cgroup: CgroupSupport,
    /// System call filters.
    pub seccomp: bool,
    /// Landlock ABI version; 0 when the kernel has none.
    pub landlock_abi: u32,
    /// What is missing, why, and what to do about it. Only entries with `required` prevent the full sandbox.
    pub missing: Vec<Missing>,
}

impl Capabilities {
    /// Whether the full sandbox can be built.
    pub fn full_sandbox(&self) -> bool {
        !self.missing.iter().any(|missing| missing.required)
    }
}

/// Control groups the spawner may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupSupport {
    /// Which hierarchy.
    pub version: CgroupVersion,
    /// CPU quota and weight can be set.
    pub cpu: bool,
    /// Memory can be limited.
    pub memory: bool,
    /// The number of processes can be limited.
    pub pids: bool,
}

/// Which control group hierarchy is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupVersion {
    /// None is writable; limits fall back to rlimits.
    None,
    /// One hierarchy a controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// Something the machine does not allow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// Why, as the system said.
    pub why: String,
    /// What to do about it.
    pub fix: String,
    /// Whether the full sandbox is refused without it.
    pub required: bool,
}

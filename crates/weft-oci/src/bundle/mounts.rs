//! What a container sees of the machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_types::NetworkMode;

use super::Bundle;

/// A directory or file of the node that a container sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) is_read_only: bool,
}

/// Parts of `/proc` and `/sys` that tell about the machine or steer it; as Docker has it.
pub(super) const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

pub(super) const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) fn mounts(bundle: &Bundle<'_>) -> Vec<Value> {
    let is_privileged = bundle.spec.privileged;
    let access = if is_privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
               "options": ["nosuid", "noexec", "nodev"]}),
    ];
    if is_privileged {
        mounts.push(
            json!({"destination": "/dev", "type": "bind", "source": "/dev",
                           "options": ["rbind", "rprivate", "nosuid"]}),
        );
    } else {
        mounts.extend(devices());
    }
    // A new sysfs shows the network namespace it is mounted in; the node's own one needs none.
    if bundle.spec.network == NetworkMode::Host {
        mounts.push(
            json!({"destination": "/sys", "type": "bind", "source": "/sys",
                           "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", access]}),
        );
    } else {
        mounts.push(
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
                           "options": ["nosuid", "noexec", "nodev", access]}),
        );
        mounts.push(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
                           "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
        );
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        mounts.push(
            json!({"destination": format!("/etc/{name}"), "type": "bind",
                           "source": bundle.run.join("files").join(name),
                           "options": ["bind", "rprivate", "rw", "nosuid", "noexec", "nodev"]}),
        );
    }
    mounts.extend(bundle.binds.iter().map(bind));
    mounts
}

fn devices() -> [Value; 4] {
    [
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
               "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
    ]
}

fn bind(bind: &Bind) -> Value {
    let access = if bind.is_read_only { "ro" } else { "rw" };
    json!({"destination": bind.target, "type": "bind", "source": bind.source,
           "options": ["rbind", "rprivate", access]})
}

/// The runtime adds the few devices that every container has.
pub(super) fn device_rules(is_privileged: bool) -> Value {
    json!([{"allow": is_privileged, "access": "rwm"}])
}

//! Which keys there are.

use serde_json::{Map, Value as Json};

use super::{Checked, Rights, is_nothing, refuse};

const TOP: &[&str] = &[
    "version", "name", "services", "networks", "volumes", "secrets", "configs",
];

/// Keys of services that stay within the application, or whose values are looked at.
const SERVICE: &[&str] = &[
    "attach",
    "build",
    "cap_drop",
    "command",
    "configs",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_shares",
    "cpus",
    "cpuset",
    "depends_on",
    "deploy",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "extends",
    "extra_hosts",
    "group_add",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "ipc",
    "labels",
    "links",
    "logging",
    "mac_address",
    "mem_limit",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "network_mode",
    "networks",
    "pid",
    "pids_limit",
    "platform",
    "ports",
    "profiles",
    "pull_policy",
    "read_only",
    "restart",
    "runtime",
    "scale",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "volumes",
    "volumes_from",
    "working_dir",
];

/// Keys of services that reach the node, and what they do to it.
const NEEDS_RIGHT: &[(&str, &str)] = &[
    ("annotations", "reaches the OCI runtime on the node"),
    ("blkio_config", "names devices of the node"),
    ("cap_add", "adds rights of the kernel"),
    ("cgroup", "leaves the container's control group"),
    ("credential_spec", "reads credentials of the node"),
    ("device_cgroup_rules", "opens devices of the node"),
    ("devices", "opens devices of the node"),
    ("external_links", "reaches containers of others"),
    ("gpus", "opens devices of the node"),
    ("isolation", "changes how the container is isolated"),
    (
        "oom_kill_disable",
        "keeps the limit on memory from being enforced",
    ),
    ("oom_score_adj", "lets others be killed for its memory"),
    ("privileged", "gives all rights of the node"),
    ("userns_mode", "leaves the container's user namespace"),
    ("uts", "leaves the container's host name"),
];

/// Keys that Weft itself decides on.
const OURS: &[(&str, &str)] = &[
    (
        "container_name",
        "would be the same for every replica; leave it out, others reach the service by its name",
    ),
    (
        "cgroup_parent",
        "the unit's `resources` bound all services together; leave it out",
    ),
];

pub(super) fn check_top(top: &Map<String, Json>) -> Checked {
    for key in top.keys() {
        if key == "include" {
            return refuse(key, "is not supported; write the services into one file");
        }
        if !TOP.contains(&key.as_str()) && !key.starts_with("x-") {
            return refuse(key, "is not known; see the Compose file reference");
        }
    }
    Ok(())
}

pub(super) fn check_service(at: &str, service: &Map<String, Json>, rights: Rights) -> Checked {
    for (key, value) in service {
        let field = format!("{at}.{key}");
        if let Some((_, why)) = OURS.iter().find(|(name, _)| name == key) {
            return refuse(field, *why);
        }
        if let Some((_, why)) = NEEDS_RIGHT.iter().find(|(name, _)| name == key) {
            if !is_nothing(value) {
                rights.need(field, why)?;
            }
        } else if !SERVICE.contains(&key.as_str()) && !key.starts_with("x-") {
            return refuse(field, "is not supported; leave it out");
        }
    }
    Ok(())
}

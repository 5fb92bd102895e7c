//! From a specification to the engine's request.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, DeviceRequest, HealthConfig, HostConfig, HostConfigLogConfig, Mount,
    MountBindOptions, MountBindOptionsPropagationEnum, MountType, PortBinding, PortMap,
    ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use weft_types::{ContainerSpec, HealthProbe, NetworkMode, NodeId, Reason, Resources, UnitId};
use weft_unit::{Error, Step, Unit, labels};
use weft_volumes::Mounted;

use crate::connection::{Able, Flavour};

/// Label with what was really run: the image by its digest.
pub(crate) const SOURCE: &str = "weft.source";
/// The most processes when the specification says nothing.
const DEFAULT_PIDS: i64 = 4096;
/// Period of the CPU limit, in microseconds; the kernel's default.
const CPU_PERIOD_US: i64 = 100_000;
/// The smallest quota that the kernel takes, in microseconds.
const MIN_CPU_QUOTA_US: i64 = 1_000;
/// What containers may do of what root may. Docker's own set without making devices, sending raw
/// packets, writing the audit log and giving files capabilities.
const CAPABILITIES: [&str; 10] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// What Podman's own set has beyond that.
const DROPPED: [&str; 4] = ["AUDIT_WRITE", "MKNOD", "NET_RAW", "SETFCAP"];
/// The engine keeps so much of what a container printed.
const LOG_SIZE: &str = "16m";
/// What Podman gives containers unless told otherwise, and may not be allowed to.
const PODMAN_LIMIT: i64 = 1 << 20;

/// The name of a unit's container.
pub(crate) fn name(id: UnitId) -> String {
    format!("weft-{id}")
}

/// What a request is made of beside the unit.
pub(crate) struct Around<'a> {
    pub able: &'a Able,
    pub node: &'a NodeId,
    /// Whether ports are published by the engine.
    pub publishes: bool,
    /// The image by its digest or id.
    pub source: &'a str,
    /// Volumes and where they are mounted in the container.
    pub mounts: &'a [(String, Mounted)],
    /// Our own limits of open files and of processes: an engine that may not raise its limits
    /// cannot give more.
    pub own_limits: [(&'static str, Option<u64>); 2],
}

/// The request that makes a unit's container.
pub(crate) fn create(
    unit: &Unit,
    spec: &ContainerSpec,
    around: &Around<'_>,
) -> Result<ContainerCreateBody, Error> {
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let bindings = around.publishes.then(|| bindings(spec));
    let exposed = bindings.as_ref().map(|map| map.keys().cloned().collect());
    Ok(ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: some(&spec.command),
        cmd: some(&spec.args),
        env: Some(environment(unit, spec)),
        working_dir: spec.workdir.clone(),
        user: spec.user.clone(),
        stop_signal: spec.stop_signal.clone(),
        labels: Some(marks(unit, around)),
        exposed_ports: exposed,
        healthcheck: no_health_check(around.able.flavour),
        host_config: Some(host(unit, spec, around, bindings)?),
        ..ContainerCreateBody::default()
    })
}

/// Whether it works is found out by the agent, in the same way on every runtime: what the image
/// says of it is not run. Podman would take `NONE` for a command; without systemd it runs none.
fn no_health_check(flavour: Flavour) -> Option<HealthConfig> {
    let none = HealthConfig {
        test: Some(vec!["NONE".to_owned()]),
        ..HealthConfig::default()
    };
    (flavour == Flavour::Docker).then_some(none)
}

fn environment(unit: &Unit, spec: &ContainerSpec) -> Vec<String> {
    let mut all = spec.env.clone();
    all.extend(unit.secrets.env.clone());
    all.iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

fn marks(unit: &Unit, around: &Around<'_>) -> HashMap<String, String> {
    let marks = [
        (labels::NODE, around.node.to_string()),
        (labels::UNIT, unit.id.to_string()),
        (labels::REVISION, unit.revision.to_string()),
        (
            labels::WORKLOAD,
            format!("{}/{}", unit.namespace, unit.name),
        ),
        (SOURCE, around.source.to_owned()),
    ];
    marks.map(|(key, value)| (key.to_owned(), value)).into()
}

/// Every port that somebody on the node connects to, at a free port of loopback.
fn bindings(spec: &ContainerSpec) -> PortMap {
    let probed = spec.healthcheck.as_ref().and_then(|check| check.probe());
    let probed = match probed {
        Some(HealthProbe::Http(http)) => Some(http.port),
        Some(HealthProbe::Tcp(port)) => Some(port),
        _ => None,
    };
    let loopback = PortBinding {
        host_ip: Some("127.0.0.1".to_owned()),
        host_port: Some(String::new()),
    };
    let targets = spec.ports.iter().map(|port| port.target).chain(probed);
    targets
        .map(|target| (format!("{target}/tcp"), Some(vec![loopback.clone()])))
        .collect()
}

fn host(
    unit: &Unit,
    spec: &ContainerSpec,
    around: &Around<'_>,
    bindings: Option<PortMap>,
) -> Result<HostConfig, Error> {
    let mut host = HostConfig {
        mounts: Some(mounts(around.mounts)),
        network_mode: Some(network(spec.network).to_owned()),
        port_bindings: bindings,
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        runtime: runtime(spec, around.able)?,
        privileged: Some(spec.privileged),
        pids_limit: Some(spec.pids.map_or(DEFAULT_PIDS, i64::from)),
        log_config: Some(log_config(around.able.flavour)),
        device_requests: gpus(&unit.resources, around.able.flavour)?,
        ..HostConfig::default()
    };
    limit(&mut host, &unit.resources, spec, around.able);
    if !spec.privileged {
        match around.able.flavour {
            Flavour::Docker => {
                host.cap_drop = Some(vec!["ALL".to_owned()]);
                host.cap_add = Some(CAPABILITIES.map(str::to_owned).to_vec());
            }
            // What is added here would be effective for users other than root as well.
            Flavour::Podman => host.cap_drop = Some(DROPPED.map(str::to_owned).to_vec()),
        }
        host.security_opt = Some(vec!["no-new-privileges".to_owned()]);
    }
    if around.able.flavour == Flavour::Podman {
        host.ulimits = Some(ulimits(&around.own_limits));
    }
    Ok(host)
}

fn saturated(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn limit(host: &mut HostConfig, resources: &Resources, spec: &ContainerSpec, able: &Able) {
    let millicores = i64::try_from(resources.cpu.0).unwrap_or(i64::MAX);
    if millicores > 0 {
        host.cpu_period = Some(CPU_PERIOD_US);
        let quota = millicores.saturating_mul(CPU_PERIOD_US / 1_000);
        host.cpu_quota = Some(quota.max(MIN_CPU_QUOTA_US));
        host.cpu_shares = Some((millicores.saturating_mul(1_024) / 1_000).clamp(2, 262_144));
    }
    if resources.memory.0 > 0 {
        host.memory = Some(saturated(resources.memory.0));
        let swap = spec.swap.map_or(0, |swap| swap.0);
        host.memory_swap = Some(saturated(resources.memory.0.saturating_add(swap)));
    }
    if able.disk_quota && resources.disk.0 > 0 {
        let size = ("size".to_owned(), resources.disk.0.to_string());
        host.storage_opt = Some(HashMap::from([size]));
    }
}

fn network(mode: NetworkMode) -> &'static str {
    match mode {
        NetworkMode::Bridge => "bridge",
        NetworkMode::None => "none",
        NetworkMode::Host => "host",
    }
}

fn runtime(spec: &ContainerSpec, able: &Able) -> Result<Option<String>, Error> {
    let Some(class) = &spec.runtime_class else {
        return Ok(None);
    };
    if let Some(name) = able.runtimes.get(class) {
        return Ok(Some(name.clone()));
    }
    let known: Vec<_> = able.runtimes.keys().cloned().collect();
    let detail = format!(
        "container.runtime_class: {} on this node has no runtime {class:?}; it has {}; configure it in the engine, or ask for the capability in `placement.capabilities`",
        able.flavour.as_str(),
        known.join(", ")
    );
    Err(Error::new(Step::Start, Reason::RuntimeUnavailable, detail))
}

fn gpus(resources: &Resources, flavour: Flavour) -> Result<Option<Vec<DeviceRequest>>, Error> {
    let Some(gpu) = resources.gpu.as_ref().filter(|gpu| gpu.count > 0) else {
        return Ok(None);
    };
    if flavour == Flavour::Podman {
        let detail = "resources.gpu: Podman gives no GPUs over this API; use Docker Engine with the vendor's container toolkit";
        return Err(Error::new(Step::Start, Reason::RuntimeUnavailable, detail));
    }
    Ok(Some(vec![DeviceRequest {
        count: Some(i64::from(gpu.count)),
        capabilities: Some(vec![vec!["gpu".to_owned()]]),
        ..DeviceRequest::default()
    }]))
}

fn mounts(mounts: &[(String, Mounted)]) -> Vec<Mount> {
    mounts
        .iter()
        .map(|(target, mounted)| Mount {
            target: Some(target.clone()),
            source: Some(mounted.host_path.to_string_lossy().into_owned()),
            typ: Some(MountType::BIND),
            read_only: Some(mounted.read_only),
            bind_options: Some(MountBindOptions {
                propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
                ..MountBindOptions::default()
            }),
            ..Mount::default()
        })
        .collect()
}

/// Logs are kept in files of a bounded size, whatever the engine's default is: from there they can
/// be read again.
fn log_config(flavour: Flavour) -> HostConfigLogConfig {
    let mut config = HashMap::from([("max-size".to_owned(), LOG_SIZE.to_owned())]);
    let driver = match flavour {
        Flavour::Docker => {
            config.insert("max-file".to_owned(), "2".to_owned());
            "json-file"
        }
        Flavour::Podman => "k8s-file",
    };
    HostConfigLogConfig {
        typ: Some(driver.to_owned()),
        config: Some(config),
    }
}

/// Podman as root asks for 2²⁰ open files and processes, for which the OCI runtime must raise its
/// own limits; without `CAP_SYS_RESOURCE` that fails (`setrlimit RLIMIT_NOFILE: Operation not
/// permitted`). So it is told no more than what we have, which is what it has.
fn ulimits(own: &[(&'static str, Option<u64>)]) -> Vec<ResourcesUlimits> {
    own.iter()
        .map(|(name, hard)| {
            let value = hard.map_or(PODMAN_LIMIT, saturated).min(PODMAN_LIMIT);
            ResourcesUlimits {
                name: Some((*name).to_owned()),
                soft: Some(value),
                hard: Some(value),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;

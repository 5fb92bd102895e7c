//! What a unit needs of a node.

use weft_placement::Request;
use weft_types::{
    AccessMode, Namespace, NodeId, RuntimeKind, UnitId, VolumeClass, Workload, WorkloadId,
    WorkloadName,
};

/// How long a service is taken to run when its price is weighed: an hour.
const EXPECTED_RUN_MS: u32 = 3_600_000;

/// A unit that looks for a node.
#[derive(Clone, PartialEq, Debug)]
pub struct UnitRequest {
    /// Whose it is: spreading looks at its other units.
    pub workload: WorkloadId,
    /// What others call it.
    pub name: Option<WorkloadName>,
    /// Where names are looked up.
    pub namespace: Namespace,
    /// What it needs.
    pub need: Request,
    /// Larger goes first; room that a workload of greater priority waits for is not taken.
    pub priority: i32,
    /// The node where it should be if it can: its data is there.
    pub prefer: Option<NodeId>,
    /// Nodes where it should not be if it can be elsewhere: it failed there.
    pub avoid: Vec<NodeId>,
    /// Units to think away: they make room for it.
    pub without: Vec<UnitId>,
    /// Units that will be gone soon: spreading does not look at them.
    pub passing: Vec<UnitId>,
    /// Nodes of further units with the same needs that are placed in the same plan.
    pub planned: Vec<NodeId>,
}

impl UnitRequest {
    /// A unit of this workload, anywhere.
    pub fn new(workload: WorkloadId, spec: &Workload) -> Self {
        Self {
            workload,
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            need: request_of(spec),
            priority: spec.priority,
            prefer: None,
            avoid: Vec::new(),
            without: Vec::new(),
            passing: Vec::new(),
            planned: Vec::new(),
        }
    }
}

fn request_of(spec: &Workload) -> Request {
    let mut placement = spec.placement.clone();
    for capability in implied_capabilities(spec) {
        if !placement.capabilities.contains(&capability) {
            placement.capabilities.push(capability);
        }
    }
    Request {
        resources: spec.demand(),
        runtime: spec.runtime,
        placement,
        expected_run_ms: EXPECTED_RUN_MS,
    }
}

/// Capabilities that follow from what runs: storage pools and runtime classes by name.
fn implied_capabilities(spec: &Workload) -> Vec<String> {
    let mut wanted = Vec::new();
    if let Some(class) = spec
        .container
        .as_ref()
        .and_then(|c| c.runtime_class.clone())
    {
        wanted.push(class);
    }
    if let Some(vm) = &spec.vm {
        let disks = vm.disks.iter().filter_map(|disk| disk.pool.as_ref());
        let pools = vm.root_pool.iter().chain(disks);
        wanted.extend(pools.map(|pool| format!("pool:{pool}")));
    }
    wanted
}

/// Whether a unit has data of its own on its node, which its successor is to take over: the disks
/// of a machine, the volumes of a Compose application, a container's own `local` volumes.
pub fn has_node_data(spec: &Workload) -> bool {
    match spec.runtime {
        RuntimeKind::Vm | RuntimeKind::Compose => true,
        RuntimeKind::Container => spec.container.as_ref().is_some_and(|container| {
            container.volumes.iter().any(|volume| {
                volume.class == Some(VolumeClass::Local)
                    && volume.access_mode == AccessMode::ReadWriteOnce
            })
        }),
        _ => false,
    }
}

/// Whether an old unit has to be gone before a new one comes: it is exclusive, or the new one
/// takes over what the old one has on its node.
pub fn is_stop_first(spec: &Workload) -> bool {
    spec.exclusive || has_node_data(spec)
}

/// Whether no node is ever to have two units of it: its own name is in `placement.apart`.
pub fn is_apart_from_itself(spec: &Workload) -> bool {
    let own = spec.name.as_ref();
    own.is_some_and(|own| spec.placement.apart.contains(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::{Bytes, ContainerSpec, Millicores, VmSpec};

    #[test]
    fn a_machine_reserves_its_memory_and_requires_its_pools() -> Result<(), serde_json::Error> {
        let vm: VmSpec = serde_json::from_value(serde_json::json!({
            "vcpus": 2, "memory": "1Gi", "root_pool": "fast",
            "disks": [{"name": "d", "size": "1Gi", "pool": "slow"}],
        }))?;
        let mut spec = Workload::new(RuntimeKind::Vm);
        spec.vm = Some(Box::new(vm));
        let request = UnitRequest::new(WorkloadId(1), &spec);
        assert_eq!(request.need.resources.memory, Bytes(1 << 30));
        assert_eq!(request.need.resources.cpu, Millicores(2_000));
        assert_eq!(
            request.need.placement.capabilities,
            ["pool:fast", "pool:slow"]
        );
        assert!(is_stop_first(&spec));
        Ok(())
    }

    #[test]
    fn a_runtime_class_is_a_capability_and_plain_containers_start_first() {
        let mut spec = Workload::new(RuntimeKind::Container);
        spec.container = Some(Box::new(ContainerSpec {
            runtime_class: Some("runsc".to_owned()),
            ..ContainerSpec::default()
        }));
        let request = UnitRequest::new(WorkloadId(1), &spec);
        assert_eq!(request.need.placement.capabilities, ["runsc"]);
        assert!(!is_stop_first(&spec));
        spec.exclusive = true;
        assert!(is_stop_first(&spec));
    }
}

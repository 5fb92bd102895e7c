//! What a unit of a service takes of its node.

use crate::{Bytes, Millicores, Resources, Workload};

impl Workload {
    /// What one unit reserves where it is placed, claims on its node and is limited to. A machine
    /// has the memory that it is given, whatever `resources` says; without `resources` it has a
    /// core for each virtual processor as well.
    pub fn demand(&self) -> Resources {
        let mut demand = self.resources();
        if let Some(vm) = &self.vm {
            demand.memory = Bytes(demand.memory.0.max(vm.memory.unwrap_or_default().0));
            if let (None, Some(vcpus)) = (&self.resources, vm.vcpus) {
                demand.cpu = Millicores(u64::from(vcpus) * 1_000);
            }
        }
        demand
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RuntimeKind;

    fn machine(vm: serde_json::Value) -> Result<Workload, serde_json::Error> {
        let mut spec = Workload::new(RuntimeKind::Vm);
        spec.vm = Some(serde_json::from_value(vm)?);
        Ok(spec)
    }

    #[test]
    fn a_machine_takes_what_it_is_given() -> Result<(), serde_json::Error> {
        let mut spec = machine(serde_json::json!({"vcpus": 3, "memory": "2Gi"}))?;
        let demand = spec.demand();
        assert_eq!(
            (demand.cpu, demand.memory),
            (Millicores(3_000), Bytes(2 << 30))
        );
        let resources = Resources {
            cpu: Millicores(500),
            memory: Bytes(1 << 30),
            ..Resources::default()
        };
        spec.resources = Some(resources.clone());
        // Three processors may share half a core, but memory is not shared.
        let demand = spec.demand();
        assert_eq!(
            (demand.cpu, demand.memory),
            (Millicores(500), Bytes(2 << 30))
        );
        let mut plain = machine(serde_json::json!({}))?;
        plain.resources = Some(resources.clone());
        assert_eq!(plain.demand(), resources);
        Ok(())
    }
}

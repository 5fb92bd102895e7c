//! What the node offers, and how much of that is free.

use tokio::sync::watch;
use weft_proto::v1;
use weft_runtime::{Probe, Runtimes};
use weft_types::{Bytes, Millicores, Money, NodeCapacity, Resources, RuntimeKind};

use crate::Config;
use crate::executor::MAX_HELD_TASKS;
use crate::machine::{self, Machine};
use crate::runtimes::UnitRuntimes;

/// What the node offers, with what it cannot do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    pub(crate) capacity: NodeCapacity,
    pub(crate) missing: Vec<String>,
}

impl Offer {
    /// As servers take it.
    pub(crate) fn to_proto(&self) -> v1::Capacity {
        let mut capacity = weft_proto::capacity_to_proto(&self.capacity);
        capacity.missing.clone_from(&self.missing);
        capacity.hostname = machine::host_name();
        capacity.max_held_tasks = MAX_HELD_TASKS;
        capacity
    }
}

/// What the node offers at each moment: backends of units come and go.
#[derive(Clone)]
pub(crate) struct Offers {
    pub(crate) base: Offer,
    pub(crate) units: UnitRuntimes,
}

impl Offers {
    pub(crate) fn now(&self) -> Offer {
        let mut offer = self.base.clone();
        self.units.describe(&mut offer.capacity, &mut offer.missing);
        offer
    }

    /// Follows every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.units.subscribe()
    }
}

/// Looks at the machine and tries the runtimes of tasks.
pub(crate) async fn offer(config: &Config, runtimes: &Runtimes) -> Offer {
    let machine = Machine::look();
    let share = u64::from(config.share.max(1));
    let threshold = u64::from(config.threshold_percent.min(100));
    let part = |amount: u64| amount / 100 * threshold / share;
    let mut capacity = NodeCapacity {
        cpu: config.cpu.unwrap_or(Millicores(part(machine.cpu.0))),
        memory: config.memory.unwrap_or(Bytes(part(machine.memory.0))),
        disk: Bytes(part(machine::free_disk_bytes(&config.data_dir))),
        gpus: shared_gpus(machine::gpus(), config.share),
        arch: std::env::consts::ARCH.to_owned(),
        os: std::env::consts::OS.to_owned(),
        labels: config.labels.clone(),
        price_per_hour: Money(config.price_per_hour.0 / i64::from(config.share.max(1))),
        ..NodeCapacity::default()
    };
    let mut missing = Vec::new();
    for (kind, probe) in runtimes.probe().await {
        describe(kind, probe, &mut capacity, &mut missing);
    }
    Offer { capacity, missing }
}

/// A GPU cannot be divided: of those that several agents share each offers as many as are left for
/// it, so that together they never offer more than there are.
fn shared_gpus(mut gpus: Vec<String>, share: u32) -> Vec<String> {
    gpus.truncate(gpus.len() / share.max(1) as usize);
    gpus
}

/// Whether the whole node, with nothing running, has room for this.
pub(crate) fn offers(capacity: &NodeCapacity, need: &Resources) -> bool {
    let accepted = need.gpu.as_ref().map_or(0, |gpu| {
        let models = capacity.gpus.iter();
        models.filter(|model| gpu.accepts(model)).count() as u64
    });
    Free::all_of(capacity).fits(need) && gpus(need) <= accepted
}

fn describe(
    kind: RuntimeKind,
    probe: Probe,
    capacity: &mut NodeCapacity,
    missing: &mut Vec<String>,
) {
    if probe.available {
        capacity.runtimes.push(kind);
    }
    capacity.capabilities.extend(probe.capabilities);
    missing.extend(probe.missing.iter().map(ToString::to_string));
}

/// What is not reserved. Less than nothing when units take more than there is: those that wait for
/// tasks to end, and those that ran when the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    cpu: i128,
    memory: i128,
    disk: i128,
    gpus: i128,
}

impl Free {
    pub(crate) fn all_of(capacity: &NodeCapacity) -> Self {
        Self {
            cpu: capacity.cpu.0.into(),
            memory: capacity.memory.0.into(),
            disk: capacity.disk.0.into(),
            gpus: capacity.gpus.len() as i128,
        }
    }

    /// Reserves what a task needs; `false` and no change when it does not fit.
    pub(crate) fn take(&mut self, need: &Resources) -> bool {
        if !self.fits(need) {
            return false;
        }
        self.take_anyway(need);
        true
    }

    /// Reserves what a unit needs, whether or not it is there.
    pub(crate) fn take_anyway(&mut self, need: &Resources) {
        self.cpu -= i128::from(need.cpu.0);
        self.memory -= i128::from(need.memory.0);
        self.disk -= i128::from(need.disk.0);
        self.gpus -= i128::from(gpus(need));
    }

    pub(crate) fn give(&mut self, need: &Resources) {
        self.cpu += i128::from(need.cpu.0);
        self.memory += i128::from(need.memory.0);
        self.disk += i128::from(need.disk.0);
        self.gpus += i128::from(gpus(need));
    }

    pub(crate) fn fits(&self, need: &Resources) -> bool {
        i128::from(need.cpu.0) <= self.cpu
            && i128::from(need.memory.0) <= self.memory
            && i128::from(need.disk.0) <= self.disk
            && i128::from(gpus(need)) <= self.gpus
    }

    /// Whether more is reserved than there is, of anything that this needs.
    pub(crate) fn is_overdrawn_for(&self, need: &Resources) -> bool {
        (self.cpu < 0 && need.cpu.0 > 0)
            || (self.memory < 0 && need.memory.0 > 0)
            || (self.disk < 0 && need.disk.0 > 0)
            || (self.gpus < 0 && gpus(need) > 0)
    }
}

fn gpus(need: &Resources) -> u64 {
    need.gpu.as_ref().map_or(0, |gpu| gpu.count.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agents_that_share_a_machine_never_offer_more_gpus_than_it_has(count in 0..9usize, share in 1..5u32) {
            let all = vec!["T4".to_owned(); count];
            prop_assert!(shared_gpus(all, share).len() * share as usize <= count);
        }

        #[test]
        fn what_is_reserved_never_exceeds_the_capacity(sizes in proptest::collection::vec((0..3000u64, 0..3000u64), 1..30)) {
            let capacity = NodeCapacity { cpu: Millicores(4000), memory: Bytes(4000), ..NodeCapacity::default() };
            let whole = Free::all_of(&capacity);
            let mut free = whole;
            let mut taken = Vec::new();
            for (cpu, memory) in sizes {
                let need = Resources { cpu: Millicores(cpu), memory: Bytes(memory), disk: Bytes(0), gpu: None };
                let fits = free.fits(&need);
                prop_assert_eq!(free.take(&need), fits);
                if fits {
                    taken.push(need);
                }
                let used: u64 = taken.iter().map(|need| need.cpu.0).sum();
                prop_assert!(used <= 4000);
                prop_assert_eq!(free.cpu, i128::from(4000 - used));
            }
            for need in &taken {
                free.give(need);
            }
            prop_assert_eq!(free, whole);
        }
    }

    #[test]
    fn a_gpu_of_another_model_is_no_offer() {
        let capacity = NodeCapacity {
            gpus: vec!["T4".to_owned(), "A100".to_owned()],
            ..NodeCapacity::default()
        };
        let need = |count, model: Option<&str>| Resources {
            cpu: Millicores(0),
            memory: Bytes(0),
            disk: Bytes(0),
            gpu: Some(weft_types::GpuRequest {
                count,
                model: model.map(str::to_owned),
            }),
        };
        assert!(offers(&capacity, &need(2, None)));
        assert!(offers(&capacity, &need(1, Some("a100"))));
        assert!(!offers(&capacity, &need(2, Some("a100"))));
        assert!(!offers(&capacity, &need(3, None)));
    }
}

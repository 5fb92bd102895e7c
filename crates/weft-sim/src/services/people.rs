//! What people ask for.

use std::time::Duration;

use weft_core::Monotonic;
use weft_core::liveness;
use weft_core::service::record::{RECORD_VERSION, WorkloadRecord};
use weft_types::{
    ContainerSpec, Millicores, Replicas, Resources, RetryPolicy, RuntimeKind, Spread, UpdateSpec,
    Workload, WorkloadId, WorkloadName,
};

use super::loads::{UNIT_MILLICORES, some_scaling};
use super::{Event, NODES, TTL_MS, World, node_id};
use crate::random::Random;

const MAX_WORKLOADS: usize = 3;
/// Names that workloads may have: some refer to others that are not there.
const NAMES: u64 = 4;

impl World {
    fn wall_ms(&self) -> u64 {
        self.now_ms.saturating_add_signed(self.wall_skew_ms)
    }

    /// Somebody asks for something.
    pub(super) fn people(&mut self) {
        if self.is_calm {
            return;
        }
        if self.store.workloads.len() < 2 {
            self.apply_new();
        } else {
            match self.random.between(0, 21) {
                0 if self.store.workloads.len() < MAX_WORKLOADS => self.apply_new(),
                0..=4 => self.change(|random, record| {
                    let image = ["good", "good", "bad-exit", "bad-hang"];
                    let which = random.between(0, 3) as usize;
                    if let Some(container) = &mut record.spec.container {
                        container.image = image[which].to_owned();
                    }
                    record.revision += 1;
                }),
                5 => self.change(|_, record| record.restarts += 1),
                6 | 7 => self.change(|random, record| {
                    record.scale = Some(random.between(0, 4) as u32);
                }),
                8 => self.change(|_, record| record.stopped = true),
                9 | 10 => self.change(|_, record| record.stopped = false),
                11 => self.change(|random, record| record.deleting |= random.chance(2)),
                12 => self.change(|_, record| record.scale = None),
                13 => self.mark_node(true),
                14 => self.mark_node(false),
                15 => self.remove_node(),
                16..=18 => self.change_demand(),
                19 => self.change(|random, record| {
                    record.spec.replicas = Some(some_replicas(random, record.spec.exclusive));
                }),
                20 => self.change(|random, record| {
                    if !record.spec.exclusive {
                        let scaling = random.chance(2).then(|| some_scaling(random));
                        record.spec.scaling = scaling;
                    }
                }),
                // It moves nothing by itself, but later units and updates are to heed it.
                _ => self.change(|random, record| {
                    keep_company(random, &mut record.spec);
                    record.revision += random.between(0, 1);
                }),
            }
        }
        let ms = self.random.between(200, 4_000);
        self.after(ms, Event::People);
    }

    fn apply_new(&mut self) {
        let id = WorkloadId(self.next_workload);
        self.next_workload += 1;
        let spec = self.some_spec();
        let record = WorkloadRecord {
            v: RECORD_VERSION,
            id,
            revision: 1,
            spec,
            scale: None,
            stopped: false,
            deleting: false,
            restarts: 0,
            created_ms: self.wall_ms(),
            changed_ms: self.wall_ms(),
        };
        self.store.workloads.insert(id, record);
        self.store.touch(id);
        self.change_demand();
    }

    /// A name that no workload has.
    fn some_name(&mut self) -> Option<WorkloadName> {
        let first = self.random.between(0, NAMES - 1);
        let mut names = (0..NAMES).map(|number| name((first + number) % NAMES));
        let taken = || {
            self.store
                .workloads
                .values()
                .map(|record| &record.spec.name)
        };
        names.find(|name| !taken().any(|taken| taken.as_ref() == Some(name)))
    }

    fn some_spec(&mut self) -> Workload {
        let name = self.some_name();
        let random = &mut self.random;
        let is_vm = random.chance(5);
        let mut spec = Workload::new(if is_vm {
            RuntimeKind::Vm
        } else {
            RuntimeKind::Container
        });
        let image = if random.chance(8) { "bad-exit" } else { "good" };
        spec.container = Some(Box::new(ContainerSpec {
            image: image.to_owned(),
            ..ContainerSpec::default()
        }));
        spec.exclusive = random.chance(3);
        spec.resources = Some(Resources {
            cpu: Millicores(UNIT_MILLICORES),
            ..Resources::default()
        });
        spec.name = name;
        spec.replicas = Some(some_replicas(random, spec.exclusive));
        if !spec.exclusive && random.chance(3) {
            spec.scaling = Some(some_scaling(random));
        }
        keep_company(random, &mut spec);
        spec.placement.spread = random.chance(2).then_some(Spread::Node);
        spec.priority = random.between(0, 2) as i32;
        let max_surge = random.between(0, 2) as u32;
        spec.update = Some(UpdateSpec {
            max_surge,
            max_unavailable: if max_surge == 0 {
                1
            } else {
                random.between(0, 1) as u32
            },
            min_ready: Duration::from_millis(random.between(0, 1) * 1_500),
            deadline: Duration::from_secs(20),
            rollback: !random.chance(6),
        });
        spec.retry = RetryPolicy {
            backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(5),
            ..RetryPolicy::default()
        };
        spec
    }

    fn change(&mut self, how: impl FnOnce(&mut Random, &mut WorkloadRecord)) {
        let ids: Vec<WorkloadId> = self.store.workloads.keys().copied().collect();
        let Some(last) = (ids.len() as u64).checked_sub(1) else {
            return;
        };
        let id = ids[self.random.between(0, last) as usize];
        let now_ms = self.wall_ms();
        let random = &mut self.random;
        if let Some(record) = self.store.workloads.get_mut(&id)
            && !record.deleting
        {
            how(random, record);
            record.changed_ms = now_ms;
            self.store.touch(id);
        }
    }

    fn mark_node(&mut self, is_draining: bool) {
        let index = self.random.between(0, NODES as u64 - 1) as usize;
        if let Some(record) = self.store.nodes.get_mut(&node_id(index)) {
            if is_draining {
                record.is_draining = !record.is_draining;
            } else {
                record.is_cordoned = !record.is_cordoned;
            }
            self.store.revision += 1;
            self.health_version += 1;
        }
    }

    /// One node may go for good.
    fn remove_node(&mut self) {
        let index = self.random.between(0, NODES as u64 - 1) as usize;
        let id = node_id(index);
        if self.store.nodes.len() < NODES || self.store.nodes.remove(&id).is_none() {
            return;
        }
        self.nodes[index].is_removed = true;
        let input = liveness::Input::Remove { node: id.clone() };
        let mut out = Vec::new();
        self.liveness.step(Monotonic(self.now_ms), input, &mut out);
        self.removed.insert(id, ());
        self.health_version += 1;
        self.after(TTL_MS, Event::LeaseOfRemovedEnds { index });
    }
}

fn name(number: u64) -> WorkloadName {
    let name = format!("service-{number}");
    name.parse()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn some_replicas(random: &mut Random, is_exclusive: bool) -> Replicas {
    let max = match is_exclusive {
        true => 1,
        false => random.between(2, 6),
    };
    let min = match random.chance(3) {
        true => random.between(0, max.min(3)),
        false => 0,
    };
    Replicas {
        min: min as u32,
        max: max as u32,
        target: random.between(min.max(1), max.min(5).max(min)) as u32,
    }
}

/// Whom it is to be with, and whom apart from.
fn keep_company(random: &mut Random, spec: &mut Workload) {
    let other = name(random.between(0, NAMES - 1));
    let is_own = spec.name.as_ref() == Some(&other);
    let placement = &mut spec.placement;
    placement.with.clear();
    placement.apart.clear();
    match random.between(0, 9) {
        0 if !is_own => placement.with.push(other),
        1 if !is_own => placement.apart.push(other),
        2..=4 => placement.apart.extend(spec.name.clone()),
        5 if !is_own => {
            placement.with.push(other);
            placement.apart.extend(spec.name.clone());
        }
        _ => {}
    }
}

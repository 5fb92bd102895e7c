//! The records themselves, by id, by name and by node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use weft_core::service::record::{Assignment, Retry, Rollout, UnitStatus, WorkloadRecord};
use weft_store::{Event, EventBatch, KeyValue, Revision};
use weft_types::{Namespace, NodeId, UnitId, WorkloadId};

use crate::services::secrets::SecretRecord;

/// A record, and the revision that changed it last.
#[derive(Debug)]
pub struct Kept<T> {
    /// The record.
    pub value: Arc<T>,
    /// The revision that changed it last.
    pub revision: Revision,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
            revision: self.revision,
        }
    }
}

/// One service with everything that is known of it, as of one moment.
#[derive(Debug, Clone)]
pub struct Service {
    /// What somebody wants.
    pub record: Kept<WorkloadRecord>,
    /// How far the scheduler has come.
    pub rollout: Option<Kept<Rollout>>,
    /// What failed.
    pub retry: Option<Kept<Retry>>,
    /// Its units, and how their nodes say they are.
    pub units: Vec<(Kept<Assignment>, Option<Kept<UnitStatus>>)>,
}

/// All records of services.
#[derive(Default)]
pub struct Tables {
    /// Everything up to this is here.
    pub(super) revision: Revision,
    /// By `<namespace>/<name>`.
    workloads: BTreeMap<String, Kept<WorkloadRecord>>,
    names: HashMap<WorkloadId, String>,
    rollouts: BTreeMap<WorkloadId, Kept<Rollout>>,
    assignments: BTreeMap<UnitId, Kept<Assignment>>,
    statuses: BTreeMap<UnitId, Kept<UnitStatus>>,
    retries: BTreeMap<WorkloadId, Kept<Retry>>,
    /// By `<namespace>/<name>`.
    secrets: BTreeMap<String, Kept<SecretRecord>>,
    by_node: BTreeMap<NodeId, BTreeSet<UnitId>>,
    /// Services that changed since the scheduler last asked.
    pub(super) changed: BTreeSet<WorkloadId>,
}

impl Tables {
    /// Takes in what changed.
    pub(super) fn take(&mut self, batch: EventBatch) {
        for event in &batch.events {
            match event {
                Event::Put(kv) => self.put(kv),
                Event::Delete { key } => self.delete(key, batch.revision),
            }
        }
        self.revision = self.revision.max(batch.revision);
    }

    /// Takes in a key as it is.
    pub(super) fn put(&mut self, kv: &KeyValue) {
        let Some((table, rest)) = kv.key.split_once('/') else {
            return;
        };
        match table {
            "workloads" => {
                if let Some(record) =
                    keep::<String, WorkloadRecord>(&mut self.workloads, rest.to_owned(), kv)
                {
                    self.names.insert(record.id, rest.to_owned());
                    self.changed.insert(record.id);
                }
            }
            "rollouts" => self.put_of_workload(rest, kv, |tables| &mut tables.rollouts),
            "retries" => self.put_of_workload(rest, kv, |tables| &mut tables.retries),
            "assignments" => {
                let Some(unit) = unit_of(rest) else { return };
                if let Some(kept) = keep(&mut self.assignments, unit, kv) {
                    let node = kept.node.clone();
                    self.by_node.entry(node).or_default().insert(unit);
                    self.changed.insert(unit.workload);
                }
            }
            "statuses" => {
                let Some(unit) = unit_of(rest) else { return };
                if keep(&mut self.statuses, unit, kv).is_some() {
                    self.changed.insert(unit.workload);
                }
            }
            "secrets" => {
                keep(&mut self.secrets, rest.to_owned(), kv);
            }
            _ => {}
        }
    }

    fn put_of_workload<T: DeserializeOwned>(
        &mut self,
        rest: &str,
        kv: &KeyValue,
        table: fn(&mut Self) -> &mut BTreeMap<WorkloadId, Kept<T>>,
    ) {
        if let Ok(id) = rest.parse::<WorkloadId>()
            && keep(table(self), id, kv).is_some()
        {
            self.changed.insert(id);
        }
    }

    fn delete(&mut self, key: &str, revision: Revision) {
        let Some((table, rest)) = key.split_once('/') else {
            return;
        };
        match table {
            "workloads" => {
                if let Some(gone) = drop_key(&mut self.workloads, &rest.to_owned(), revision) {
                    self.names.remove(&gone.id);
                    self.changed.insert(gone.id);
                }
            }
            "rollouts" => {
                if let Ok(id) = rest.parse::<WorkloadId>() {
                    drop_key(&mut self.rollouts, &id, revision);
                    self.changed.insert(id);
                }
            }
            "retries" => {
                if let Ok(id) = rest.parse::<WorkloadId>() {
                    drop_key(&mut self.retries, &id, revision);
                    self.changed.insert(id);
                }
            }
            "assignments" => {
                let Some(unit) = unit_of(rest) else { return };
                if let Some(gone) = drop_key(&mut self.assignments, &unit, revision) {
                    if let Some(units) = self.by_node.get_mut(&gone.node) {
                        units.remove(&unit);
                    }
                    self.changed.insert(unit.workload);
                }
            }
            "statuses" => {
                let Some(unit) = unit_of(rest) else { return };
                drop_key(&mut self.statuses, &unit, revision);
                self.changed.insert(unit.workload);
            }
            "secrets" => {
                drop_key(&mut self.secrets, &rest.to_owned(), revision);
            }
            _ => {}
        }
    }

    /// All services, by namespace and name.
    pub fn workloads(&self) -> impl Iterator<Item = &Kept<WorkloadRecord>> {
        self.workloads.values()
    }

    /// The services after `<namespace>/<name>`.
    pub fn workloads_after(
        &self,
        key: &str,
    ) -> impl Iterator<Item = (&String, &Kept<WorkloadRecord>)> {
        use std::ops::Bound;
        self.workloads
            .range::<str, _>((Bound::Excluded(key), Bound::Unbounded))
    }

    /// A service by its name.
    pub fn by_name(&self, namespace: &Namespace, name: &str) -> Option<&Kept<WorkloadRecord>> {
        self.workloads.get(&format!("{namespace}/{name}"))
    }

    /// A service by its id.
    pub fn by_id(&self, id: WorkloadId) -> Option<&Kept<WorkloadRecord>> {
        self.workloads.get(self.names.get(&id)?)
    }

    /// All assignments, of services in their order.
    pub fn assignments(&self) -> impl Iterator<Item = &Kept<Assignment>> {
        self.assignments.values()
    }

    /// The assignment of a unit.
    pub fn assignment(&self, unit: UnitId) -> Option<&Kept<Assignment>> {
        self.assignments.get(&unit)
    }

    /// How a unit is.
    pub fn status(&self, unit: UnitId) -> Option<&Kept<UnitStatus>> {
        self.statuses.get(&unit)
    }

    /// The units of a node.
    pub fn units_of_node(&self, node: &NodeId) -> impl Iterator<Item = &Kept<Assignment>> {
        let units = self.by_node.get(node).into_iter().flatten();
        units.filter_map(|unit| self.assignments.get(unit))
    }

    /// The units of a service.
    pub fn units_of(&self, id: WorkloadId) -> impl Iterator<Item = &Kept<Assignment>> {
        self.assignments.range(units(id)).map(|(_, kept)| kept)
    }

    /// A service with everything that is known of it.
    pub fn service(&self, id: WorkloadId) -> Option<Service> {
        let record = self.by_id(id)?.clone();
        let with_status = |(unit, kept): (&UnitId, &Kept<Assignment>)| {
            (kept.clone(), self.statuses.get(unit).cloned())
        };
        Some(Service {
            record,
            rollout: self.rollouts.get(&id).cloned(),
            retry: self.retries.get(&id).cloned(),
            units: self.assignments.range(units(id)).map(with_status).collect(),
        })
    }

    /// A secret by `<namespace>/<name>`.
    pub fn secret(&self, namespace: &Namespace, name: &str) -> Option<&Kept<SecretRecord>> {
        self.secrets.get(&format!("{namespace}/{name}"))
    }

    /// The secrets after `<namespace>/<name>`.
    pub fn secrets_after(&self, key: &str) -> impl Iterator<Item = (&String, &Kept<SecretRecord>)> {
        use std::ops::Bound;
        self.secrets
            .range::<str, _>((Bound::Excluded(key), Bound::Unbounded))
    }
}

fn units(workload: WorkloadId) -> std::ops::RangeInclusive<UnitId> {
    let unit = |number| UnitId { workload, number };
    unit(0)..=unit(u32::MAX)
}

/// The unit of `<workload-id>/<number>`.
fn unit_of(rest: &str) -> Option<UnitId> {
    let (workload, number) = rest.split_once('/')?;
    Some(UnitId {
        workload: workload.parse().ok()?,
        number: number.parse().ok()?,
    })
}

/// Keeps what is newer than what is here; `None` when it is not, or cannot be understood.
fn keep<K: Ord, T: DeserializeOwned>(
    table: &mut BTreeMap<K, Kept<T>>,
    key: K,
    kv: &KeyValue,
) -> Option<Arc<T>> {
    if table
        .get(&key)
        .is_some_and(|kept| kept.revision >= kv.mod_revision)
    {
        return None;
    }
    match serde_json::from_slice::<T>(&kv.value) {
        Ok(value) => {
            let value = Arc::new(value);
            let kept = Kept {
                value: Arc::clone(&value),
                revision: kv.mod_revision,
            };
            table.insert(key, kept);
            Some(value)
        }
        Err(error) => {
            tracing::error!(key = kv.key, %error, "a record cannot be understood and is passed over");
            None
        }
    }
}

fn drop_key<K: Ord, T>(
    table: &mut BTreeMap<K, Kept<T>>,
    key: &K,
    revision: Revision,
) -> Option<Arc<T>> {
    if table.get(key)?.revision > revision {
        return None;
    }
    table.remove(key).map(|kept| kept.value)
}

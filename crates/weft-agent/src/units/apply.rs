//! What the server wants, and what was wanted before a restart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::watch;
use weft_core::service::record::{Assignment, UnitStatus};
use weft_proto::v1;
use weft_types::{UnitId, WorkloadState};

use super::desired::{Desired, secrets};
use super::disk::Record;
use super::driver::{Before, Driver};
use super::{Entry, Shared, Units, View, Written};
use crate::identity::now;

impl Units {
    /// Takes what the server wants: all of it, or what changed.
    pub(crate) fn apply(&self, message: v1::Units) {
        if self.shared.is_closing.load(Ordering::Relaxed) {
            return;
        }
        let kept = message.kept.iter().filter_map(|id| id.parse().ok());
        let mut listed: BTreeSet<UnitId> = kept.collect();
        for item in message.apply {
            match serde_json::from_slice::<Assignment>(&item.assignment) {
                Ok(assignment) if assignment.node == self.shared.node => {
                    listed.insert(assignment.unit);
                    let secrets = item.secrets.and_then(secrets);
                    let mut desired = Desired::new(assignment, secrets);
                    desired.may_be_privileged = item.may_be_privileged;
                    self.shared.assign(desired);
                }
                Ok(assignment) => {
                    tracing::error!(unit = %assignment.unit, node = %assignment.node, "an assignment of another node");
                }
                Err(error) => tracing::error!(%error, "an assignment that cannot be read"),
            }
        }
        let removed = message.remove.iter().filter_map(|id| id.parse().ok());
        self.shared.unlist(&removed.collect());
        if message.complete {
            let others = {
                let table = self.shared.table.lock();
                let others = table.keys().filter(|unit| !listed.contains(unit));
                others.copied().collect()
            };
            self.shared.unlist(&others);
        }
        self.shared.fence();
        if message.complete {
            self.shared.lease.confirmed();
        }
    }

    /// Goes on with what was there when the agent ended.
    pub(super) fn adopt(&self, records: Vec<Record>) {
        for record in records {
            let unit = record.assignment.unit;
            let mut desired = Desired::new(record.assignment, None);
            desired.has_secrets = record.has_secrets;
            desired.is_listed = record.is_listed;
            desired.may_be_privileged = record.may_be_privileged;
            let before = Before {
                memory: record.memory,
                held: self.shared.runtimes.hold_recalled(desired.kind()),
                is_known: true,
            };
            self.shared.insert(unit, desired, before);
        }
        self.shared.fence();
    }
}

impl Shared {
    fn assign(self: &Arc<Self>, wanted: Desired) {
        let Some(unit) = wanted.assignment.as_ref().map(|it| it.unit) else {
            return;
        };
        let known = {
            let table = self.table.lock();
            table.get(&unit).map(|entry| entry.desired.clone())
        };
        let Some(known) = known else {
            return self.insert(unit, wanted, Before::default());
        };
        known.send_if_modified(|known| {
            let is_same = known.assignment == wanted.assignment
                && known.secrets == wanted.secrets
                && known.may_be_privileged == wanted.may_be_privileged
                && known.is_listed;
            if !is_same {
                *known = Desired {
                    is_fenced: known.is_fenced,
                    ..wanted
                };
            }
            !is_same
        });
    }

    /// These are not wanted any more.
    fn unlist(&self, units: &BTreeSet<UnitId>) {
        let table = self.table.lock();
        for entry in units.iter().filter_map(|unit| table.get(unit)) {
            entry.desired.send_if_modified(|desired| {
                let was_listed = desired.is_listed;
                desired.end("the server does not want it here any more");
                was_listed
            });
        }
    }

    /// Of the units of an exclusive workload only the one of the greatest epoch may run.
    fn fence(&self) {
        let table = self.table.lock();
        let epochs: Vec<(UnitId, u64)> = table
            .iter()
            .filter_map(|(unit, entry)| {
                let desired = entry.desired.borrow();
                let assignment = desired.assignment.as_ref()?;
                desired.is_exclusive().then_some((*unit, assignment.epoch))
            })
            .collect();
        for (unit, epoch) in &epochs {
            let is_stale = epochs
                .iter()
                .any(|(other, later)| other.workload == unit.workload && later > epoch);
            if let Some(entry) = table.get(unit).filter(|_| is_stale) {
                entry.desired.send_if_modified(|desired| {
                    let was_fenced = std::mem::replace(&mut desired.is_fenced, true);
                    "a later assignment took its place".clone_into(&mut desired.why);
                    !was_fenced
                });
            }
        }
    }

    /// Whether an older unit of the same exclusive workload is still here.
    pub(super) fn is_behind_another(&self, unit: UnitId, epoch: u64) -> bool {
        let table = self.table.lock();
        table.iter().any(|(other, entry)| {
            if other.workload != unit.workload || *other == unit {
                return false;
            }
            let desired = entry.desired.borrow();
            let older = desired
                .assignment
                .as_ref()
                .is_none_or(|it| it.epoch < epoch);
            older && !entry.view.lock().status.gone
        })
    }

    /// Begins to drive a unit; one that is driven already is left alone.
    pub(super) fn insert(self: &Arc<Self>, unit: UnitId, desired: Desired, before: Before) {
        let status = match &before.memory {
            Some(memory) => memory.status.clone(),
            None => {
                let now_ms = now().as_millis();
                UnitStatus::new(unit, self.node.clone(), WorkloadState::Starting, now_ms)
            }
        };
        let mut table = self.table.lock();
        if table.contains_key(&unit) {
            return;
        }
        let view = Arc::new(Mutex::new(View {
            kind: desired.kind(),
            status,
            observed: None,
            is_running: false,
            is_exclusive: desired.is_exclusive(),
            may_run: false,
            is_settled: false,
        }));
        let (desired, wanted) = watch::channel(desired);
        let (written, readings) = watch::channel(Written::default());
        let driver = Driver {
            shared: Arc::clone(self),
            unit,
            wanted,
            view: Arc::clone(&view),
            written: readings,
        };
        let driver = self.tokio.spawn(driver.drive(before));
        let driver = driver.abort_handle();
        table.insert(
            unit,
            Entry {
                desired,
                view,
                written,
                driver,
            },
        );
        drop(table);
        self.outbox.report(unit);
    }

    /// Nothing of it is left and nobody asks for it.
    pub(super) fn forget(&self, unit: UnitId) {
        let mut table = self.table.lock();
        // Listed again in the meantime: its driver goes on with that.
        if table
            .get(&unit)
            .is_some_and(|entry| !entry.desired.borrow().is_listed)
        {
            table.remove(&unit);
        }
    }
}

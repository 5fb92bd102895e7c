//! The store: records with revisions, and transactions that compare them.

use std::collections::BTreeMap;

use weft_core::service::record::{Assignment, Intent, Retry, Rollout, UnitStatus, WorkloadRecord};
use weft_core::service::{Action, Plan, has_node_data};
use weft_types::{NodeId, UnitId, WorkloadId};

/// What people decided about a node.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct NodeRecord {
    pub(super) is_cordoned: bool,
    pub(super) is_draining: bool,
}

/// Who plans, and until when nobody else may.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Leadership {
    pub(super) term: u64,
    pub(super) holder: usize,
    pub(super) until_ms: u64,
}

/// Everything that survives.
#[derive(Default)]
pub(super) struct Store {
    pub(super) revision: u64,
    pub(super) workloads: BTreeMap<WorkloadId, WorkloadRecord>,
    pub(super) rollouts: BTreeMap<WorkloadId, Rollout>,
    pub(super) retries: BTreeMap<WorkloadId, Retry>,
    pub(super) assignments: BTreeMap<UnitId, Assignment>,
    pub(super) statuses: BTreeMap<UnitId, UnitStatus>,
    pub(super) nodes: BTreeMap<NodeId, NodeRecord>,
    pub(super) leadership: Leadership,
    /// The revision at which something of a workload, its units' statuses included, changed last.
    pub(super) touched: BTreeMap<WorkloadId, u64>,
    /// The same without statuses, which no transaction compares.
    pub(super) written: BTreeMap<WorkloadId, u64>,
    /// What was in the store a moment ago, as a cache would have it.
    #[cfg(feature = "planted")]
    pub(super) stale: BTreeMap<UnitId, Assignment>,
}

/// What a plan rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis {
    pub(super) term: u64,
    pub(super) workload: WorkloadId,
    pub(super) written: u64,
}

impl Store {
    /// Somebody wrote a record of a workload.
    pub(super) fn touch(&mut self, workload: WorkloadId) {
        self.revision += 1;
        self.touched.insert(workload, self.revision);
        self.written.insert(workload, self.revision);
    }

    pub(super) fn written(&self, workload: WorkloadId) -> u64 {
        self.written.get(&workload).copied().unwrap_or(0)
    }

    /// A status, only while the assignment exists.
    pub(super) fn put_status(&mut self, status: UnitStatus, is_checked: bool) {
        let here = self.assignments.get(&status.unit);
        let is_wanted = here.is_some_and(|assignment| assignment.node == status.node);
        let is_same = self.statuses.get(&status.unit) == Some(&status);
        if (is_checked && !is_wanted) || is_same {
            return;
        }
        self.revision += 1;
        self.touched.insert(status.unit.workload, self.revision);
        self.statuses.insert(status.unit, status);
    }

    /// Carries a plan out in one transaction; `false` when what it rests on has changed.
    pub(super) fn commit(
        &mut self,
        basis: Basis,
        plan: &Plan,
        is_fenced: bool,
        now_ms: u64,
    ) -> bool {
        if is_fenced && self.leadership.term != basis.term {
            return false;
        }
        if self.written(basis.workload) != basis.written {
            return false;
        }
        #[cfg(feature = "planted")]
        self.stale.clone_from(&self.assignments);
        for action in &plan.actions {
            self.carry_out(basis.workload, action, now_ms);
        }
        if plan.actions.iter().any(Action::is_write) {
            self.touch(basis.workload);
        }
        true
    }

    fn carry_out(&mut self, workload: WorkloadId, action: &Action, now_ms: u64) {
        match action {
            Action::Assign(assignment) | Action::Stop(assignment) => {
                self.assignments
                    .insert(assignment.unit, (**assignment).clone());
            }
            Action::Forget { unit } => {
                self.assignments.remove(unit);
                self.statuses.remove(unit);
            }
            Action::SetRollout(rollout) => {
                self.rollouts.insert(workload, (**rollout).clone());
            }
            Action::SetRetry(Some(retry)) => {
                self.retries.insert(workload, (**retry).clone());
            }
            Action::SetRetry(None) => {
                self.retries.remove(&workload);
            }
            Action::Preempt { unit, why, .. } => self.preempt(*unit, why, now_ms),
            Action::DeleteWorkload => {
                self.workloads.remove(&workload);
                self.rollouts.remove(&workload);
                self.retries.remove(&workload);
            }
            Action::Event { .. } => {}
        }
    }

    fn preempt(&mut self, unit: UnitId, why: &str, now_ms: u64) {
        if let Some(assignment) = self.assignments.get_mut(&unit)
            && assignment.intent == Intent::Run
        {
            let keep = has_node_data(&assignment.spec);
            *assignment = assignment.stopping(why, now_ms, keep);
            self.touch(unit.workload);
        }
    }

    /// What a node is to have.
    pub(super) fn of_node(&self, node: &NodeId) -> BTreeMap<UnitId, Assignment> {
        of_node(&self.assignments, node)
    }

    /// The same as a cache that lags behind has it.
    #[cfg(feature = "planted")]
    pub(super) fn of_node_stale(&self, node: &NodeId) -> BTreeMap<UnitId, Assignment> {
        of_node(&self.stale, node)
    }
}

fn of_node(all: &BTreeMap<UnitId, Assignment>, node: &NodeId) -> BTreeMap<UnitId, Assignment> {
    all.iter()
        .filter(|(_, assignment)| assignment.node == *node)
        .map(|(unit, assignment)| (*unit, assignment.clone()))
        .collect()
}

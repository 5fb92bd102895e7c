//! What a plan becomes in the store, in one transaction, and what people are told of it.

use serde_json::json;
use weft_core::service::record::{Assignment, Retry, Rollout, UnitStatus, WorkloadRecord};
use weft_core::service::{Action, Plan};
use weft_store::{Compare, Op, Txn};
use weft_types::{Reason, UnitId, WorkloadId};

use super::Scheduler;
use crate::Error;
use crate::records::{put_json, unchanged};
use crate::services::apply::name_of;
use crate::services::cache::Service;

/// The largest decision that is kept with an assignment, in bytes of JSON.
const MAX_EXPLANATION_BYTES: usize = 128 << 10;

impl Scheduler<'_> {
    /// All of a plan, if nothing that it rests on has changed.
    pub(super) fn transaction(&self, service: &Service, plan: &Plan) -> Result<Txn, Error> {
        let record = &service.record.value;
        let key = WorkloadRecord::key(&record.spec.namespace, name_of(&record.spec));
        let rollout = service.rollout.as_ref().map(|kept| kept.revision);
        let retry = service.retry.as_ref().map(|kept| kept.revision);
        let mut txn = Txn::new()
            .when(self.leadership.condition())
            .when(unchanged(&key, Some(service.record.revision)))
            .when(unchanged(&Rollout::key(record.id), rollout))
            .when(unchanged(&Retry::key(record.id), retry));
        for action in &plan.actions {
            txn = self.with_action(txn, service, action, &key)?;
        }
        Ok(txn)
    }

    fn with_action(
        &self,
        txn: Txn,
        service: &Service,
        action: &Action,
        key: &str,
    ) -> Result<Txn, Error> {
        let id = service.record.value.id;
        Ok(match action {
            Action::Assign(assignment) => {
                let key = Assignment::key(assignment.unit);
                let kept = with_bounded_explanation(assignment);
                txn.when(Compare::NotExists(key.clone()))
                    .then(put_json(&key, &kept)?)
            }
            Action::Stop(assignment) => {
                let key = Assignment::key(assignment.unit);
                txn.when(unchanged(&key, revision_of(service, assignment.unit)))
                    .then(put_json(&key, assignment)?)
            }
            Action::Forget { unit } => {
                let key = Assignment::key(*unit);
                txn.when(unchanged(&key, revision_of(service, *unit)))
                    .then(Op::delete(&key))
                    .then(Op::delete(&UnitStatus::key(*unit)))
            }
            Action::SetRollout(rollout) => txn.then(put_json(&Rollout::key(id), rollout)?),
            Action::SetRetry(Some(retry)) => txn.then(put_json(&Retry::key(id), retry)?),
            Action::SetRetry(None) => txn.then(Op::delete(&Retry::key(id))),
            Action::Preempt { unit, why, .. } => self.preempting(txn, *unit, why)?,
            Action::DeleteWorkload => txn
                .then(Op::delete(key))
                .then(Op::delete(&Rollout::key(id)))
                .then(Op::delete(&Retry::key(id)))
                .then(Op::DeletePrefix {
                    prefix: format!("statuses/{id}/"),
                }),
            Action::Event { .. } => txn,
        })
    }

    /// Has a unit of another service stopped, if it still is to run.
    fn preempting(&self, txn: Txn, unit: UnitId, why: &str) -> Result<Txn, Error> {
        let workloads = &self.server.services.workloads;
        let victim = workloads.read(|tables| tables.assignment(unit).cloned());
        let Some(victim) = victim else {
            return Ok(txn);
        };
        let key = Assignment::key(unit);
        let keep_volumes = weft_core::service::has_node_data(&victim.value.spec);
        let stopping = victim.value.stopping(why, self.now_ms(), keep_volumes);
        Ok(txn
            .when(unchanged(&key, Some(victim.revision)))
            .then(put_json(&key, &stopping)?))
    }

    /// Tells people what a plan that was written does: whose service it is, and those whose units
    /// make room.
    pub(super) fn tell(&self, service: &Service, plan: &Plan) {
        let record = &service.record.value;
        let server = self.server;
        let emit = |kind: &'static str, subject: WorkloadId, data: serde_json::Value| {
            let now = server.clock.wall();
            server.events.emit(now, kind, &subject.to_string(), data);
            server.metrics.services.event(kind);
        };
        for action in &plan.actions {
            match action {
                Action::Event {
                    kind,
                    unit,
                    reason,
                    detail,
                } => {
                    let data = json!({
                        "name": name_of(&record.spec), "namespace": record.spec.namespace,
                        "unit": unit, "reason": reason, "detail": detail,
                    });
                    emit(kind, record.id, data);
                }
                Action::Preempt { unit, by, why } => {
                    let workloads = &server.services.workloads;
                    let victim = workloads.read(|tables| tables.by_id(unit.workload).cloned());
                    let Some(victim) = victim.map(|kept| kept.value) else {
                        continue;
                    };
                    let data = json!({
                        "name": name_of(&victim.spec), "namespace": victim.spec.namespace,
                        "unit": unit, "by": by, "detail": why,
                        "reason": Reason::InsufficientResources,
                    });
                    emit("service.preempted", victim.id, data);
                }
                _ => {}
            }
        }
    }
}

/// The revision of a unit's assignment as the plan saw it.
fn revision_of(service: &Service, unit: UnitId) -> Option<u64> {
    let mut units = service.units.iter();
    let found = units.find(|(kept, _)| kept.value.unit == unit);
    found.map(|(kept, _)| kept.revision)
}

/// An assignment with its decision, unless that is too large to be kept: then only the first
/// candidates, the best of them among these.
fn with_bounded_explanation(assignment: &Assignment) -> Assignment {
    let mut kept = assignment.clone();
    let size = |json: &serde_json::Value| json.to_string().len();
    if let Some(explanation) = &mut kept.explanation
        && size(explanation) > MAX_EXPLANATION_BYTES
    {
        let bytes = size(explanation);
        if let Some(considered) = explanation["considered"].as_array_mut() {
            let fits = considered.len() * MAX_EXPLANATION_BYTES / bytes;
            considered.truncate(fits.max(1));
        }
    }
    kept
}

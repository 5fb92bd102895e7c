//! An update begins; units that ended, failed or were lost.

use weft_types::Reason;

use crate::service::board::NodeHealth;
use crate::service::record::{Intent, RolloutState};

use super::draft::{Draft, Fate, Goal, Unit};

/// Failures in a row for reasons that may be the nodes' own which fail an update.
const FAILURES_THAT_END_AN_UPDATE: u32 = 3;

impl<'a> Draft<'a> {
    /// Begins an update when the record asks for another revision or another restart.
    pub(super) fn begin(&mut self) {
        let record = self.view.workload;
        let rollout = &mut self.rollout;
        if rollout.revision == record.revision && rollout.restarts == record.restarts {
            return;
        }
        let detail = if rollout.revision == record.revision {
            "its units are replaced one after the other".to_owned()
        } else {
            format!(
                "revision {} takes the place of {}",
                record.revision, rollout.revision
            )
        };
        rollout.revision = record.revision;
        rollout.restarts = record.restarts;
        rollout.state = RolloutState::Progressing {
            since_ms: self.now.now_ms,
            progress_ms: self.now.now_ms,
        };
        self.retry = None;
        self.event("service.updating", None, None, detail);
    }

    /// What units are to be like, as far as the plan has come. A rollback to the revision that the
    /// record still has (a restart failed) leaves the record's specification in force.
    pub(super) fn goal(&self) -> Goal<'_> {
        let record = self.view.workload;
        match &self.rollout.good {
            Some(good) if self.is_rolled_back() && good.revision != record.revision => Goal {
                revision: good.revision,
                spec: &good.spec,
                restarts: None,
            },
            _ => Goal {
                revision: record.revision,
                spec: &record.spec,
                restarts: (!self.is_rolled_back()).then_some(record.restarts),
            },
        }
    }

    pub(super) fn is_current(&self, unit: &Unit<'_>) -> bool {
        self.goal().is_met_by(unit.assignment)
    }

    /// Whether a unit must be known to be over before another one comes.
    pub(super) fn is_exclusive(&self, unit: &Unit<'_>) -> bool {
        !planted!(ExclusiveNotFenced)
            && (unit.assignment.spec.exclusive || self.goal().spec.exclusive)
    }

    /// Whether it is certain that an exclusive unit does not run any more: it was already to stop
    /// when its node was seen to be over. A node stops only what it knows to be exclusive when it
    /// loses its lease, so that one that was made otherwise counts until its node is gone for
    /// good.
    pub(super) fn is_fenced(&self, unit: &Unit<'_>) -> bool {
        let was_to_stop = unit.assignment.intent == Intent::Stop;
        let is_over = unit.health == NodeHealth::Gone
            || (unit.assignment.spec.exclusive && unit.health.is_fenced());
        was_to_stop && is_over
    }

    /// Looks after units that ended, failed or were lost.
    pub(super) fn tidy(&mut self) {
        for index in 0..self.units.len() {
            let unit = self.units[index];
            if unit.is_gone() {
                self.on_gone(index);
            } else if unit.health.is_lost() {
                self.on_lost(index);
            } else if unit.runs() && unit.has_given_up() {
                self.on_failed(index);
                if !planted!(FailedUnitKept) {
                    self.stop(index, "it failed for good on its node", true);
                }
            }
        }
    }

    /// Nothing is left of a unit: of one that was to stop that is the end; one that was to run
    /// has failed.
    fn on_gone(&mut self, index: usize) {
        let unit = self.units[index];
        if unit.runs() {
            if !unit.has_succeeded() {
                self.on_failed(index);
            }
            self.forget(index);
        } else if unit.assignment.keep_volumes && !unit.health.is_lost() {
            self.units[index].fate = Fate::Rests;
        } else {
            self.let_go(index, "its volumes are not needed any more");
        }
    }

    /// A unit's node cannot be heard any more.
    fn on_lost(&mut self, index: usize) {
        let unit = self.units[index];
        let is_over = !self.is_exclusive(&unit) || self.is_fenced(&unit);
        if unit.runs() {
            let node = &unit.assignment.node;
            let detail = format!("{node} was lost, and its unit with it");
            self.event(
                "service.unit-lost",
                Some(unit.id()),
                Some(Reason::NodeLost),
                detail,
            );
            self.lost += 1;
            // It is not the fault of the revision, which gets its time again.
            if let RolloutState::Progressing { progress_ms, .. } = &mut self.rollout.state {
                *progress_ms = self.now.now_ms;
            }
        }
        if is_over {
            self.forget(index);
        } else if unit.runs() {
            self.stop(index, "its node was lost", false);
        }
    }

    /// A unit failed on its node. One that is of no interest any more is only replaced.
    fn on_failed(&mut self, index: usize) {
        let unit = self.units[index];
        let status = unit.status;
        let reason = status
            .and_then(|s| s.reason)
            .unwrap_or(Reason::RuntimeError);
        let said = status.map_or("", |status| status.detail.as_str());
        let said = if said.is_empty() {
            reason.sentence()
        } else {
            said
        };
        let step = status.map_or("", |status| status.step.as_str());
        let at = if step.is_empty() { "run" } else { step };
        let detail = format!("{at} on {}: {said}", unit.assignment.node);
        self.event(
            "service.unit-failed",
            Some(unit.id()),
            Some(reason),
            detail.clone(),
        );
        if !self.is_current(&unit) {
            return;
        }
        self.failed_on.push(unit.assignment.node.clone());
        self.note_failure(&unit, reason, detail.clone());
        let is_progressing = matches!(self.rollout.state, RolloutState::Progressing { .. });
        let failures = self.retry.as_ref().map_or(0, |retry| retry.failures);
        let is_decided =
            reason.class() == weft_types::Class::User || failures >= FAILURES_THAT_END_AN_UPDATE;
        if is_progressing && is_decided {
            self.fail_update(reason, detail);
        }
    }
}

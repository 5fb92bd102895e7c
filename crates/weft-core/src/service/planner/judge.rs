//! Whether an update is complete, or has failed.

use weft_types::Reason;

use crate::service::record::{GoodRevision, RolloutState};

use super::draft::{Draft, Unit};

impl Draft<'_> {
    /// Whether a unit has been ready for long enough to count.
    pub(super) fn is_available(&self, unit: &Unit<'_>) -> bool {
        if !unit.is_surely_ready() {
            return false;
        }
        let min_ready_ms = self.update().min_ready_ms;
        let since_ms = unit.ready_since_ms.unwrap_or(self.now.now_ms);
        min_ready_ms == 0
            || unit.has_succeeded()
            || since_ms.saturating_add(min_ready_ms) <= self.now.now_ms
    }

    /// Wakes up when the next unit has been ready for long enough.
    fn await_ready(&mut self) {
        let min_ready_ms = self.update().min_ready_ms;
        let next = self.units.iter().filter_map(|unit| {
            let due_ms = unit.ready_since_ms?.saturating_add(min_ready_ms);
            (unit.runs() && due_ms > self.now.now_ms).then_some(due_ms)
        });
        if let Some(due_ms) = next.min() {
            self.wake_at(due_ms);
        }
    }

    /// Decides about the update with the number of replicas that was wanted until now.
    pub(super) fn judge(&mut self) {
        self.wanted = self.base_wanted();
        self.await_ready();
        let is_open = match self.rollout.state {
            RolloutState::Complete { .. } => {
                self.renew_good();
                false
            }
            RolloutState::Progressing { .. } => true,
            RolloutState::Failed { rolled_back, .. } => !rolled_back,
        };
        if !is_open || self.wanted == 0 {
            return;
        }
        if self.is_complete() {
            self.complete();
        } else if let RolloutState::Progressing { progress_ms, .. } = self.rollout.state {
            self.check_progress(progress_ms);
        }
    }

    /// Every wanted unit is new and available, and no old one is to run any more.
    fn is_complete(&self) -> bool {
        let mut good = 0;
        for unit in self.units.iter().filter(|unit| unit.runs()) {
            if !self.is_current(unit) {
                return false;
            }
            if self.is_available(unit) {
                good += 1;
            }
        }
        good >= self.wanted
    }

    fn complete(&mut self) {
        let revision = self.rollout.revision;
        self.rollout.state = RolloutState::Complete {
            at_ms: self.now.now_ms,
        };
        self.renew_good();
        self.event(
            "service.updated",
            None,
            None,
            format!("revision {revision} is ready"),
        );
    }

    /// The placement of a revision may change without a new one.
    fn renew_good(&mut self) {
        let is_same = self.rollout.good.as_ref().is_some_and(|good| {
            good.revision == self.rollout.revision && good.spec == *self.spec()
        });
        if !is_same {
            self.rollout.good = Some(GoodRevision {
                revision: self.rollout.revision,
                spec: self.spec().clone(),
            });
        }
    }

    /// Fails the update when nothing has become ready for too long. Counted from the last change
    /// of the record as well: a workload that was stopped for a while has had no chance.
    fn check_progress(&mut self, progress_ms: u64) {
        let current = self.units.iter().filter(|unit| self.is_current(unit));
        let ready_ms = current.filter_map(|unit| unit.ready_since_ms).max();
        let times = [
            self.past(progress_ms),
            self.past(self.view.workload.changed_ms),
            self.past(ready_ms.unwrap_or(0)),
            self.now.leading_since_ms,
        ];
        let last_ms = times.into_iter().max().unwrap_or(0);
        let due_ms = last_ms.saturating_add(self.update().deadline_ms);
        if due_ms > self.now.now_ms {
            self.wake_at(due_ms);
            return;
        }
        let (reason, detail) = self.why_no_progress();
        self.fail_update(reason, detail);
    }

    /// What a new unit that is not ready says, or what failed last.
    fn why_no_progress(&self) -> (Reason, String) {
        let stuck = self.units.iter().find_map(|unit| {
            let status = unit.status?;
            let is_stuck = unit.runs() && self.is_current(unit) && !unit.is_ready();
            (is_stuck && status.reason.is_some()).then_some((status.reason?, &status.detail))
        });
        let late = "nothing has become ready within the update's deadline";
        match (stuck, &self.retry) {
            (Some((reason, detail)), _) => (reason, format!("{late}: {detail}")),
            (None, Some(retry)) => (retry.reason, format!("{late}: {}", retry.detail)),
            (None, None) => (Reason::Timeout, late.to_owned()),
        }
    }

    /// The update has failed: what worked before comes back, if that is wanted and there is any.
    pub(super) fn fail_update(&mut self, reason: Reason, detail: String) {
        if planted!(BadRevisionGoesOn) {
            return;
        }
        let wants_back = self.update().rollback;
        let rolled_back = wants_back && self.rollout.good.is_some();
        let revision = self.rollout.revision;
        let (kind, told) = match &self.rollout.good {
            Some(good) if rolled_back => {
                let back = format!("revision {revision} failed, back to {}", good.revision);
                ("service.rolled-back", back)
            }
            _ => (
                "service.update-failed",
                format!("revision {revision} failed"),
            ),
        };
        self.event(kind, None, Some(reason), format!("{told}: {detail}"));
        self.rollout.state = RolloutState::Failed {
            at_ms: self.now.now_ms,
            reason,
            detail,
            rolled_back,
        };
        if rolled_back {
            // What worked has not failed: it comes back without a wait.
            self.retry = None;
        }
    }
}

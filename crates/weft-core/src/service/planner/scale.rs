//! How many replicas are wanted.

use std::time::Duration;

use weft_types::{Replicas, Scaling};

use crate::service::record::{Easing, RolloutState};

use super::draft::{Draft, Unit};

/// How far the load may be from what is aimed for without a change, in percent.
const TOLERANCE_PERCENT: u128 = 10;
/// How often loads are looked at.
const LOOK_MS: u64 = 5_000;
/// Replicas that may be added at once however few there are; more by doubling only.
const MIN_STEP: u32 = 4;

/// How an update goes, with what was left out filled in.
#[derive(Clone, Copy)]
pub(super) struct Update {
    pub(super) max_surge: u32,
    pub(super) max_unavailable: u32,
    pub(super) min_ready_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) rollback: bool,
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Draft<'_> {
    pub(super) fn update(&self) -> Update {
        let update = self.spec().update.clone().unwrap_or_default();
        Update {
            max_surge: update.max_surge,
            max_unavailable: update.max_unavailable,
            min_ready_ms: millis(update.min_ready),
            deadline_ms: millis(update.deadline),
            rollback: update.rollback,
        }
    }

    pub(super) fn replicas(&self) -> Replicas {
        self.spec().replicas.unwrap_or_default()
    }

    fn bounded(&self, count: u32) -> u32 {
        let Replicas { min, max, .. } = self.replicas();
        let is_by_load = self.spec().scaling.is_some();
        if is_by_load && planted!(ScaledBeyondMax) {
            return count.max(min);
        }
        if is_by_load && planted!(ScaledBelowMin) {
            return count.min(max);
        }
        let most = if self.goal().spec.exclusive {
            max.min(1)
        } else {
            max
        };
        count.max(min).min(most)
    }

    /// By people, by the autoscaler's last decision, or as specified. What people set stands until
    /// they take it back: the autoscaler rests meanwhile.
    pub(super) fn base_wanted(&self) -> u32 {
        let scaled = self.spec().scaling.as_ref().and(self.rollout.scaled);
        let set = self.view.workload.scale.or(scaled);
        self.bounded(set.unwrap_or(self.replicas().target))
    }

    /// Follows the load.
    pub(super) fn scale(&mut self) {
        self.wanted = self.base_wanted();
        let Some(scaling) = &self.spec().scaling else {
            return;
        };
        if self.view.workload.scale.is_some() {
            self.follow_people();
        }
        if self.view.workload.scale.is_some() || self.wanted == 0 {
            self.rollout.easing = None;
            return;
        }
        self.wake_at(self.now.now_ms.saturating_add(LOOK_MS));
        // Old units share the work while an update goes on, or is stuck.
        let serving: Vec<Unit<'_>> = self
            .units
            .iter()
            .filter(|unit| unit.runs() && unit.is_surely_ready())
            .copied()
            .collect();
        let asked = self.asked_for(scaling, &serving);
        let is_settled = matches!(self.rollout.state, RolloutState::Complete { .. });
        let all_known =
            serving.len() >= self.wanted as usize && serving.iter().all(|unit| unit.load.is_some());
        match asked {
            Some(count) if count < self.wanted && all_known && is_settled => {
                self.ease(scaling, count);
            }
            Some(count) if count > self.wanted && !planted!(LoadIgnored) => {
                self.rollout.easing = None;
                self.grow(scaling, count);
            }
            _ => self.rollout.easing = None,
        }
    }

    /// When people take back what they set, the load decides from there on, with its cooldowns.
    fn follow_people(&mut self) {
        if self.rollout.scaled != Some(self.wanted) {
            self.rollout.scaled = Some(self.wanted);
            self.rollout.scaled_ms = self.now.now_ms;
        }
    }

    /// More are asked for: so many more at once, for what is measured while they start says little.
    fn grow(&mut self, scaling: &Scaling, asked: u32) {
        let step = self.wanted.max(MIN_STEP);
        let next = self.bounded(asked.min(self.wanted.saturating_add(step)));
        if next > self.wanted && self.has_passed(self.last_change_ms(), scaling.up_cooldown) {
            self.set_scaled(next);
        }
    }

    /// Fewer would do: they go when that has been so for the whole cooldown, and no fewer stay
    /// than were needed in it. A pause of the load takes nothing away.
    fn ease(&mut self, scaling: &Scaling, asked: u32) {
        // What was enough before people asked for fewer says nothing any more.
        let before = self.rollout.easing.filter(|it| it.most < self.wanted);
        let since_ms = before.map(|easing| self.past(easing.since_ms));
        let most = before.map_or(0, |easing| easing.most);
        let easing = Easing {
            since_ms: since_ms.unwrap_or(self.now.now_ms),
            most: most.max(asked).max(1),
        };
        self.rollout.easing = Some(easing);
        let next = self.bounded(easing.most);
        let since_ms = self.last_change_ms().max(easing.since_ms);
        let has_waited = planted!(EasedAtOnce) || self.has_passed(since_ms, scaling.down_cooldown);
        if next < self.wanted && has_waited {
            self.rollout.easing = None;
            self.set_scaled(next);
        }
    }

    /// When the number of replicas, what they are or who decides about them changed last.
    fn last_change_ms(&self) -> u64 {
        let since_ms = match self.rollout.state {
            RolloutState::Progressing { since_ms, .. } => since_ms,
            RolloutState::Complete { at_ms } | RolloutState::Failed { at_ms, .. } => at_ms,
        };
        self.past(self.rollout.scaled_ms)
            .max(self.past(since_ms))
            .max(self.now.leading_since_ms)
    }

    fn has_passed(&self, since_ms: u64, wait: Duration) -> bool {
        since_ms.saturating_add(millis(wait)) <= self.now.now_ms
    }

    fn set_scaled(&mut self, next: u32) {
        let detail = format!("from {} to {next} replicas by load", self.wanted);
        self.event("service.scaled", None, None, detail);
        self.rollout.scaled = Some(next);
        self.rollout.scaled_ms = self.now.now_ms;
        self.wanted = next;
    }

    /// As many replicas as the most demanding figure asks for; none when nothing is known.
    fn asked_for(&self, scaling: &Scaling, serving: &[Unit<'_>]) -> Option<u32> {
        let reserved = self.goal().spec.demand();
        let loads: Vec<_> = serving.iter().filter_map(|unit| unit.load).collect();
        if loads.is_empty() {
            return None;
        }
        let sum = |figure: fn(&crate::service::record::UnitLoad) -> u64| -> u128 {
            loads.iter().map(|load| u128::from(figure(load))).sum()
        };
        let share = |whole: u64, percent: u32| u128::from(whole) * u128::from(percent);
        let cpu = scaling.cpu.map(|goal| {
            let used = sum(|load| load.cpu_millicores) * 100;
            (used, share(reserved.cpu.0, goal.0))
        });
        let memory = scaling.memory.map(|goal| {
            let used = sum(|load| load.memory_bytes) * 100;
            (used, share(reserved.memory.0, goal.0))
        });
        let requests = scaling.requests_per_second.map(|goal| {
            let asked = sum(|load| load.requests_per_1000s);
            (asked, u128::from(goal) * 1_000)
        });
        let figures = [cpu, memory, requests].into_iter().flatten();
        figures
            .filter_map(|(used, per_replica)| replicas_for(used, per_replica, self.wanted))
            .max()
    }
}

/// Enough replicas for a use in all at this much each; as many as there are when that is close.
fn replicas_for(used: u128, per_replica: u128, wanted: u32) -> Option<u32> {
    if per_replica == 0 {
        return None;
    }
    let aimed = per_replica * u128::from(wanted);
    let is_close = used.abs_diff(aimed) * 100 <= aimed * TOLERANCE_PERCENT;
    let needed = if is_close {
        u128::from(wanted)
    } else {
        used.div_ceil(per_replica)
    };
    Some(u32::try_from(needed).unwrap_or(u32::MAX))
}

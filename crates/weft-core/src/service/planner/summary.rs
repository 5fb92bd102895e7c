//! How a workload is, for people.

use weft_types::{Reason, WorkloadState};

use crate::service::board::NodeHealth;
use crate::service::record::RolloutState;
use crate::service::vocabulary::{Counts, Summary};

use super::backoff::is_permanent;
use super::draft::{Draft, Fate};

/// A state with its reason in words.
type Verdict = (WorkloadState, Option<Reason>, String);

impl Draft<'_> {
    pub(super) fn summary(&mut self) -> Summary {
        let counts = self.counts();
        let (state, reason, why) = self.verdict(counts);
        let next_try_ms = self
            .retry
            .as_ref()
            .map(|retry| retry.next_ms)
            .filter(|next_ms| *next_ms > self.now.now_ms && counts.updated < counts.wanted);
        Summary {
            state,
            reason,
            why,
            revision: self.goal().revision,
            counts,
            next_try_ms,
            waiting: self.waiting.take(),
        }
    }

    fn counts(&self) -> Counts {
        let planned = u32::try_from(self.planned.len()).unwrap_or(u32::MAX);
        let mut counts = Counts {
            wanted: self.wanted,
            existing: planned,
            updated: planned,
            ..Counts::default()
        };
        for unit in &self.units {
            let is_running = unit
                .status
                .is_some_and(|status| status.state == WorkloadState::Running && !status.gone);
            match unit.fate {
                Fate::Forgotten | Fate::Rests => continue,
                Fate::Stops => counts.stopping += 1,
                Fate::Runs => {
                    counts.ready += u32::from(unit.is_ready());
                    counts.updated += u32::from(self.is_current(unit));
                }
            }
            counts.existing += 1;
            counts.running += u32::from(is_running);
        }
        counts
    }

    fn verdict(&self, counts: Counts) -> Verdict {
        let record = self.view.workload;
        if record.deleting || record.stopped {
            return ended(record.deleting, counts);
        }
        if counts.wanted == 0 {
            let why = "no replicas are wanted".to_owned();
            return (WorkloadState::Stopped, None, why);
        }
        let running = || self.units.iter().filter(|unit| unit.runs());
        if running().any(|unit| unit.has_succeeded()) && running().all(|unit| unit.has_succeeded())
        {
            return (WorkloadState::Succeeded, None, "it ended well".to_owned());
        }
        let trouble = self.trouble();
        if counts.ready > 0 && running().all(|unit| unit.health == NodeHealth::Suspect) {
            let why = "its nodes cannot be heard".to_owned();
            return (WorkloadState::Unknown, None, why);
        }
        if counts.ready > 0 {
            let (reason, why) = match trouble {
                Some((_, reason, why)) => (reason, why),
                None if counts.ready < counts.wanted => {
                    let why = format!("{} of {} replicas are ready", counts.ready, counts.wanted);
                    (None, why)
                }
                None => (None, String::new()),
            };
            return (WorkloadState::Running, reason, why);
        }
        trouble.unwrap_or_else(|| self.way_to_run(counts))
    }

    /// What stands in the way: a failed update, a failed unit, no room.
    fn trouble(&self) -> Option<Verdict> {
        if let RolloutState::Failed {
            reason,
            detail,
            rolled_back,
            ..
        } = &self.rollout.state
        {
            let after = if *rolled_back {
                format!(", revision {} runs instead", self.goal().revision)
            } else {
                String::new()
            };
            let why = format!("revision {} failed{after}: {detail}", self.rollout.revision);
            return Some((WorkloadState::Failed, Some(*reason), why));
        }
        if let Some(waiting) = &self.waiting {
            let reason = Some(waiting.reason);
            return Some((WorkloadState::Placing, reason, waiting.detail.clone()));
        }
        let retry = self.retry.as_ref()?;
        let times = retry.failures;
        let hint = if is_permanent(retry.reason) {
            "; it is tried again, but only a change will help"
        } else {
            ""
        };
        let why = format!("failed {times} times, last {}{hint}", retry.detail);
        Some((WorkloadState::Pending, Some(retry.reason), why))
    }

    /// Nothing is ready, and nothing is wrong.
    fn way_to_run(&self, counts: Counts) -> Verdict {
        let doing = self
            .units
            .iter()
            .filter(|unit| unit.runs())
            .find_map(|unit| unit.status);
        match doing {
            Some(status) => (
                WorkloadState::Starting,
                status.reason,
                format!("{} {}", status.step, status.detail)
                    .trim()
                    .to_owned(),
            ),
            None if counts.existing > 0 => (WorkloadState::Starting, None, String::new()),
            None => (WorkloadState::Pending, None, String::new()),
        }
    }
}

fn ended(is_deleted: bool, counts: Counts) -> Verdict {
    let mut why = if is_deleted {
        "it is being deleted".to_owned()
    } else {
        "somebody stopped it".to_owned()
    };
    if counts.existing > 0 {
        why = format!("{why}, {} units are still ending", counts.existing);
    }
    (WorkloadState::Stopped, None, why)
}

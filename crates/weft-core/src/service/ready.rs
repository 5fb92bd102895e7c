//! Since when units are ready, by the scheduler's own clock.

use std::collections::BTreeMap;

use weft_types::UnitId;

use super::record::UnitStatus;

/// Since when units are ready without a break.
///
/// Kept in the memory of the scheduler's shell: after another one has taken over, units count as
/// ready since it first saw them so. That delays an update by at most `min_ready`, and never
/// lets it go on early, whatever the clocks of nodes say.
#[derive(Clone, Debug, Default)]
pub struct ReadyTimes {
    since_ms: BTreeMap<UnitId, u64>,
}

impl ReadyTimes {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A unit's status, whenever it is read or changes.
    pub fn note(&mut self, now_ms: u64, status: &UnitStatus) {
        if status.ready && !status.gone {
            self.since_ms.entry(status.unit).or_insert(now_ms);
        } else {
            self.since_ms.remove(&status.unit);
        }
    }

    /// A unit's status or assignment is gone.
    pub fn forget(&mut self, unit: UnitId) {
        self.since_ms.remove(&unit);
    }

    /// Since when a unit is ready, in milliseconds; `None` when it is not.
    pub fn since_ms(&self, unit: UnitId) -> Option<u64> {
        self.since_ms.get(&unit).copied()
    }

    /// How many units are ready.
    pub fn len(&self) -> usize {
        self.since_ms.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.since_ms.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use weft_types::{NodeId, WorkloadId, WorkloadState};

    use super::*;

    #[test]
    fn a_break_begins_the_time_anew() -> Result<(), String> {
        let unit = UnitId {
            workload: WorkloadId(1),
            number: 1,
        };
        let node: NodeId = "n".parse()?;
        let mut status = UnitStatus::new(unit, node, WorkloadState::Running, 0);
        let mut times = ReadyTimes::new();
        status.ready = true;
        times.note(10, &status);
        times.note(20, &status);
        assert_eq!(times.since_ms(unit), Some(10));
        status.ready = false;
        times.note(30, &status);
        assert_eq!(times.since_ms(unit), None);
        status.ready = true;
        times.note(40, &status);
        assert_eq!(times.since_ms(unit), Some(40));
        Ok(())
    }
}

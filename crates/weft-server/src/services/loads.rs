//! What units use, as their nodes measured it last: in memory, with its age.

use std::collections::BTreeMap;

use parking_lot::RwLock;
use weft_core::service::record::UnitLoad;
use weft_types::{Timestamp, UnitId};

/// After this long, in milliseconds, a measurement says nothing any more.
const MAX_AGE_MS: u64 = 60_000;

/// The last measurement of every unit.
#[derive(Default)]
pub struct Loads {
    units: RwLock<BTreeMap<UnitId, (UnitLoad, Timestamp)>>,
}

impl Loads {
    /// A node measured this, at this steady time.
    pub fn note(&self, measured: impl Iterator<Item = (UnitId, UnitLoad)>, now: Timestamp) {
        let mut units = self.units.write();
        for (unit, load) in measured {
            units.insert(unit, (load, now));
        }
    }

    /// What a unit used of late.
    pub fn of(&self, unit: UnitId, now: Timestamp) -> Option<UnitLoad> {
        let units = self.units.read();
        let (load, at) = units.get(&unit)?;
        (now.as_millis().saturating_sub(at.as_millis()) <= MAX_AGE_MS).then_some(*load)
    }

    /// Forgets what is too old to say anything.
    pub fn forget_old(&self, now: Timestamp) {
        let fresh = |at: Timestamp| now.as_millis().saturating_sub(at.as_millis()) <= MAX_AGE_MS;
        self.units.write().retain(|_, (_, at)| fresh(*at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::WorkloadId;

    #[test]
    fn an_old_measurement_says_nothing() {
        let loads = Loads::default();
        let unit = UnitId {
            workload: WorkloadId(1),
            number: 1,
        };
        let load = UnitLoad {
            cpu_millicores: 250,
            ..UnitLoad::default()
        };
        loads.note([(unit, load)].into_iter(), Timestamp(1_000));
        assert_eq!(loads.of(unit, Timestamp(2_000)), Some(load));
        assert_eq!(loads.of(unit, Timestamp(62_000)), None);
        loads.forget_old(Timestamp(62_000));
        assert!(loads.units.read().is_empty());
    }
}

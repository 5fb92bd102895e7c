//! What of a candidate is not reserved.

use weft_types::{Bytes, GpuRequest, Millicores, NodeCapacity, Resources};

/// What of a candidate is not reserved.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Free {
    /// CPU.
    pub cpu: Millicores,
    /// Memory.
    pub memory: Bytes,
    /// Disk.
    pub disk: Bytes,
    /// Models of GPUs and how many of each.
    pub gpus: Vec<(String, u32)>,
}

impl Free {
    /// Everything a candidate has.
    pub fn all_of(capacity: &NodeCapacity) -> Self {
        let mut gpus: Vec<(String, u32)> = Vec::new();
        for model in &capacity.gpus {
            match gpus.iter_mut().find(|(known, _)| known == model) {
                Some((_, count)) => *count += 1,
                None => gpus.push((model.clone(), 1)),
            }
        }
        gpus.sort();
        Self {
            cpu: capacity.cpu,
            memory: capacity.memory,
            disk: capacity.disk,
            gpus,
        }
    }

    /// How many units fit.
    pub fn fits(&self, need: &Resources) -> u32 {
        let of = |free: u64, need: u64| free.checked_div(need).unwrap_or(u64::from(u32::MAX));
        let amounts = [
            of(self.cpu.0, need.cpu.0),
            of(self.memory.0, need.memory.0),
            of(self.disk.0, need.disk.0),
            need.gpu
                .as_ref()
                .map_or(u64::from(u32::MAX), |gpu| u64::from(self.gpu_units(gpu))),
        ];
        let least = amounts.into_iter().min().unwrap_or(0);
        u32::try_from(least).unwrap_or(u32::MAX)
    }

    /// How many GPUs of acceptable models there are.
    pub fn gpus_for(&self, request: &GpuRequest) -> u32 {
        self.gpus
            .iter()
            .filter(|(model, _)| request.accepts(model))
            .map(|(_, count)| *count)
            .sum()
    }

    /// A unit's GPUs are of one model.
    fn gpu_units(&self, request: &GpuRequest) -> u32 {
        if request.count == 0 {
            return u32::MAX;
        }
        let accepted = self.gpus.iter().filter(|(model, _)| request.accepts(model));
        accepted.map(|(_, count)| count / request.count).sum()
    }

    /// Takes `units` out; `None` and no change when they do not fit. What it says was taken gives
    /// [`Free::give`] back exactly that.
    pub(crate) fn take(&mut self, need: &Resources, units: u32) -> Option<Taken> {
        if self.fits(need) < units {
            return None;
        }
        let many = u64::from(units);
        self.cpu.0 -= need.cpu.0 * many;
        self.memory.0 -= need.memory.0 * many;
        self.disk.0 -= need.disk.0 * many;
        let mut taken = Taken::default();
        if let Some(request) = need.gpu.as_ref().filter(|request| request.count > 0) {
            let mut left = units;
            for (model, count) in self
                .gpus
                .iter_mut()
                .filter(|(model, _)| request.accepts(model))
            {
                let here = (*count / request.count).min(left);
                if here > 0 {
                    *count -= here * request.count;
                    left -= here;
                    taken.units_by_model.push((model.clone(), here));
                }
            }
        }
        Some(taken)
    }

    /// Puts `units` back whose GPUs were of these models.
    pub(crate) fn give(&mut self, need: &Resources, units: u32, taken: &mut Taken) {
        let many = u64::from(units);
        self.cpu.0 += need.cpu.0 * many;
        self.memory.0 += need.memory.0 * many;
        self.disk.0 += need.disk.0 * many;
        let Some(request) = need.gpu.as_ref().filter(|request| request.count > 0) else {
            return;
        };
        let mut left = units;
        for (model, held) in &mut taken.units_by_model {
            let back = (*held).min(left);
            *held -= back;
            left -= back;
            if let Some((_, count)) = self.gpus.iter_mut().find(|(known, _)| known == model) {
                *count += back * request.count;
            }
        }
        taken.units_by_model.retain(|(_, held)| *held > 0);
    }
}

/// Of which models the GPUs of reserved units are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    pub(crate) units_by_model: Vec<(String, u32)>,
}

impl Taken {
    pub(crate) fn add(&mut self, more: Self) {
        for (model, units) in more.units_by_model {
            match self
                .units_by_model
                .iter_mut()
                .find(|(known, _)| *known == model)
            {
                Some((_, held)) => *held += units,
                None => self.units_by_model.push((model, units)),
            }
        }
    }
}

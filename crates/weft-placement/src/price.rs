//! What a unit costs of the node it is on.

use weft_types::{Money, NodeCapacity, Resources};

/// A unit's part of the price of its node: the greatest of its shares of CPU, memory and GPUs
/// (the dominant share of Ghodsi et al., "Dominant Resource Fairness", NSDI 2011). A
/// millionth of a dollar is not divided further, in favour of the unit.
pub fn share_of_price(capacity: &NodeCapacity, need: &Resources) -> Money {
    let gpus = need.gpu.as_ref().map_or(0, |gpu| u64::from(gpu.count));
    let shares = [
        (need.cpu.0, capacity.cpu.0),
        (need.memory.0, capacity.memory.0),
        (gpus, capacity.gpus.len() as u64),
    ];
    let price = u128::from(capacity.price_per_hour.0.unsigned_abs());
    let part = |(need, whole): (u64, u64)| {
        let need = u128::from(need);
        let whole = u128::from(whole);
        match (need, whole) {
            (0, _) => 0,
            (need, whole) if need >= whole => price,
            (need, whole) => price * need / whole,
        }
    };
    let dearest = shares.into_iter().map(part).max().unwrap_or(0);
    Money(i64::try_from(dearest).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::{Bytes, GpuRequest, Millicores};

    #[test]
    fn the_greatest_share_counts() {
        let capacity = NodeCapacity {
            cpu: Millicores(8_000),
            memory: Bytes(16 << 30),
            gpus: vec!["a".to_owned(), "a".to_owned()],
            price_per_hour: Money(1_000_000),
            ..NodeCapacity::default()
        };
        let need = |cpu, memory, gpus| Resources {
            cpu: Millicores(cpu),
            memory: Bytes(memory),
            gpu: (gpus > 0).then_some(GpuRequest {
                count: gpus,
                model: None,
            }),
            ..Resources::default()
        };
        let cost = |cpu, memory, gpus| share_of_price(&capacity, &need(cpu, memory, gpus)).0;
        assert_eq!(cost(1_000, 0, 0), 125_000);
        assert_eq!(cost(1_000, 4 << 30, 0), 250_000, "a quarter of the memory");
        assert_eq!(cost(1_000, 0, 1), 500_000, "one of two GPUs");
        assert_eq!(cost(99_000, 0, 0), 1_000_000, "never more than all of it");
        assert_eq!(cost(0, 0, 0), 0);
        assert_eq!(cost(1, 0, 0), 125);
    }
}

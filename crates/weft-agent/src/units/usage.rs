//! What units use, every few seconds. An engine that hangs delays nobody but itself.
//!
//! What an instance has written to its own layer is told to the driver of its unit, which has it
//! ended when that is more than its limit. Where no quota of the engine hinders a unit, it may
//! write what it can between two readings; of a large layer these are rarer ([`weft_unit::Sizes`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use weft_core::Monotonic;
use weft_proto::v1;
use weft_types::{RuntimeKind, UnitId};
use weft_unit::Usage;

use super::{Shared, Written};
use crate::lease;

const INTERVAL: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 5 });
/// How long one unit's figures may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How many are asked for at once.
const MAX_AT_ONCE: usize = 16;

/// What counters said at a time.
#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    usage: Usage,
    requests: u64,
}

/// Measures for as long as the agent runs. A unit that was read once has no load yet: none at all
/// is not the same as an idle one, of which there would be too many.
pub(super) async fn measure(shared: Arc<Shared>) {
    let mut last: HashMap<UnitId, Reading> = HashMap::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let running = shared.running();
        let is_running = |unit: &UnitId| running.iter().any(|(other, _)| other == unit);
        last.retain(|unit, _| is_running(unit));
        let requests = shared.ports.requests();
        let mut readings = futures::stream::iter(running)
            .map(|(unit, kind)| read(&shared, unit, kind, requests.get(&unit)))
            .buffer_unordered(MAX_AT_ONCE);
        let mut loads = Vec::new();
        // Those that do not answer in this round are left out of it.
        let round = async {
            while let Some(reading) = readings.next().await {
                if let Some((unit, now)) = reading
                    && let Some(before) = last.insert(unit, now)
                {
                    loads.push(load(unit, now, before));
                }
            }
        };
        let _ = tokio::time::timeout(INTERVAL, round).await;
        drop(readings);
        if !loads.is_empty() {
            shared.outbox.loads(v1::UnitLoads { loads });
        }
    }
}

async fn read(
    shared: &Shared,
    unit: UnitId,
    kind: RuntimeKind,
    requests: Option<&u64>,
) -> Option<(UnitId, Reading)> {
    let runtime = shared.runtimes.get(kind)?;
    let since = Monotonic(lease::now_ms());
    let usage = tokio::time::timeout(TIMEOUT, runtime.stats(unit)).await;
    let usage = usage.ok()?.ok()?;
    let bytes = usage.disk_bytes;
    shared.wrote(unit, Written { since, bytes });
    let reading = Reading {
        at: Instant::now(),
        usage,
        requests: requests.copied().unwrap_or(0),
    };
    Some((unit, reading))
}

/// The load since the last reading; a counter that went back began anew with another instance.
fn load(unit: UnitId, now: Reading, last: Reading) -> v1::UnitLoad {
    let span_us = now.at.duration_since(last.at).as_micros();
    let per = |now: u64, last: u64, scale: u128| {
        let grown = u128::from(now.checked_sub(last).unwrap_or(now));
        let rate = (grown * scale).checked_div(span_us).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    };
    v1::UnitLoad {
        unit: unit.to_string(),
        cpu_millicores: per(now.usage.cpu_us, last.usage.cpu_us, 1_000),
        memory_bytes: now.usage.memory_bytes,
        disk_bytes: now.usage.disk_bytes,
        rx_bytes: now.usage.rx_bytes,
        tx_bytes: now.usage.tx_bytes,
        requests_per_1000s: per(now.requests, last.requests, 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::WorkloadId;

    #[test]
    fn a_load_is_what_was_used_over_the_interval_in_millicores() {
        let unit = UnitId {
            workload: WorkloadId(1),
            number: 1,
        };
        let at = Instant::now();
        let reading = |seconds, cpu_us, requests| Reading {
            at: at + Duration::from_secs(seconds),
            usage: Usage {
                cpu_us,
                ..Usage::default()
            },
            requests,
        };
        let first = reading(0, 9_000_000, 100);
        let second = load(unit, reading(5, 11_500_000, 110), first);
        assert_eq!(second.cpu_millicores, 500);
        assert_eq!(second.requests_per_1000s, 2_000);
        let anew = load(unit, reading(5, 1_000_000, 0), first);
        assert_eq!(anew.cpu_millicores, 200);
    }
}

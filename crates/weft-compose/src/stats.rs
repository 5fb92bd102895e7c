//! What a unit uses: the sum of its parts.

use std::sync::Arc;

use bollard::models::ContainerStatsResponse;
use bollard::query_parameters::StatsOptionsBuilder;
use futures::StreamExt;
use weft_types::{Reason, UnitId};
use weft_unit::{Error, Sizes, Step, Usage};

use crate::engine::{Engine, Part, failed, is_gone};

/// Sums the figures of all containers that run, and what all have written to their layers.
pub(crate) async fn sum(engine: &Arc<Engine>, sizes: &Sizes, id: UnitId) -> Result<Usage, Error> {
    let parts = engine.parts(Step::Run, id, false).await?;
    let docker = engine.docker(Step::Run).await?;
    let mut total = Usage::default();
    for part in &parts {
        let options = StatsOptionsBuilder::new()
            .stream(false)
            .one_shot(true)
            .build();
        match docker.stats(&part.id, Some(options)).next().await {
            Some(Ok(stats)) => add(&mut total, &stats),
            Some(Err(error)) if !is_gone(&error) => return Err(failed(Step::Run, &error)),
            _ => {}
        }
    }
    if total.pids == 0 {
        let detail = format!("nothing of {id} runs");
        return Err(Error::new(Step::Run, Reason::RuntimeError, detail));
    }
    total.disk_bytes = sizes.of(id, &name(&parts), written(engine, id)).await;
    Ok(total)
}

/// What tells these containers from those that take their places.
fn name(parts: &[Part]) -> String {
    let ids: Vec<_> = parts.iter().map(|part| part.id.as_str()).collect();
    ids.join(" ")
}

/// What a unit's containers have written. The engine looks at all their files for that.
fn written(engine: &Arc<Engine>, id: UnitId) -> impl Future<Output = Option<u64>> + use<> {
    let engine = Arc::clone(engine);
    async move {
        let parts = engine.parts(Step::Run, id, true).await.ok()?;
        Some(parts.iter().map(|part| part.written).sum())
    }
}

fn add(total: &mut Usage, stats: &ContainerStatsResponse) {
    let cpu = stats
        .cpu_stats
        .as_ref()
        .and_then(|cpu| cpu.cpu_usage.as_ref());
    total.cpu_us += cpu.and_then(|cpu| cpu.total_usage).unwrap_or(0) / 1_000;
    if let Some(memory) = &stats.memory_stats {
        // Pages of files that the kernel gives up when it is asked to do not count.
        let detail = memory.stats.as_ref();
        let cache = detail.and_then(|stats| {
            stats
                .get("total_inactive_file")
                .or_else(|| stats.get("inactive_file"))
        });
        let used = memory.usage.unwrap_or(0);
        total.memory_bytes += used.saturating_sub(cache.copied().unwrap_or(0));
    }
    for network in stats.networks.iter().flatten().map(|(_, network)| network) {
        total.rx_bytes += network.rx_bytes.unwrap_or(0);
        total.tx_bytes += network.tx_bytes.unwrap_or(0);
    }
    let pids = stats.pids_stats.as_ref().and_then(|pids| pids.current);
    total.pids += pids.and_then(|pids| u32::try_from(pids).ok()).unwrap_or(0);
}

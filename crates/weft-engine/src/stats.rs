//! What a container uses.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{ContainerMemoryStats, ContainerStatsResponse};
use bollard::query_parameters::{InspectContainerOptionsBuilder, StatsOptionsBuilder};
use futures::StreamExt;
use weft_types::{Reason, UnitId};
use weft_unit::{Error, Sizes, Step, Usage};

use crate::error::failed;

/// Bytes that a container has written to its layer. The engine looks at all its files for that.
async fn written(docker: Docker, container: String) -> Option<u64> {
    let options = InspectContainerOptionsBuilder::new().size(true).build();
    let found = docker.inspect_container(&container, Some(options)).await;
    found.ok()?.size_rw?.try_into().ok()
}

/// What a running container uses.
pub(crate) async fn usage(
    docker: &Docker,
    sizes: &Sizes,
    id: UnitId,
    container: &str,
) -> Result<Usage, Error> {
    let options = StatsOptionsBuilder::new()
        .stream(false)
        .one_shot(true)
        .build();
    let mut stream = std::pin::pin!(docker.stats(container, Some(options)));
    let stats = match stream.next().await {
        Some(Ok(stats)) => stats,
        Some(Err(error)) => return Err(failed(Step::Run, &error)),
        None => {
            let detail = "the engine tells nothing of what the container uses";
            return Err(Error::new(Step::Run, Reason::RuntimeError, detail));
        }
    };
    let mut usage = of(&stats);
    let measure = written(docker.clone(), container.to_owned());
    usage.disk_bytes = sizes.of(id, container, measure).await;
    Ok(usage)
}

fn of(stats: &ContainerStatsResponse) -> Usage {
    let cpu = stats.cpu_stats.as_ref();
    let cpu = cpu.and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage);
    let networks = || stats.networks.iter().flat_map(HashMap::values);
    let pids = stats.pids_stats.as_ref().and_then(|pids| pids.current);
    Usage {
        cpu_us: cpu.unwrap_or(0) / 1_000,
        memory_bytes: stats.memory_stats.as_ref().map_or(0, resident),
        disk_bytes: 0,
        rx_bytes: networks().filter_map(|one| one.rx_bytes).sum(),
        tx_bytes: networks().filter_map(|one| one.tx_bytes).sum(),
        pids: u32::try_from(pids.unwrap_or(0)).unwrap_or(u32::MAX),
    }
}

/// Without what of the page cache can be dropped, as `docker stats` shows it.
fn resident(memory: &ContainerMemoryStats) -> u64 {
    let stat = |name: &str| memory.stats.as_ref()?.get(name).copied();
    let cache = stat("total_inactive_file").or_else(|| stat("inactive_file"));
    let usage = memory.usage.unwrap_or(0);
    usage.saturating_sub(cache.unwrap_or(0).min(usage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_control_groups_are_read() {
        for stat in ["total_inactive_file", "inactive_file"] {
            let json = format!(
                r#"{{"cpu_stats": {{"cpu_usage": {{"total_usage": 5000000}}}},
                    "memory_stats": {{"usage": 1000, "stats": {{"{stat}": 300}}}},
                    "pids_stats": {{"current": 3}},
                    "networks": {{"eth0": {{"rx_bytes": 1, "tx_bytes": 2}}, "eth1": {{"rx_bytes": 10, "tx_bytes": 20}}}}}}"#
            );
            let usage = of(&serde_json::from_str(&json).unwrap());
            let expected = Usage {
                cpu_us: 5_000,
                memory_bytes: 700,
                disk_bytes: 0,
                rx_bytes: 11,
                tx_bytes: 22,
                pids: 3,
            };
            assert_eq!(usage, expected);
        }
    }
}

//! What this machine has and uses.

use std::path::Path;

use weft_types::{Bytes, Millicores};

/// The machine as a whole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) cpu: Millicores,
    pub(crate) memory: Bytes,
}

impl Machine {
    /// What this process may use of the machine: its processors, and the memory of its control group.
    pub(crate) fn look() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let total = memory_kib("MemTotal").unwrap_or(1 << 20) << 10;
        let limits = [
            "/sys/fs/cgroup/memory.max",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        let limit = limits
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
            .min();
        Self {
            cpu: Millicores(cores as u64 * 1000),
            memory: Bytes(limit.map_or(total, |limit: u64| limit.min(total))),
        }
    }
}

fn memory_kib(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Memory that is in use, in bytes.
pub(crate) fn used_memory_bytes() -> u64 {
    let total = memory_kib("MemTotal").unwrap_or(0);
    total.saturating_sub(memory_kib("MemAvailable").unwrap_or(total)) << 10
}

/// Disk that is free to this user, in bytes.
pub(crate) fn free_disk_bytes(path: &Path) -> u64 {
    rustix::fs::statvfs(path).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The host name, or `node`.
pub(crate) fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if name.is_empty() {
        "node".to_owned()
    } else {
        name
    }
}

/// Models of NVIDIA GPUs, as their driver tells.
pub(crate) fn gpus() -> Vec<String> {
    let entries = std::fs::read_dir("/proc/driver/nvidia/gpus")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let text = std::fs::read_to_string(entry.path().join("information")).ok()?;
            let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
            Some(model.trim().trim_start_matches("NVIDIA ").to_owned())
        })
        .collect()
}

/// Measures how much CPU time all processes use.
#[derive(Default)]
pub(crate) struct CpuMeter {
    last: Option<(u64, u64)>,
}

impl CpuMeter {
    /// CPU in use since the last call, in millicores.
    pub(crate) fn used_millicores(&mut self) -> u64 {
        let Some((busy, total)) = cpu_ticks() else {
            return 0;
        };
        let (last_busy, last_total) = self.last.replace((busy, total)).unwrap_or((busy, total));
        let span = total.saturating_sub(last_total);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        (busy.saturating_sub(last_busy) * cores * 1000)
            .checked_div(span)
            .unwrap_or(0)
    }
}

/// Busy and total ticks since the machine started.
fn cpu_ticks() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> = text
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|tick| tick.parse().ok())
        .collect();
    let total: u64 = ticks.iter().take(8).sum();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((total - idle, total))
}

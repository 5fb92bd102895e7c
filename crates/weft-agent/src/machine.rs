//! What this machine has and uses.

use std::path::{Component, Path, PathBuf};

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
        let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let limit = memory_limit_files(&group)
            .iter()
            .filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
            .min();
        Self {
            cpu: Millicores(cores as u64 * 1000),
            memory: Bytes(limit.map_or(total, |limit: u64| limit.min(total))),
        }
    }
}

/// The files that may limit the memory of a process in these control groups (`/proc/self/cgroup`,
/// see cgroups(7)): its own group's, and those of every group above it.
fn memory_limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = if controllers.is_empty() {
            ("/sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        let group = Path::new(group.trim_start_matches('/'));
        let above = group.ancestors().filter(|path| {
            let mut parts = path.components();
            parts.all(|part| matches!(part, Component::Normal(_)))
        });
        files.extend(above.map(|path| Path::new(root).join(path).join(file)));
    }
    files
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_limited_by_the_group_and_all_above_it() {
        let files = |text| {
            let files = memory_limit_files(text);
            let files = files.iter().map(|path| path.display().to_string());
            files.collect::<Vec<_>>()
        };
        assert_eq!(
            files("0::/a/b\n"),
            [
                "/sys/fs/cgroup/a/b/memory.max",
                "/sys/fs/cgroup/a/memory.max",
                "/sys/fs/cgroup/memory.max"
            ]
        );
        assert_eq!(
            files("5:cpu,memory:/x\n4:pids:/x\n"),
            [
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes"
            ]
        );
        assert_eq!(files("0::/../x\ngarbage\n"), ["/sys/fs/cgroup/memory.max"]);
    }

    #[test]
    fn this_machine_has_processors_memory_and_disk() {
        let machine = Machine::look();
        assert!(machine.cpu.0 >= 1000 && machine.memory.0 > 1 << 20);
        assert!(free_disk_bytes(Path::new("/")) > 0);
    }
}

//! Legacy control groups: a hierarchy for each controller.

use super::layout::Mounted;
use super::{Counted, PERIOD_US, keyed, kill_members, make_directory, members, quota_us, write};
use crate::{CgroupSupport, CgroupVersion, Limits};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

/// The node's directory in the hierarchy of each controller that is used.
#[derive(Debug)]
pub(crate) struct Controllers {
    cpu: Option<PathBuf>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
}

impl Controllers {
    /// Makes the node's directories. `None` when no controller of use is mounted.
    ///
    /// # Errors
    /// When controllers are mounted and not one can be used.
    pub(crate) fn open(mounted: &Mounted, name: &str) -> io::Result<Option<Self>> {
        let mut refused = None;
        let mut directory = |controller: &str| {
            let directory = mounted.legacy.get(controller)?.join(name);
            match make_directory(&directory) {
                Ok(()) => Some(directory),
                Err(error) => {
                    refused = Some(error);
                    None
                }
            }
        };
        let found = Self {
            cpu: directory("cpu"),
            memory: directory("memory"),
            pids: directory("pids"),
        };
        let is_usable = found.roots().next().is_some();
        match (is_usable, refused) {
            (true, _) => Ok(Some(found)),
            (false, Some(error)) => Err(error),
            (false, None) => Ok(None),
        }
    }

    pub(crate) fn support(&self) -> CgroupSupport {
        CgroupSupport {
            version: CgroupVersion::V1,
            cpu: self.cpu.is_some(),
            memory: self.memory.is_some(),
            pids: self.pids.is_some(),
        }
    }

    pub(crate) fn roots(&self) -> impl Iterator<Item = &Path> {
        [&self.cpu, &self.memory, &self.pids]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    pub(crate) fn create(&self, slot: u32) -> io::Result<Group> {
        let part = |root: &Option<PathBuf>| {
            root.as_ref()
                .map(|root| Part::create(root, slot))
                .transpose()
        };
        let memory = part(&self.memory)?;
        let counters = memory
            .as_ref()
            .map(|memory| MemoryCounters::open(&memory.directory))
            .transpose()?;
        Ok(Group {
            cpu: part(&self.cpu)?,
            pids: part(&self.pids)?,
            memory,
            counters,
            limits: Limits::default(),
        })
    }
}

/// The directory of a slot in one hierarchy.
#[derive(Debug)]
struct Part {
    directory: PathBuf,
    /// `tasks`: writing `0` there moves the caller without the lock that moving another process takes.
    tasks: File,
}

impl Part {
    fn create(root: &Path, slot: u32) -> io::Result<Self> {
        let directory = root.join(format!("s{slot}"));
        make_directory(&directory)?;
        let tasks = File::options().write(true).open(directory.join("tasks"))?;
        Ok(Self { directory, tasks })
    }
}

/// Memory counters, kept open: they are read at the end of each task.
#[derive(Debug)]
struct MemoryCounters {
    peak: File,
    oom: File,
}

impl MemoryCounters {
    fn open(directory: &Path) -> io::Result<Self> {
        let peak = File::options()
            .read(true)
            .write(true)
            .open(directory.join("memory.max_usage_in_bytes"))?;
        Ok(Self {
            peak,
            oom: File::open(directory.join("memory.oom_control"))?,
        })
    }
}

/// The directories of a slot.
#[derive(Debug)]
pub(crate) struct Group {
    cpu: Option<Part>,
    memory: Option<Part>,
    pids: Option<Part>,
    counters: Option<MemoryCounters>,
    /// As last written.
    limits: Limits,
}

impl Group {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        [&self.cpu, &self.memory, &self.pids].into_iter().flatten()
    }

    pub(crate) fn entrances(&self) -> impl Iterator<Item = RawFd> {
        self.parts().map(|part| part.tasks.as_raw_fd())
    }

    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        self.parts().map(|part| part.directory.clone()).collect()
    }

    pub(crate) fn prepare(&mut self, limits: &Limits) -> io::Result<()> {
        if let Some(Part { directory, .. }) = &self.cpu {
            if limits.cpu_quota_millicores != self.limits.cpu_quota_millicores {
                write(directory, "cpu.cfs_period_us", PERIOD_US)?;
                let quota = limits
                    .cpu_quota_millicores
                    .map_or(-1, |m| quota_us(m).cast_signed());
                write(directory, "cpu.cfs_quota_us", quota)?;
            }
            if limits.cpu_weight_millicores != self.limits.cpu_weight_millicores {
                let shares = limits
                    .cpu_weight_millicores
                    .map_or(1_024, |m| m.saturating_mul(1_024) / 1_000);
                write(directory, "cpu.shares", shares.clamp(2, 262_144))?;
            }
        }
        if let Some(Part { directory, .. }) = &self.memory
            && limits.memory_bytes != self.limits.memory_bytes
        {
            write_memory(directory, limits.memory_bytes)?;
        }
        if let Some(Part { directory, .. }) = &self.pids
            && limits.processes != self.limits.processes
        {
            match limits.processes {
                Some(processes) => write(directory, "pids.max", processes)?,
                None => write(directory, "pids.max", "max")?,
            }
        }
        if let Some(counters) = self
            .counters
            .as_ref()
            .filter(|_| limits.memory_bytes.is_some())
        {
            rustix::io::pwrite(&counters.peak, b"0", 0)?;
        }
        self.limits = *limits;
        Ok(())
    }

    pub(crate) fn counted(&self) -> Counted {
        let Some(counters) = &self.counters else {
            return Counted::default();
        };
        let mut buffer = [0; 256];
        let mut read = |file: &File| {
            let length = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        let limited = self.limits.memory_bytes.is_some();
        Counted {
            oom_kills: keyed(&read(&counters.oom), "oom_kill").unwrap_or(0),
            peak_bytes: limited
                .then(|| read(&counters.peak).trim().parse().ok())
                .flatten(),
        }
    }

    pub(crate) fn kill(&mut self) -> bool {
        let Some(first) = self.parts().next().map(|part| part.directory.clone()) else {
            return true;
        };
        if members(&first).is_empty() {
            return true;
        }
        if let Some(pids) = &self.pids {
            // Nothing forks its way out of a list that was just read.
            let _ = write(&pids.directory, "pids.max", 0);
            self.limits.processes = Some(0);
        }
        kill_members(&first) == 0
    }
}

/// Memory and memory plus swap have one limit; they are checked against each other at each write.
fn write_memory(directory: &Path, limit: Option<u64>) -> io::Result<()> {
    // Without swap accounting these files do not exist, and there is nothing to limit.
    let swap = directory.join("memory.memsw.limit_in_bytes");
    let has_swap = swap.exists();
    if has_swap {
        std::fs::write(&swap, "-1")?;
    }
    let Some(bytes) = limit else {
        return write(directory, "memory.limit_in_bytes", -1);
    };
    write(directory, "memory.limit_in_bytes", bytes)?;
    if has_swap {
        std::fs::write(&swap, bytes.to_string())
    } else {
        Ok(())
    }
}

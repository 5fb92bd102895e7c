//! Control groups that bound all containers of a unit together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use weft_types::UnitId;

use crate::over::MAX_PIDS;

const MOUNT: &str = "/sys/fs/cgroup";
/// The group above all units'.
const ABOVE: &str = "weft-compose";
const PERIOD_US: u64 = 100_000;
/// How often a group is tried to be made: the one above goes with its last unit, which may be just
/// then.
const ATTEMPTS: u32 = 10;
/// The least that the kernel accepts.
const MIN_QUOTA_US: u64 = 1_000;

/// How the machine's control groups are laid out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Groups {
    mount: PathBuf,
    unified: bool,
}

/// What a unit may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Limits {
    /// Bytes.
    pub(crate) memory: u64,
    /// Millicores.
    pub(crate) cpu: u64,
}

impl Groups {
    /// The machine's, when this process may change them.
    pub(crate) fn find() -> Option<Self> {
        let mount = PathBuf::from(MOUNT);
        let groups = Self {
            unified: mount.join("cgroup.controllers").exists(),
            mount,
        };
        groups
            .hierarchies()
            .is_ok_and(|all| !all.is_empty())
            .then_some(groups)
    }

    /// The group of a unit as the engine wants to have it.
    pub(crate) fn parent(id: UnitId) -> String {
        format!("/{ABOVE}/{id}")
    }

    /// The roots of all trees of groups.
    fn hierarchies(&self) -> io::Result<Vec<PathBuf>> {
        if self.unified {
            return Ok(vec![self.mount.clone()]);
        }
        let mut roots = Vec::new();
        for entry in fs::read_dir(&self.mount)? {
            let path = entry?.path();
            if path.join("cgroup.procs").exists() {
                roots.push(path);
            }
        }
        Ok(roots)
    }

    /// Makes the group of a unit with its limits, or gives it these.
    pub(crate) fn apply(&self, id: UnitId, limits: Limits) -> io::Result<()> {
        for _ in 1..ATTEMPTS {
            match self.try_apply(id, limits) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        self.try_apply(id, limits)
    }

    fn try_apply(&self, id: UnitId, limits: Limits) -> io::Result<()> {
        let quota = (limits.cpu * PERIOD_US / 1_000).max(MIN_QUOTA_US);
        if self.unified {
            return self.apply_unified(id, limits.memory, quota);
        }
        let memory = self.make(&self.mount.join("memory"), id)?;
        put(&memory, "memory.limit_in_bytes", limits.memory)
            .or_else(|_| put(&memory, "memory.memsw.limit_in_bytes", limits.memory))?;
        if memory.join("memory.memsw.limit_in_bytes").exists() {
            put(&memory, "memory.memsw.limit_in_bytes", limits.memory)?;
            put(&memory, "memory.limit_in_bytes", limits.memory)?;
        }
        let cpu = self.make(&self.mount.join("cpu"), id)?;
        put(&cpu, "cpu.cfs_period_us", PERIOD_US)?;
        put(&cpu, "cpu.cfs_quota_us", quota)?;
        let pids = self.make(&self.mount.join("pids"), id)?;
        put(&pids, "pids.max", MAX_PIDS)
    }

    fn apply_unified(&self, id: UnitId, memory: u64, quota: u64) -> io::Result<()> {
        let above = self.mount.join(ABOVE);
        fs::create_dir_all(&above)?;
        for group in [&self.mount, &above] {
            fs::write(group.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
        }
        let group = self.make(&self.mount, id)?;
        put(&group, "memory.max", memory)?;
        if group.join("memory.swap.max").exists() {
            put(&group, "memory.swap.max", 0u64)?;
        }
        put(&group, "cpu.max", format!("{quota} {PERIOD_US}"))?;
        put(&group, "pids.max", MAX_PIDS)
    }

    fn make(&self, root: &Path, id: UnitId) -> io::Result<PathBuf> {
        let group = root.join(ABOVE).join(id.to_string());
        fs::create_dir_all(&group)?;
        Ok(group)
    }

    /// Whether any group of a unit is there.
    pub(crate) fn exists(&self, id: UnitId) -> bool {
        let group = |root: PathBuf| root.join(ABOVE).join(id.to_string());
        let roots = self.hierarchies().unwrap_or_default();
        roots.into_iter().any(|root| group(root).exists())
    }

    /// Removes the groups of a unit that has no processes any more.
    pub(crate) fn remove(&self, id: UnitId) -> io::Result<()> {
        for root in self.hierarchies()? {
            let above = root.join(ABOVE);
            remove_group(&above.join(id.to_string()))?;
            // It stays as long as another unit is in it.
            let _ = fs::remove_dir(&above);
        }
        Ok(())
    }
}

/// Removes a group with those beneath it. Their files are the kernel's and go with them.
fn remove_group(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn put(group: &Path, file: &str, value: impl ToString) -> io::Result<()> {
    let path = group.join(file);
    fs::write(&path, value.to_string())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

//! Control groups of machines: one for each, in the legacy and in the unified hierarchy.
//!
//! Groups lie beneath `weft-vm-NODE` in the group of the agent. Where the unified hierarchy has the
//! controllers, groups with members cannot have limited children ("no internal processes"), so the
//! agent first moves into a leaf of its own, beside which the groups are made.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Microseconds of a scheduling period.
const PERIOD_US: u64 = 100_000;
/// Processes and threads of one machine: those of QEMU.
const MAX_THREADS: u64 = 2_048;
/// How often a group is tried to be made: the node's goes with its last machine, which may be just
/// then.
const ATTEMPTS: u32 = 10;
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// Prefix of the leaf into which an agent moves itself, the same as the sandbox's.
const AGENT_LEAF: &str = "agent-";

/// What a machine may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    pub(crate) memory_bytes: u64,
    /// CPU in thousandths; unlimited when 0.
    pub(crate) cpu_millicores: u64,
}

/// Where groups can be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hierarchies {
    /// Own group by legacy controller.
    legacy: BTreeMap<String, PathBuf>,
    /// Own group in the unified hierarchy, when it has controllers.
    unified: Option<PathBuf>,
}

impl Hierarchies {
    /// Finds those of this process.
    pub(crate) fn find() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let mounts = read("/proc/self/mountinfo");
        let groups = read("/proc/self/cgroup");
        let mut found = Self::parse(&mounts, &groups);
        if let Some(own) = &found.unified {
            let has = std::fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
            if !has.split_whitespace().any(|name| name == "memory") {
                found.unified = None;
            }
        }
        found
    }

    /// Joins `/proc/self/mountinfo` (proc(5)) and `/proc/self/cgroup` (cgroups(7)).
    fn parse(mounts: &str, groups: &str) -> Self {
        let mut legacy = BTreeMap::new();
        let mut unified = None;
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let before: Vec<_> = before.split(' ').collect();
            let after: Vec<_> = after.split(' ').collect();
            let ([_, _, _, root, point, ..], [kind, _, options, ..]) = (&before[..], &after[..])
            else {
                continue;
            };
            let own = |controller: &str| {
                let path = own_path(groups, controller)?;
                let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
                Some(Path::new(point).join(inside))
            };
            if *kind == "cgroup2" {
                unified = unified.or_else(|| own(""));
            } else if *kind == "cgroup" {
                let ours = options.split(',').filter(|name| CONTROLLERS.contains(name));
                legacy.extend(ours.filter_map(|name| Some((name.to_owned(), own(name)?))));
            }
        }
        Self { legacy, unified }
    }

    /// The directories of a machine's group; none when nothing can be limited.
    pub(crate) fn groups(&self, node: &str, unit: &str) -> Vec<PathBuf> {
        let within = |own: &Path| own.join(format!("weft-vm-{node}")).join(unit);
        if !self.legacy.is_empty() {
            let mut all: Vec<_> = self.legacy.values().map(|own| within(own)).collect();
            // Controllers that are mounted together are one directory.
            all.dedup();
            return all;
        }
        let unified = self.unified.as_deref().map(|own| within(beside_leaf(own)));
        unified.into_iter().collect()
    }
}

/// Without the leaf into which an agent has moved itself.
fn beside_leaf(own: &Path) -> &Path {
    let is_leaf = own
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(AGENT_LEAF));
    own.parent().filter(|_| is_leaf).unwrap_or(own)
}

/// The path of this process in the hierarchy of `controller`; empty for the unified one.
fn own_path<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let mut all = controllers.split(',');
        all.any(|name| name == controller).then_some(path)
    })
}

/// Makes groups with their limits; what is told are the files by which a process enters them.
///
/// # Errors
/// When the kernel refuses a group; a limit that it does not know is left out.
pub(crate) fn make(groups: &[PathBuf], bounds: Bounds) -> io::Result<Vec<PathBuf>> {
    let mut entrances = Vec::new();
    for group in groups {
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let mut attempts = 1;
        while let Err(error) = make_one(group, bounds) {
            if !is_gone(&error) || attempts == ATTEMPTS {
                return Err(error);
            }
            attempts += 1;
        }
        entrances.push(group.join("cgroup.procs"));
    }
    Ok(entrances)
}

fn make_one(group: &Path, bounds: Bounds) -> io::Result<()> {
    if group_is_unified(group) {
        enable_controllers(group)?;
    }
    std::fs::create_dir_all(group)?;
    limit(group, bounds)
}

fn group_is_unified(group: &Path) -> bool {
    let mut above = group.ancestors();
    above.any(|dir| dir.join("cgroup.controllers").exists())
}

fn enable_controllers(group: &Path) -> io::Result<()> {
    let Some(node) = group.parent() else {
        return Ok(());
    };
    std::fs::create_dir_all(node)?;
    for parent in [node.parent().unwrap_or(node), node] {
        for controller in CONTROLLERS {
            enable(parent, controller)?;
        }
    }
    Ok(())
}

fn enable(parent: &Path, controller: &str) -> io::Result<()> {
    let value = format!("+{controller}");
    match write(parent, "cgroup.subtree_control", &value) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let leaf = parent.join(format!("{AGENT_LEAF}vm"));
            std::fs::create_dir_all(&leaf)?;
            for pid in members(parent) {
                write(&leaf, "cgroup.procs", &pid)?;
            }
            write(parent, "cgroup.subtree_control", &value)
        }
        // A controller that the hierarchy does not have limits nothing.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn members(group: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn write(group: &Path, file: &str, value: &str) -> io::Result<()> {
    std::fs::write(group.join(file), value)
}

/// Sets what the group's hierarchy has a control file for.
fn limit(group: &Path, bounds: Bounds) -> io::Result<()> {
    let memory = bounds.memory_bytes.to_string();
    let quota = (bounds.cpu_millicores.saturating_mul(PERIOD_US) / 1_000).max(1_000);
    let (quota, both) = match bounds.cpu_millicores {
        0 => ("-1".to_owned(), format!("max {PERIOD_US}")),
        _ => (quota.to_string(), format!("{quota} {PERIOD_US}")),
    };
    let wanted = [
        ("memory.limit_in_bytes", memory.clone()),
        ("memory.memsw.limit_in_bytes", memory.clone()),
        ("memory.max", memory),
        ("memory.swap.max", "0".to_owned()),
        ("cpu.cfs_period_us", PERIOD_US.to_string()),
        ("cpu.cfs_quota_us", quota),
        ("cpu.max", both),
        ("pids.max", MAX_THREADS.to_string()),
    ];
    for (file, value) in wanted {
        if group.join(file).exists() {
            write(group, file, &value)?;
        }
    }
    Ok(())
}

/// Whether the kernel killed something in the groups for memory.
pub(crate) fn was_oom_killed(groups: &[PathBuf]) -> bool {
    let killed = |group: &PathBuf| {
        ["memory.oom_control", "memory.events"].iter().any(|file| {
            let text = std::fs::read_to_string(group.join(file)).unwrap_or_default();
            let mut lines = text.lines();
            lines.any(|line| line.strip_prefix("oom_kill ").is_some_and(|n| n != "0"))
        })
    };
    groups.iter().any(killed)
}

/// Removes groups, whose processes have ended.
///
/// # Errors
/// When the kernel keeps one.
pub(crate) fn remove(groups: &[PathBuf]) -> io::Result<()> {
    for group in groups {
        match std::fs::remove_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The node's own group goes with its last machine.
        if let Some(node) = group.parent() {
            let _ = std::fs::remove_dir(node);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legacy_controllers_come_before_the_unified_hierarchy() {
        let mounts = "32 31 0:29 / /c/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/slice/a\n2:cpu,cpuacct:/\n0::/b\n";
        let found = Hierarchies::parse(mounts, groups);
        assert_eq!(
            found.groups("n", "u"),
            [
                Path::new("/c/cpu,cpuacct/weft-vm-n/u"),
                Path::new("/c/memory/slice/a/weft-vm-n/u")
            ]
        );
        let unified = Hierarchies::parse(mounts.lines().last().unwrap(), "0::/b/agent-x\n");
        assert_eq!(
            unified.groups("n", "u"),
            [Path::new("/c/unified/b/weft-vm-n/u")]
        );
    }

    #[test]
    fn limits_are_written_to_the_files_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["cpu.max", "memory.max", "pids.max"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let bounds = Bounds {
            memory_bytes: 1 << 30,
            cpu_millicores: 1_500,
        };
        limit(dir.path(), bounds).unwrap();
        let read = |file| std::fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("memory.max"), "1073741824");
        assert!(!dir.path().join("cpu.cfs_quota_us").exists());
    }

    #[test]
    fn a_process_enters_and_the_group_goes_after_it() {
        let unit = format!("test-{}", std::process::id());
        let groups = Hierarchies::find().groups("weft-vm-test", &unit);
        let bounds = Bounds {
            memory_bytes: 256 << 20,
            cpu_millicores: 500,
        };
        let Ok(entrances) = make(&groups, bounds) else {
            eprintln!("skipped: needs control groups that can be made");
            return;
        };
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        for entrance in &entrances {
            std::fs::write(entrance, child.id().to_string()).unwrap();
        }
        if !groups.is_empty() {
            assert!(remove(&groups).is_err(), "removed with a process in it");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        remove(&groups).unwrap();
        assert!(groups.iter().all(|group| !group.exists()));
        assert!(!was_oom_killed(&groups));
    }
}

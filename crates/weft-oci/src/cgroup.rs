//! Control groups of units, of either version, seen also where no hierarchy is mounted.
//!
//! `ip netns exec` mounts a new `/sys` and so hides the hierarchies; they are then opened as
//! detached mounts, which need no directory and vanish with this process.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::Error;
use crate::error::During;
use crate::proc;

/// How long the processes of a killed group may take to be gone.
const GONE: Duration = Duration::from_secs(10);
/// How long a group may take to stand still, and after how long it is tried anew.
const FROZEN: Duration = Duration::from_secs(5);
const FREEZE_AGAIN: Duration = Duration::from_millis(50);
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// How long a process that ends may take to leave its groups.
const LEFT: Duration = Duration::from_secs(2);

/// A hierarchy of version 1, or the one of version 2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hierarchy {
    /// `cpu,cpuacct`, `name=systemd`; empty for version 2.
    pub(crate) controllers: String,
}

/// The hierarchies of this machine, as `/proc/self/cgroup` lists them.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>, Error> {
    let text =
        std::fs::read_to_string("/proc/self/cgroup").during(|| "read /proc/self/cgroup".into())?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .map(|controllers| Hierarchy {
            controllers: controllers.to_owned(),
        })
        .collect())
}

/// Whether limits are set by version 2: no controller is in a hierarchy of version 1.
pub(crate) fn is_v2(hierarchies: &[Hierarchy]) -> bool {
    hierarchies
        .iter()
        .all(|hierarchy| hierarchy.controllers.is_empty() || hierarchy.controllers.contains('='))
}

/// What a unit uses, as its control group counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) cpu_us: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) pids: u32,
}

/// Every hierarchy, ready to be used.
pub(crate) struct Cgroups {
    is_v2: bool,
    /// Roots by controllers.
    roots: BTreeMap<String, PathBuf>,
    /// Detached mounts that some roots are in.
    _mounts: Vec<OwnedFd>,
}

impl Cgroups {
    /// Finds where hierarchies are mounted, and opens those that are not.
    pub(crate) fn open() -> Result<Self, Error> {
        let all = hierarchies()?;
        let mounted = mounted();
        let mut roots = BTreeMap::new();
        let mut mounts = Vec::new();
        for hierarchy in &all {
            let name = &hierarchy.controllers;
            if let Some(path) = mounted.get(name) {
                roots.insert(name.clone(), path.clone());
            } else if let Ok(mount) = open_detached(name) {
                let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
                roots.insert(name.clone(), PathBuf::from(path));
                mounts.push(mount);
            }
        }
        Ok(Self {
            is_v2: is_v2(&all),
            roots,
            _mounts: mounts,
        })
    }

    /// Whether swap can be limited.
    pub(crate) fn limits_swap(&self) -> bool {
        match self.root("memory") {
            Some(root) if !self.is_v2 => root.join("memory.memsw.limit_in_bytes").exists(),
            _ => Path::new("/proc/swaps").exists(),
        }
    }

    /// The root that a controller's files are in.
    fn root(&self, controller: &str) -> Option<&PathBuf> {
        if self.is_v2 {
            return self.roots.get("");
        }
        self.roots
            .iter()
            .find(|(names, _)| names.split(',').any(|name| name == controller))
            .map(|(_, root)| root)
    }

    fn dir(&self, controller: &str, group: &str) -> Option<PathBuf> {
        Some(self.root(controller)?.join(group.trim_start_matches('/')))
    }

    fn read(&self, controller: &str, group: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(self.dir(controller, group)?.join(file)).ok()
    }

    fn number(&self, controller: &str, group: &str, file: &str) -> Option<u64> {
        self.read(controller, group, file)?.trim().parse().ok()
    }

    fn field(&self, controller: &str, group: &str, file: &str, field: &str) -> Option<u64> {
        let text = self.read(controller, group, file)?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// What a group uses; `None` when it is not there.
    pub(crate) fn usage(&self, group: &str) -> Option<Counted> {
        let pids = self.number("pids", group, "pids.current")?;
        let (cpu_us, memory, cache) = if self.is_v2 {
            (
                self.field("cpu", group, "cpu.stat", "usage_usec"),
                self.number("memory", group, "memory.current"),
                self.field("memory", group, "memory.stat", "inactive_file"),
            )
        } else {
            (
                self.number("cpuacct", group, "cpuacct.usage")
                    .map(|ns| ns / 1000),
                self.number("memory", group, "memory.usage_in_bytes"),
                self.field("memory", group, "memory.stat", "total_inactive_file"),
            )
        };
        Some(Counted {
            cpu_us: cpu_us.unwrap_or(0),
            memory_bytes: memory.unwrap_or(0).saturating_sub(cache.unwrap_or(0)),
            pids: u32::try_from(pids).unwrap_or(u32::MAX),
        })
    }

    /// How many processes of a group were killed for want of memory.
    pub(crate) fn oom_kills(&self, group: &str) -> u64 {
        let file = match self.is_v2 {
            true => "memory.events",
            false => "memory.oom_control",
        };
        self.field("memory", group, file, "oom_kill").unwrap_or(0)
    }

    /// Puts this process into a group of the hierarchies by which a service manager tells services
    /// apart, so that a restart of the agent's service spares it.
    pub(crate) fn leave_service(&self, group: &str) {
        for name in ["", "name=systemd"] {
            if let Some(root) = self.roots.get(name) {
                let dir = root.join(group.trim_start_matches('/'));
                let _ = std::fs::create_dir_all(&dir);
                let _ = std::fs::write(dir.join("cgroup.procs"), "0");
            }
        }
    }

    /// Lets what is in a group stand still; done when all of it does. What cannot goes on.
    pub(crate) fn freeze(&self, group: &str) -> Result<(), Error> {
        let end = Instant::now() + FROZEN;
        loop {
            self.set_frozen(group, true)?;
            let again = Instant::now() + FREEZE_AGAIN;
            while Instant::now() < again {
                if self.is_frozen(group) {
                    return Ok(());
                }
                std::thread::sleep(LOOK_AGAIN);
            }
            // Version 1 never gets there with a process that waits for its threads to end, as in
            // execve(2), when these stand still already.
            self.set_frozen(group, false)?;
            if Instant::now() > end {
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(Error::io(format!("freeze control group {group}"), error));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Lets what stands still in a group go on; a group that is not there is no error.
    pub(crate) fn thaw(&self, group: &str) -> Result<(), Error> {
        match self.dir(self.freezer(), group) {
            Some(dir) if dir.exists() => self.set_frozen(group, false),
            _ => Ok(()),
        }
    }

    fn set_frozen(&self, group: &str, is_frozen: bool) -> Result<(), Error> {
        let (file, word) = match (self.is_v2, is_frozen) {
            (true, true) => ("cgroup.freeze", "1"),
            (true, false) => ("cgroup.freeze", "0"),
            (false, true) => ("freezer.state", "FROZEN"),
            (false, false) => ("freezer.state", "THAWED"),
        };
        let what = || format!("write {word} to {file} of control group {group}");
        let none = || std::io::Error::from(std::io::ErrorKind::Unsupported);
        let dir = self.dir(self.freezer(), group).ok_or_else(none);
        std::fs::write(dir.during(what)?.join(file), word).during(what)
    }

    /// Whether everything in a group stands still.
    pub(crate) fn is_frozen(&self, group: &str) -> bool {
        match self.is_v2 {
            true => self.field("", group, "cgroup.events", "frozen") == Some(1),
            false => {
                let state = self.read(self.freezer(), group, "freezer.state");
                state.is_some_and(|state| state.trim() == "FROZEN")
            }
        }
    }

    /// The controller that lets groups stand still; version 2 needs none.
    fn freezer(&self) -> &'static str {
        if self.is_v2 { "" } else { "freezer" }
    }

    /// Kills what is in a group and those below, and removes them. What is not there is removed.
    pub(crate) fn remove(&self, group: &str) -> Result<(), Error> {
        let end = Instant::now() + GONE;
        // What stands still does not die either, in version 1.
        self.thaw(group)?;
        for root in self.roots.values() {
            let dir = root.join(group.trim_start_matches('/'));
            while let Err(error) = remove_group(&dir) {
                if Instant::now() > end {
                    return Err(Error::io(format!("remove control group {group}"), error));
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// Names of the groups right below one.
    pub(crate) fn below(&self, group: &str) -> Vec<String> {
        let dir = self.dir("pids", group).map(std::fs::read_dir);
        let entries = dir.into_iter().flatten().flatten().flatten();
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        groups
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Removes a group that nothing is in any more. A process that ends lets go of its locks before
    /// it leaves its groups: for such a one it waits.
    pub(crate) fn remove_if_empty(&self, group: &str) {
        let end = Instant::now() + LEFT;
        for root in self.roots.values() {
            let dir = root.join(group.trim_start_matches('/'));
            while std::fs::remove_dir(&dir).is_err() && is_being_left(&dir) && Instant::now() < end
            {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }
}

/// Whether a group has none but processes that are ending.
fn is_being_left(dir: &Path) -> bool {
    let Ok(members) = std::fs::read_to_string(dir.join("cgroup.procs")) else {
        return false;
    };
    let mut entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let has_groups = entries.any(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    !has_groups && members.lines().all(is_ending)
}

/// Whether the kernel is taking a process down (`PF_EXITING` of proc_pid_stat(5)'s flags), or it is
/// gone.
fn is_ending(pid: &str) -> bool {
    const EXITING: u64 = 0x4;
    let flags = pid.parse().ok().and_then(|pid| proc::stat_field(pid, 9));
    flags.is_none_or(|flags: u64| flags & EXITING != 0)
}

fn remove_group(dir: &Path) -> std::io::Result<()> {
    if std::fs::remove_dir(dir).is_ok() || !dir.exists() {
        return Ok(());
    }
    if std::fs::write(dir.join("cgroup.kill"), "1").is_err() {
        let members = std::fs::read_to_string(dir.join("cgroup.procs"))?;
        for member in members.lines().filter_map(|line| line.parse().ok()) {
            if let Some(pid) = rustix::process::Pid::from_raw(member) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}

/// Where whole hierarchies are mounted, by controllers.
fn mounted() -> BTreeMap<String, PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (Some(&"/"), Some(path)) = (left.get(3), left.get(4)) else {
            continue;
        };
        let name = match right.as_slice() {
            ["cgroup2", ..] => String::new(),
            ["cgroup", _, options, ..] => controllers(options),
            _ => continue,
        };
        found.entry(name).or_insert_with(|| PathBuf::from(path));
    }
    found
}

/// The controllers among the options of a mount, in the order of `/proc/self/cgroup`.
fn controllers(options: &str) -> String {
    let is_flag = |option: &&str| matches!(*option, "rw" | "ro" | "xattr" | "clone_children");
    let names: Vec<&str> = options
        .split(',')
        .filter(|option| !is_flag(option) && !option.starts_with("release_agent="))
        .collect();
    names.join(",")
}

fn open_detached(controllers: &str) -> rustix::io::Result<OwnedFd> {
    let kind = if controllers.is_empty() {
        "cgroup2"
    } else {
        "cgroup"
    };
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in controllers.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => {
                rustix::mount::fsconfig_set_flag(&context, "none")?;
                rustix::mount::fsconfig_set_string(&context, key, value)?;
            }
            None => rustix::mount::fsconfig_set_flag(&context, option)?,
        }
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ending_once_the_kernel_takes_it_down() {
        assert!(!is_ending(&std::process::id().to_string()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id().to_string();
        let end = Instant::now() + Duration::from_secs(10);
        while !is_ending(&pid) {
            assert!(Instant::now() < end);
            std::thread::sleep(LOOK_AGAIN);
        }
        child.wait().unwrap();
        assert!(is_ending(&pid));
    }

    #[test]
    fn options_of_a_mount_name_its_controllers() {
        assert_eq!(controllers("rw,cpu,cpuacct"), "cpu,cpuacct");
        assert_eq!(controllers("rw,xattr,name=systemd"), "name=systemd");
    }

    #[test]
    fn only_named_hierarchies_beside_version_2_leave_the_limits_to_it() {
        let all = |names: &[&str]| -> Vec<Hierarchy> {
            let one = |name: &&str| Hierarchy {
                controllers: (*name).to_owned(),
            };
            names.iter().map(one).collect()
        };
        assert!(is_v2(&all(&[""])));
        assert!(is_v2(&all(&["name=systemd", ""])));
        assert!(!is_v2(&all(&["memory", "name=systemd", ""])));
    }
}

//! Control groups: one per task slot, reused by the tasks that take the slot in turn.
//!
//! All of a node's groups are beneath one directory `weft-<tag>` per hierarchy, by which a later life of the node
//! finds them. Making a group costs more than starting a process, so a slot keeps its group and only rewrites the
//! limits that differ from those of the task before.

pub(crate) mod layout;
mod v1;
mod v2;

use crate::{CgroupSupport, CgroupVersion, Limits};
use layout::Mounted;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

/// The hierarchy in which this node's groups are.
#[derive(Debug)]
pub(crate) enum Hierarchy {
    /// No group can be made.
    None,
    /// One hierarchy a controller.
    V1(v1::Controllers),
    /// The unified hierarchy.
    V2(v2::Tree),
}

impl Hierarchy {
    /// Finds a hierarchy in which groups can be made, and makes the node's directory in it. Legacy controllers are
    /// preferred when they are mounted: the unified hierarchy then does not have them.
    ///
    /// # Errors
    /// When none can be used; the caller goes on without.
    pub(crate) fn open(tag: &str) -> io::Result<Self> {
        let mounted = Mounted::read()?;
        match v1::Controllers::open(&mounted, &directory_name(tag)) {
            Ok(Some(controllers)) => return Ok(Self::V1(controllers)),
            Ok(None) => {}
            Err(error) if mounted.unified.is_none() => return Err(error),
            Err(_) => {}
        }
        match mounted.unified {
            Some(own) => v2::Tree::open(&own, tag).map(Self::V2),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup file system is mounted",
            )),
        }
    }

    /// What can be limited.
    pub(crate) fn support(&self) -> CgroupSupport {
        match self {
            Self::None => CgroupSupport {
                version: CgroupVersion::None,
                cpu: false,
                memory: false,
                pids: false,
            },
            Self::V1(controllers) => controllers.support(),
            Self::V2(tree) => tree.support(),
        }
    }

    /// The group of a slot, made now.
    ///
    /// # Errors
    /// When the kernel refuses another directory.
    pub(crate) fn create(&self, slot: u32) -> io::Result<Option<Group>> {
        Ok(match self {
            Self::None => None,
            Self::V1(controllers) => Some(Group::V1(controllers.create(slot)?)),
            Self::V2(tree) => Some(Group::V2(tree.create(slot)?)),
        })
    }

    fn roots(&self) -> Vec<&Path> {
        match self {
            Self::None => Vec::new(),
            Self::V1(controllers) => controllers.roots().collect(),
            Self::V2(tree) => vec![tree.root()],
        }
    }

    /// Moves the calling process into a group of its own in the node's directory. What it starts inherits that unless
    /// it enters the group of a slot, so that a sweep finds all of it, at no cost for each.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let Some(directory) = self.roots().last().map(|root| root.join(SPAWNER_LEAF)) else {
            return Ok(());
        };
        make_directory(&directory)?;
        write(&directory, "cgroup.procs", 0)
    }

    /// Moves the calling process back and removes the node's directory and every group in it, which must be empty.
    pub(crate) fn remove(&self) {
        for root in self.roots() {
            let base = root.parent().unwrap_or(root);
            // In the unified hierarchy the base takes no processes once it has controllers for its children, and they
            // are in a leaf beside.
            let leaves = subdirectories(base)
                .into_iter()
                .filter(|leaf| v2::is_agent_leaf(leaf));
            for directory in std::iter::once(base.to_path_buf()).chain(leaves) {
                if write(&directory, "cgroup.procs", 0).is_ok() {
                    break;
                }
            }
            remove_tree(root);
        }
    }
}

/// The group of the spawner and of what needs no group of its own.
const SPAWNER_LEAF: &str = "spawner";

/// Makes a directory unless it exists.
fn make_directory(directory: &Path) -> io::Result<()> {
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Name of a node's directory in each hierarchy.
pub(crate) fn directory_name(tag: &str) -> String {
    format!("weft-{tag}")
}

/// The group of one slot.
#[derive(Debug)]
pub(crate) enum Group {
    /// A directory in each legacy hierarchy.
    V1(v1::Group),
    /// A directory in the unified hierarchy.
    V2(v2::Group),
}

/// What a group has counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    /// Processes of it that the kernel killed for memory, ever.
    pub(crate) oom_kills: u64,
    /// Peak memory since the last [`Group::prepare`], where the kernel can tell.
    pub(crate) peak_bytes: Option<u64>,
}

impl Group {
    /// Sets the limits of the next task.
    ///
    /// # Errors
    /// When a control file refuses its value.
    pub(crate) fn prepare(&mut self, limits: &Limits) -> io::Result<()> {
        match self {
            Self::V1(group) => group.prepare(limits),
            Self::V2(group) => group.prepare(limits),
        }
    }

    /// Files to which a process writes `0` to enter the group. Not needed after a clone into
    /// [`Group::clone_target`].
    pub(crate) fn entrances(&self) -> Vec<RawFd> {
        match self {
            Self::V1(group) => group.entrances().collect(),
            Self::V2(group) => vec![group.entrance()],
        }
    }

    /// Directory into which a process can be cloned (`CLONE_INTO_CGROUP`).
    pub(crate) fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::V1(_) => None,
            Self::V2(group) => Some(group.directory()),
        }
    }

    /// Reads the counters.
    pub(crate) fn counted(&self) -> Counted {
        match self {
            Self::V1(group) => group.counted(),
            Self::V2(group) => group.counted(),
        }
    }

    /// Kills what is in the group; true when it is empty.
    pub(crate) fn kill(&mut self) -> bool {
        match self {
            Self::V1(group) => group.kill(),
            Self::V2(group) => group.kill(),
        }
    }

    /// Removes the group, which must be empty.
    pub(crate) fn remove(self) {
        for directory in match self {
            Self::V1(group) => group.directories(),
            Self::V2(group) => vec![group.path().to_path_buf()],
        } {
            // A zombie not yet reaped keeps it busy; the removal of the node's directory tries again.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Removes a directory of groups, deepest first; true when it is gone.
pub(crate) fn remove_tree(directory: &Path) -> bool {
    for child in subdirectories(directory) {
        remove_tree(&child);
    }
    match std::fs::remove_dir(directory) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The groups directly in a group.
pub(crate) fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let directories = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// The processes directly in a group.
pub(crate) fn members(directory: &Path) -> Vec<i32> {
    let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Sends SIGKILL to the processes directly in a group and returns how many there were.
pub(crate) fn kill_members(directory: &Path) -> usize {
    let members = members(directory);
    for pid in &members {
        if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
            // A process that ended meanwhile is what is wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    members.len()
}

/// Writes a control file.
fn write(directory: &Path, file: &str, value: impl std::fmt::Display) -> io::Result<()> {
    std::fs::write(directory.join(file), value.to_string())
}

/// The value after `key ` in a flat keyed file.
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Microseconds of a scheduling period.
const PERIOD_US: u64 = 100_000;

/// CPU time in one period for a number of thousandths of a core; the kernel wants at least a millisecond.
fn quota_us(millicores: u64) -> u64 {
    (millicores.saturating_mul(PERIOD_US) / 1_000).max(1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyed_values_are_found_by_their_whole_key() {
        let text = "low 1\noom 2\noom_kill 3\noom_group_kill 4\n";
        assert_eq!(keyed(text, "oom_kill"), Some(3));
        assert_eq!(keyed(text, "oom"), Some(2));
        assert_eq!(keyed(text, "high"), None);
    }

    #[test]
    fn half_a_core_is_half_a_period_and_a_tiny_share_is_a_millisecond() {
        assert_eq!(quota_us(500), 50_000);
        assert_eq!(quota_us(1), 1_000);
    }
}

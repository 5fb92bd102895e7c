//! The unified control group hierarchy.
//!
//! Groups are made beside the agent in the group it was started in, which a service manager must have delegated
//! when the agent is not root. A group with controllers enabled for its children may not have processes of its own
//! (cgroup v2, "no internal process constraint"), so the agent first moves into a leaf.

use super::{Counted, PERIOD_US, keyed, kill_members, make_directory, members, quota_us, write};
use crate::{CgroupSupport, CgroupVersion, Limits};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::{Path, PathBuf};

const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// Prefix of the leaf that holds the agent itself.
const AGENT_LEAF: &str = "agent-";

/// The node's directory.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
    enabled: [bool; 3],
}

impl Tree {
    /// Makes the node's directory beside the agent, whose own group is `own`.
    ///
    /// # Errors
    /// When it is not writable.
    pub(crate) fn open(own: &Path, tag: &str) -> io::Result<Self> {
        let base = own.parent().filter(|_| is_agent_leaf(own)).unwrap_or(own);
        let root = base.join(super::directory_name(tag));
        make_directory(&root)?;
        let enabled = CONTROLLERS.map(|controller| {
            enable(base, controller, tag)
                .and_then(|()| enable(&root, controller, tag))
                .is_ok()
        });
        Ok(Self { root, enabled })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn support(&self) -> CgroupSupport {
        let [cpu, memory, pids] = self.enabled;
        CgroupSupport {
            version: CgroupVersion::V2,
            cpu,
            memory,
            pids,
        }
    }

    pub(crate) fn create(&self, slot: u32) -> io::Result<Group> {
        let path = self.root.join(format!("s{slot}"));
        make_directory(&path)?;
        let entrance = File::options()
            .write(true)
            .open(path.join("cgroup.procs"))?;
        let directory = File::open(&path)?;
        Ok(Group {
            path,
            directory,
            entrance,
            enabled: self.enabled,
            limits: Limits::default(),
        })
    }
}

/// Whether a group is one into which an agent moved itself.
pub(super) fn is_agent_leaf(group: &Path) -> bool {
    group
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(AGENT_LEAF))
}

/// Enables a controller for the children of `group`, moving its processes into a leaf when they are in the way.
fn enable(group: &Path, controller: &str, tag: &str) -> io::Result<()> {
    let value = format!("+{controller}");
    match write(group, "cgroup.subtree_control", &value) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            let leaf = group.join(format!("{AGENT_LEAF}{tag}"));
            let _ = std::fs::create_dir(&leaf);
            for pid in members(group) {
                write(&leaf, "cgroup.procs", pid)?;
            }
            write(group, "cgroup.subtree_control", &value)
        }
        other => other,
    }
}

/// The directory of a slot.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    directory: File,
    entrance: File,
    enabled: [bool; 3],
    /// As last written.
    limits: Limits,
}

impl Group {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn entrance(&self) -> RawFd {
        self.entrance.as_raw_fd()
    }

    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    pub(crate) fn prepare(&mut self, limits: &Limits) -> io::Result<()> {
        let [cpu, memory, pids] = self.enabled;
        if cpu && limits.cpu_quota_millicores != self.limits.cpu_quota_millicores {
            let quota = limits
                .cpu_quota_millicores
                .map_or("max".to_owned(), |m| quota_us(m).to_string());
            write(&self.path, "cpu.max", format_args!("{quota} {PERIOD_US}"))?;
        }
        if cpu && limits.cpu_weight_millicores != self.limits.cpu_weight_millicores {
            let weight = limits.cpu_weight_millicores.map_or(100, |m| m / 10);
            write(&self.path, "cpu.weight", weight.clamp(1, 10_000))?;
        }
        if memory && limits.memory_bytes != self.limits.memory_bytes {
            match limits.memory_bytes {
                Some(bytes) => write(&self.path, "memory.max", bytes)?,
                None => write(&self.path, "memory.max", "max")?,
            }
            // Absent without swap accounting.
            let _ = write(
                &self.path,
                "memory.swap.max",
                if limits.memory_bytes.is_some() {
                    "0"
                } else {
                    "max"
                },
            );
        }
        if pids && limits.processes != self.limits.processes {
            match limits.processes {
                Some(processes) => write(&self.path, "pids.max", processes)?,
                None => write(&self.path, "pids.max", "max")?,
            }
        }
        self.limits = *limits;
        Ok(())
    }

    /// The peak cannot be reset per task on kernels before 6.12, so it is left out.
    pub(crate) fn counted(&self) -> Counted {
        if self.limits.memory_bytes.is_none() {
            return Counted::default();
        }
        let events = std::fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        Counted {
            oom_kills: keyed(&events, "oom_kill").unwrap_or(0),
            peak_bytes: None,
        }
    }

    pub(crate) fn kill(&mut self) -> bool {
        let left = members(&self.path);
        if left.is_empty() {
            return true;
        }
        // Before Linux 5.14 there is no such file.
        if write(&self.path, "cgroup.kill", 1).is_err() {
            kill_members(&self.path);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::layout::Mounted;

    #[test]
    fn a_process_put_into_a_unified_group_is_killed_with_it() {
        let Some(own) = Mounted::read().unwrap().unified else {
            return;
        };
        let Ok(tree) = Tree::open(&own, &format!("v2test-{}", std::process::id())) else {
            return;
        };
        let mut group = tree.create(0).unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        write(group.path(), "cgroup.procs", child.id()).unwrap();
        assert!(!group.kill(), "the group still had a member");
        assert!(!child.wait().unwrap().success());
        assert!(group.kill(), "the group is empty");
        crate::cgroup::Group::V2(group).remove();
        assert!(crate::cgroup::remove_tree(tree.root()), "the tree is gone");
    }
}

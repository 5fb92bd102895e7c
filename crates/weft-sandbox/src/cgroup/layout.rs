//! Where the control group file systems are mounted and where in them this process is.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The directories of this process' own groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Per legacy controller.
    pub(crate) legacy: BTreeMap<String, PathBuf>,
    /// In the unified hierarchy.
    pub(crate) unified: Option<PathBuf>,
}

impl Mounted {
    /// Reads it from `/proc/self`.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub(crate) fn read() -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let groups = std::fs::read_to_string("/proc/self/cgroup")?;
        Ok(Self::parse(&mounts, &groups))
    }

    /// Joins `/proc/self/mountinfo` (proc(5)) and `/proc/self/cgroup` (cgroups(7)).
    fn parse(mounts: &str, groups: &str) -> Self {
        let mut mounted = Self::default();
        for line in mounts.lines() {
            let Some((fields, (kind, options))) = split_mount(line) else {
                continue;
            };
            let [_, _, _, root, point, ..] = fields[..] else {
                continue;
            };
            let own = |controller: &str| {
                own_directory(Path::new(point), root, own_path(groups, controller)?)
            };
            if kind == "cgroup2" {
                mounted.unified = mounted.unified.or_else(|| own(""));
            } else if kind == "cgroup" {
                for controller in options.split(',') {
                    if let Some(directory) = own(controller) {
                        mounted
                            .legacy
                            .entry(controller.to_owned())
                            .or_insert(directory);
                    }
                }
            }
        }
        mounted
    }
}

/// The fields before the separator, and the file system type with its options.
fn split_mount(line: &str) -> Option<(Vec<&str>, (&str, &str))> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let kind = after.next()?;
    let options = after.nth(1)?;
    Some((before.split(' ').collect(), (kind, options)))
}

/// The path of this process in the hierarchy of `controller`; empty for the unified one.
fn own_path<'a>(groups: &'a str, controller: &str) -> Option<&'a str> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        controllers
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    })
}

/// The directory of group `path` in a hierarchy whose group `root` is mounted at `point`. A path outside of what is
/// mounted (a container that sees the host's paths) is taken as the mounted root.
fn own_directory(point: &Path, root: &str, path: &str) -> Option<PathBuf> {
    let inside = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
    let directory = point.join(inside);
    Some(if directory.is_dir() || cfg!(test) {
        directory
    } else {
        point.to_path_buf()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hierarchies_are_told_apart() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /c/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             35 31 0:32 / /c/memory rw - cgroup cgroup rw,memory\n\
             41 31 0:38 / /c/unified rw - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/slice/a\n2:cpu,cpuacct:/\n1:name=systemd:/\n0::/b\n";
        let mounted = Mounted::parse(mounts, groups);
        assert_eq!(mounted.legacy["memory"], Path::new("/c/memory/slice/a"));
        assert_eq!(mounted.legacy["cpu"], Path::new("/c/cpu,cpuacct/"));
        assert_eq!(mounted.unified.as_deref(), Some(Path::new("/c/unified/b")));
    }

    #[test]
    fn a_container_whose_mount_root_is_its_own_group_is_at_the_mount_point() {
        let mounts = "41 31 0:38 /docker/x /c rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            Mounted::parse(mounts, "0::/docker/x\n").unified.as_deref(),
            Some(Path::new("/c/"))
        );
        assert_eq!(
            Mounted::parse(mounts, "0::/docker/x/y\n")
                .unified
                .as_deref(),
            Some(Path::new("/c/y"))
        );
    }
}

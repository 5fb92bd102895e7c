//! Finds and removes what a previous life of this node left behind.

use crate::cgroup::layout::Mounted;
use crate::cgroup::{directory_name, kill_members, remove_tree, subdirectories};
use crate::{Error, MARKER_VARIABLE};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the dead may take to end, and again to leave their groups. On a machine with more work
/// than time they take seconds, and what is left of them keeps the agent from starting.
const MAX_SWEEP: Duration = Duration::from_secs(10);
/// Between looks at them.
const PAUSE: Duration = Duration::from_millis(5);
/// Bytes of an environment searched for the marker, which comes first.
const ENVIRONMENT_BYTES: u64 = 4_096;

/// What [`sweep`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes killed.
    pub processes: u32,
    /// Cgroups removed.
    pub cgroups: u32,
}

/// Kills the processes and removes the cgroups that a killed agent of this node left (`weft-<node_tag>`).
/// To be called at agent start, before [`Client::start`](crate::Client::start). Blocks for as
/// long as the dead take to be gone, at most twenty seconds.
///
/// # Errors
/// When something of it cannot be removed.
pub fn sweep(node_tag: &str) -> Result<Swept, Error> {
    crate::spawner::check_tag(node_tag)?;
    let mut swept = Swept {
        processes: kill_marked(&format!("{node_tag}.")),
        cgroups: 0,
    };
    let deadline = Instant::now() + MAX_SWEEP;
    for root in group_roots(node_tag)? {
        swept.cgroups += count_groups(&root);
        loop {
            swept.processes += kill_tree(&root);
            if remove_tree(&root) {
                break;
            }
            if Instant::now() > deadline {
                let source = std::io::Error::from(std::io::ErrorKind::ResourceBusy);
                return Err(Error::System {
                    context: "cannot remove a cgroup of an earlier life of this node",
                    source,
                });
            }
            std::thread::sleep(PAUSE);
        }
    }
    Ok(swept)
}

/// The node's directories in all hierarchies, also where this life is in another group than the last.
fn group_roots(node_tag: &str) -> Result<Vec<PathBuf>, Error> {
    let mounted = Mounted::read().map_err(Error::system("cannot read the mount table"))?;
    let own = mounted.legacy.into_values().chain(mounted.unified);
    let candidates = own.flat_map(|own| {
        own.ancestors()
            .map(|base| base.join(directory_name(node_tag)))
            .collect::<Vec<_>>()
    });
    Ok(candidates
        .filter(|root| root.join("cgroup.procs").exists())
        .collect())
}

fn count_groups(root: &Path) -> u32 {
    1 + subdirectories(root)
        .iter()
        .map(|child| count_groups(child))
        .sum::<u32>()
}

fn kill_tree(root: &Path) -> u32 {
    let below: u32 = subdirectories(root)
        .iter()
        .map(|child| kill_tree(child))
        .sum();
    below + u32::try_from(kill_members(root)).unwrap_or(u32::MAX)
}

/// Kills every process whose marker begins with `prefix`, until a look finds none, and returns how many were found.
fn kill_marked(prefix: &str) -> u32 {
    let marker = format!("{MARKER_VARIABLE}={prefix}");
    let deadline = Instant::now() + MAX_SWEEP;
    let mut killed = 0;
    loop {
        let found = kill_marked_once(&marker);
        killed += found;
        if found == 0 || Instant::now() > deadline {
            return killed;
        }
        std::thread::sleep(PAUSE);
    }
}

fn kill_marked_once(marker: &str) -> u32 {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let killed = pids
        .filter_map(Pid::from_raw)
        .filter(|pid| kill_if_marked(*pid, marker));
    u32::try_from(killed.count()).unwrap_or(u32::MAX)
}

fn kill_if_marked(pid: Pid, marker: &str) -> bool {
    // Opened before looking, so that the id cannot pass to another process in between.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return false;
    };
    let mut environment = Vec::new();
    let Ok(file) = std::fs::File::open(format!("/proc/{}/environ", pid.as_raw_nonzero())) else {
        return false;
    };
    if file
        .take(ENVIRONMENT_BYTES)
        .read_to_end(&mut environment)
        .is_err()
    {
        return false;
    }
    let marked = environment
        .split(|byte| *byte == 0)
        .any(|variable| variable.starts_with(marker.as_bytes()));
    marked && pidfd_send_signal(process, Signal::KILL).is_ok()
}

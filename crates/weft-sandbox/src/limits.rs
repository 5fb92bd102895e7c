//! Resource limits of one process (`setrlimit`), and what stands in for missing cgroups.

use crate::{CgroupSupport, Limits};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The rlimits of a process, computed before it is forked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rlimits(Vec<(Resource, Rlimit)>);

/// Lets the spawner have as many descriptors as it may, and returns what its children get instead.
pub(crate) fn raise_open_files() -> Rlimit {
    let usual = getrlimit(Resource::Nofile);
    // Not raised, it only runs fewer processes at once.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: usual.maximum,
            maximum: usual.maximum,
        },
    );
    usual
}

impl Rlimits {
    /// The rlimits for `limits`. What no cgroup can limit falls back to its nearest rlimit: memory to the address
    /// space of each process, processes to those of the user. `open_files` applies when `limits` does not say.
    pub(crate) fn new(limits: &Limits, cgroup: &CgroupSupport, open_files: &Rlimit) -> Self {
        let memory = limits.memory_bytes.filter(|_| !cgroup.memory);
        let processes = limits.processes.map(u64::from).filter(|_| !cgroup.pids);
        let wanted = [
            (Resource::Core, Some(0)),
            (Resource::Fsize, limits.disk_bytes),
            (Resource::As, memory),
            (Resource::Nproc, processes),
        ];
        let hard = |limit| Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        let wanted = wanted
            .into_iter()
            .filter_map(|(resource, limit)| Some((resource, hard(limit?))));
        let open_files = limits
            .open_files
            .map_or_else(|| *open_files, |limit| hard(u64::from(limit)));
        Self(wanted.chain([(Resource::Nofile, open_files)]).collect())
    }

    /// Sets them on the calling process. Allocates nothing.
    ///
    /// # Errors
    /// When a limit is above the hard limit of an unprivileged agent.
    pub(crate) fn apply(&self) -> rustix::io::Result<()> {
        self.0
            .iter()
            .try_for_each(|(resource, limit)| setrlimit(*resource, *limit))
    }
}

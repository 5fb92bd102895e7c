//! Resource limits of one process (`setrlimit`), and what stands in for missing cgroups.

use crate::{CgroupSupport, Limits};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The rlimits of a process, computed before it is forked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rlimits(Vec<(Resource, u64)>);

impl Rlimits {
    /// The rlimits for `limits`. What no cgroup can limit falls back to its nearest rlimit: memory to the address
    /// space of each process, processes to those of the user.
    pub(crate) fn new(limits: &Limits, cgroup: &CgroupSupport) -> Self {
        let memory = limits.memory_bytes.filter(|_| !cgroup.memory);
        let processes = limits.processes.map(u64::from).filter(|_| !cgroup.pids);
        let wanted = [
            (Resource::Core, Some(0)),
            (Resource::Fsize, limits.disk_bytes),
            (Resource::Nofile, limits.open_files.map(u64::from)),
            (Resource::As, memory),
            (Resource::Nproc, processes),
        ];
        Self(wanted.into_iter().filter_map(|(resource, limit)| Some((resource, limit?))).collect())
    }

    /// Sets them on the calling process. Allocates nothing.
    ///
    /// # Errors
    /// When a limit is above the hard limit of an unprivileged agent.
    pub(crate) fn apply(&self) -> rustix::io::Result<()> {
        self.0.iter().try_for_each(|(resource, limit)| {
            setrlimit(*resource, Rlimit { current: Some(*limit), maximum: Some(*limit) })
        })
    }
}

//! Starting one process, unconfined or in the full sandbox.

use super::slots::{HostIds, Slot, Slots};
use crate::cgroup::Hierarchy;
use crate::clone::{Fork, Stack, exit_now, fork_into};
use crate::confine::{Owner, Plan, enter_group};
use crate::failure::At;
use crate::limits::{Rlimits, raise_open_files};
use crate::mounts::View;
use crate::program::{self, Program};
use crate::reports::{Reports, Told};
use crate::seccomp::Filter;
use crate::{
    Capture, CgroupSupport, Confinement, DEFAULT_PROCESSES, Error, Limits, Options, Sandbox,
    SpawnFailure, Spec, Stage, Stdin,
};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Rlimit, WaitOptions};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

/// What a pipe takes without a reader (pipe(7)).
const PIPE_BYTES: usize = 64 << 10;
/// Programs whose path is remembered.
const MAX_PATHS: usize = 256;
/// Slots beyond `max_running` for those still draining.
const SPARE_SLOTS: usize = 1_024;
/// Descriptor of `/dev/null` in the spawner.
const NULL: RawFd = 0;

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: Pid,
    pub(crate) slot: Option<Slot>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
}

/// Starts processes.
#[derive(Debug)]
pub(crate) struct Launcher {
    pub(crate) slots: Slots,
    support: CgroupSupport,
    view: View,
    filter: Filter,
    stack: Stack,
    reports: Reports,
    paths: HashMap<(OsString, OsString), PathBuf>,
    open_files: Rlimit,
    own_pid: Pid,
    own_pidfd: OwnedFd,
}

/// The ends of the pipes of one process.
struct Streams {
    /// Kept: the reading ends of stdout and stderr.
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    /// Given away: closed here once the process has them.
    given: [Option<OwnedFd>; 3],
}

impl Streams {
    fn open(spec: &Spec) -> Result<Self, Errno> {
        let stdin = match &spec.stdin {
            Stdin::Null => None,
            Stdin::Bytes(bytes) => Some(input(bytes)?),
        };
        let (stdout, out) = output(spec.stdout)?.unzip();
        let (stderr, err) = output(spec.stderr)?.unzip();
        Ok(Self {
            stdout,
            stderr,
            given: [stdin, out, err],
        })
    }

    fn descriptors(&self) -> [RawFd; 3] {
        self.given
            .each_ref()
            .map(|end| end.as_ref().map_or(NULL, AsRawFd::as_raw_fd))
    }
}

/// A descriptor from which a process reads `bytes`. What does not fit into a pipe is put into memory, so that nobody
/// has to wait for the reader.
fn input(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    if bytes.len() <= PIPE_BYTES {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        if rustix::io::write(&writer, bytes)? == bytes.len() {
            rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::empty())?;
            return Ok(reader);
        }
    }
    let file = rustix::fs::memfd_create("stdin", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(&file, &bytes[written..], written as u64)?;
    }
    Ok(file)
}

/// The ends of an output pipe: ours does not block, the other does.
fn output(capture: Capture) -> Result<Option<(OwnedFd, OwnedFd)>, Errno> {
    let Capture::Pipe { .. } = capture else {
        return Ok(None);
    };
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK)?;
    Ok(Some((reader, writer)))
}

impl Launcher {
    /// Gets ready to start processes in control groups of `hierarchy`.
    ///
    /// # Errors
    /// When the system refuses what even unconfined processes need.
    pub(crate) fn new(options: &Options, hierarchy: Hierarchy) -> Result<Self, Error> {
        let own_pid = rustix::process::getpid();
        let own_pidfd =
            rustix::process::pidfd_open(own_pid, PidfdFlags::empty()).map_err(|error| {
                Error::System {
                    context: "cannot open a pidfd",
                    source: error.into(),
                }
            })?;
        let reports = Reports::map(options.max_running as usize + SPARE_SLOTS);
        Ok(Self {
            support: hierarchy.support(),
            slots: Slots::new(
                hierarchy,
                HostIds::choose(options.uid_base, options.max_running),
            ),
            view: View::new(options),
            filter: Filter::new(),
            stack: Stack::new(),
            reports: reports.map_err(Error::system("cannot map memory"))?,
            paths: HashMap::new(),
            open_files: raise_open_files(),
            own_pid,
            own_pidfd,
        })
    }

    pub(crate) fn support(&self) -> &CgroupSupport {
        &self.support
    }

    /// Starts a process. `marker` is the environment variable by which its descendants are known.
    ///
    /// # Errors
    /// When it could not be started; nothing of it is left then, except for failures that the init of a sandbox tells
    /// later.
    pub(crate) fn start(&mut self, spec: &Spec, marker: String) -> Result<Started, SpawnFailure> {
        if !spec.cwd.is_absolute() {
            return Err(SpawnFailure {
                stage: Stage::WorkDir,
                errno: libc::EINVAL,
            });
        }
        match &spec.sandbox {
            Sandbox::None => self.start_unconfined(spec, &marker),
            Sandbox::Full(confinement) => self.start_confined(spec, confinement),
        }
    }

    fn start_unconfined(&mut self, spec: &Spec, marker: &str) -> Result<Started, SpawnFailure> {
        let slot = match self.needs_group(&spec.limits) {
            true => Some(self.slots.take(&spec.limits, false)?),
            false => None,
        };
        match self.execute_unconfined(spec, marker, slot.as_ref()) {
            Ok((pid, streams)) => Ok(Started {
                pid,
                slot,
                stdout: streams.stdout,
                stderr: streams.stderr,
            }),
            Err(failure) => {
                slot.into_iter().for_each(|slot| self.slots.give_back(slot));
                Err(failure)
            }
        }
    }

    fn needs_group(&self, limits: &Limits) -> bool {
        let cpu = limits.cpu_quota_millicores.is_some() || limits.cpu_weight_millicores.is_some();
        (self.support.cpu && cpu)
            || (self.support.memory && limits.memory_bytes.is_some())
            || (self.support.pids && limits.processes.is_some())
    }

    fn execute_unconfined(
        &mut self,
        spec: &Spec,
        marker: &str,
        slot: Option<&Slot>,
    ) -> Result<(Pid, Streams), SpawnFailure> {
        let entrances = slot
            .and_then(|slot| slot.group.as_ref())
            .map(|group| group.entrances())
            .unwrap_or_default();
        let streams = Streams::open(spec).at(Stage::Descriptors)?;
        let rlimits = Rlimits::new(&spec.limits, &self.support, &self.open_files);
        let mut failure = SpawnFailure {
            stage: Stage::Exec,
            errno: libc::ENOENT,
        };
        // A remembered path may have gone; then it is looked up once more.
        for remembered in [true, false] {
            let Some(path) = self.find(spec, remembered)? else {
                continue;
            };
            let stdio = streams.descriptors();
            let program =
                Program::new(spec, &path, rlimits.clone(), stdio, Some(marker.to_owned()))?;
            let own_pid = self.own_pid;
            let mut told = None;
            let pid = self.stack.run_borrowing(&mut || {
                told = Some(become_unconfined(&program, &entrances, own_pid))
            });
            let pid = pid.at(Stage::Clone)?;
            match told {
                None => return Ok((pid, streams)),
                Some(reason) => failure = reason,
            }
            // It has exited, and nobody else waits for it.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            if failure.stage != Stage::Exec {
                break;
            }
        }
        Err(failure)
    }

    /// The file of the program, from memory or looked up.
    fn find(&mut self, spec: &Spec, remembered: bool) -> Result<Option<PathBuf>, SpawnFailure> {
        let name = spec.argv.first().cloned().unwrap_or_default();
        let key = (program::search_path(spec).to_owned(), name);
        if remembered {
            return Ok(self.paths.get(&key).cloned());
        }
        self.paths.remove(&key);
        let path = program::find(spec)?;
        if self.paths.len() >= MAX_PATHS {
            self.paths.clear();
        }
        self.paths.insert(key, path.clone());
        Ok(Some(path))
    }

    fn start_confined(
        &mut self,
        spec: &Spec,
        confinement: &Confinement,
    ) -> Result<Started, SpawnFailure> {
        let mut limits = spec.limits;
        // One more for the init.
        limits.processes = Some(
            limits
                .processes
                .unwrap_or(DEFAULT_PROCESSES)
                .saturating_add(1),
        );
        let slot = self.slots.take(&limits, true)?;
        match self.fork_confined(spec, confinement, &limits, &slot) {
            Ok((pid, streams)) => Ok(Started {
                pid,
                slot: Some(slot),
                stdout: streams.stdout,
                stderr: streams.stderr,
            }),
            Err(failure) => {
                self.slots.give_back(slot);
                Err(failure)
            }
        }
    }

    fn fork_confined(
        &self,
        spec: &Spec,
        confinement: &Confinement,
        limits: &Limits,
        slot: &Slot,
    ) -> Result<(Pid, Streams), SpawnFailure> {
        let streams = Streams::open(spec).at(Stage::Descriptors)?;
        let group = slot.group.as_ref();
        let target = group.and_then(|group| group.clone_target());
        let entrances = match target {
            Some(_) => Vec::new(),
            None => group.map(|group| group.entrances()).unwrap_or_default(),
        };
        let plan = Plan {
            spec,
            confinement,
            view: &self.view,
            filter: &self.filter,
            rlimits: Rlimits::new(limits, &self.support, &self.open_files),
            stdio: streams.descriptors(),
            entrances: &entrances,
            owner: self.owner(slot),
            spawner: self.own_pidfd.as_fd(),
        };
        let report = self
            .reports
            .cell(slot.index)
            .ok_or(Errno::AGAIN)
            .at(Stage::Clone)?;
        report.take();
        match fork_into(plan.clone_flags(), target).at(Stage::Clone)? {
            Fork::Child => plan.run_init(report),
            Fork::Parent(pid) => Ok((pid, streams)),
        }
    }

    fn owner<'a>(&self, slot: &'a Slot) -> Owner<'a> {
        match (&slot.namespaces, self.slots.ids().of_slot(slot.index)) {
            (Some(namespaces), Some(id)) => Owner::Slot { namespaces, id },
            _ => Owner::Agent {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
            },
        }
    }

    /// What the init of a slot told.
    pub(crate) fn told(&self, slot: &Slot) -> Told {
        self.reports
            .cell(slot.index)
            .map_or(Told::Nothing, |cell| cell.take())
    }

    /// Builds the full sandbox of `spec` once and throws it away.
    ///
    /// # Errors
    /// At the stage that this machine does not allow.
    pub(crate) fn try_confined(
        &mut self,
        spec: &Spec,
        confinement: &Confinement,
    ) -> Result<(), SpawnFailure> {
        let started = self.start_confined(spec, confinement)?;
        let waited =
            rustix::process::waitpid(Some(started.pid), WaitOptions::empty()).at(Stage::Clone);
        let Some(slot) = started.slot else {
            return Ok(());
        };
        let told = self.told(&slot);
        self.slots.give_back(slot);
        waited?;
        match told {
            // The program of a trial need not exist inside.
            Told::Failed(failure) if failure.stage != Stage::Exec => Err(failure),
            _ => Ok(()),
        }
    }
}

/// Becomes the program, outside of any sandbox. Returns only the reason why not. Allocates nothing.
fn become_unconfined(program: &Program, entrances: &[RawFd], parent: Pid) -> SpawnFailure {
    let prepared = program::die_with(Some(parent))
        .at(Stage::Clone)
        .and_then(|()| {
            entrances
                .iter()
                .try_for_each(|entrance| enter_group(*entrance))
                .at(Stage::Cgroup)
        });
    match prepared {
        Ok(()) => {
            program::volunteer_for_oom();
            program.execute()
        }
        Err(failure) => failure,
    }
}

/// Tries whether a process can be made with these namespaces.
///
/// # Errors
/// With the kernel's reason.
pub(crate) fn try_namespaces(flags: libc::c_int) -> Result<(), Errno> {
    match fork_into(flags, None)? {
        Fork::Child => exit_now(0),
        Fork::Parent(pid) => rustix::process::waitpid(Some(pid), WaitOptions::empty()).map(|_| ()),
    }
}

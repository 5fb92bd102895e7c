//! The full sandbox around one program.
//!
//! The spawner forks an *init* into new mount, pid, ipc and uts namespaces (and user and network namespaces, unless the
//! slot keeps some). The init builds the file system, gives up its privileges, locks itself in (Landlock, seccomp) and
//! starts the program as its child. Thereafter it only reaps and forwards signals: a program that were itself the
//! first process of its namespace would not die of its own signals (pid_namespaces(7)), and nobody would reap for it.
//! When the init ends, the kernel kills whatever is left inside.

use crate::clone::{Stack, exit_now};
use crate::failure::At;
use crate::limits::Rlimits;
use crate::mounts::View;
use crate::namespaces::{self, SlotNamespaces};
use crate::program::{self, Program};
use crate::reports::Cell;
use crate::seccomp::Filter;
use crate::{Confinement, Network, SpawnFailure, Spec, Stage};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::path::Path;

/// Everything the init needs to know.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) confinement: &'a Confinement,
    pub(crate) view: &'a View,
    pub(crate) filter: &'a Filter,
    pub(crate) rlimits: Rlimits,
    pub(crate) stdio: [RawFd; 3],
    /// Control group files to write `0` to.
    pub(crate) entrances: &'a [RawFd],
    pub(crate) owner: Owner<'a>,
    /// A pidfd of the spawner.
    pub(crate) spawner: BorrowedFd<'a>,
}

/// As whom the program runs on the host.
#[derive(Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// As the uid and gid `id`, in namespaces kept by the slot.
    Slot {
        namespaces: &'a SlotNamespaces,
        id: u32,
    },
    /// As the agent's own uid and gid, in namespaces made with the process.
    Agent { uid: u32, gid: u32 },
}

impl Plan<'_> {
    /// The namespaces to fork the init into.
    pub(crate) fn clone_flags(&self) -> libc::c_int {
        let own = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        match (self.owner, self.confinement.network) {
            (Owner::Slot { .. }, _) => own,
            (Owner::Agent { .. }, Network::None) => own | libc::CLONE_NEWUSER | libc::CLONE_NEWNET,
            (Owner::Agent { .. }, Network::Host) => own | libc::CLONE_NEWUSER,
        }
    }

    /// Builds the sandbox around the calling process.
    ///
    /// # Errors
    /// At the stage that failed; the process is then of no use but to end.
    pub(crate) fn build(&self) -> Result<(), SpawnFailure> {
        block_all_signals();
        program::volunteer_for_oom();
        self.entrances
            .iter()
            .try_for_each(|entrance| enter_group(*entrance))
            .at(Stage::Cgroup)?;
        crate::mounts::make_tmp(self.confinement).at(Stage::WorkDir)?;
        match self.owner {
            Owner::Slot { id, .. } => self.hand_over(id).at(Stage::WorkDir)?,
            Owner::Agent { uid, gid } => {
                namespaces::map_own_identity(uid, gid).at(Stage::Identity)?
            }
        }
        crate::mounts::enter(self.view, self.confinement)?;
        rustix::system::sethostname(b"weft").at(Stage::Mount)?;
        self.enter_network().at(Stage::Network)?;
        self.give_up_privileges().at(Stage::Identity)?;
        self.restrict_writes()?;
        let refused = |_| SpawnFailure {
            stage: Stage::Seccomp,
            errno: libc::EINVAL,
        };
        self.filter.apply().map_err(refused)
    }

    fn hand_over(&self, id: u32) -> Result<(), Errno> {
        crate::mounts::hand_over(&self.confinement.work_dir, id)?;
        match &self.confinement.tmp_dir {
            Some(tmp) => crate::mounts::hand_over(tmp, id),
            None => Ok(()),
        }
    }

    fn enter_network(&self) -> Result<(), Errno> {
        match (self.confinement.network, self.owner) {
            (Network::Host, _) => Ok(()),
            (Network::None, Owner::Agent { .. }) => namespaces::raise_loopback(),
            (Network::None, Owner::Slot { namespaces, .. }) => {
                namespaces::enter(namespaces.network(), libc::CLONE_NEWNET)
            }
        }
    }

    fn give_up_privileges(&self) -> Result<(), Errno> {
        if let Owner::Slot { namespaces, .. } = self.owner {
            namespaces::enter(namespaces.user(), libc::CLONE_NEWUSER)?;
            crate::identity::assume()?;
        }
        crate::identity::renounce()?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        // A change of identity clears it (prctl(2)), so it comes after. The spawner may be gone by now.
        program::die_with(None)?;
        let mut ended = [rustix::event::PollFd::new(
            &self.spawner,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut ended, Some(&rustix::event::Timespec::default()))? {
            0 => Ok(()),
            _ => Err(Errno::SRCH),
        }
    }

    fn restrict_writes(&self) -> Result<(), SpawnFailure> {
        if crate::landlock::abi() == 0 {
            return Ok(());
        }
        let binds = self
            .confinement
            .binds
            .iter()
            .filter(|bind| bind.writable)
            .map(|bind| bind.target.as_path());
        let writable = [self.confinement.work_dir.as_path(), Path::new("/tmp")]
            .into_iter()
            .chain(binds);
        let devices = [Path::new("/dev"), Path::new("/proc")];
        let refused = |_| SpawnFailure {
            stage: Stage::Landlock,
            errno: libc::EPERM,
        };
        crate::landlock::restrict_writes(writable, devices).map_err(refused)
    }

    /// The life of the init: build, start the program, reap until it has ended.
    pub(crate) fn run_init(&self, report: &Cell) -> ! {
        let started = self.build().and_then(|()| self.start_program());
        match started {
            Ok(program) => {
                program::close_from(0);
                let status = reap_until(program);
                report.ended(status);
                exit_now(if libc::WIFEXITED(status) {
                    libc::WEXITSTATUS(status)
                } else {
                    1
                })
            }
            Err(failure) => {
                report.failed(failure);
                exit_now(125)
            }
        }
    }

    fn start_program(&self) -> Result<Pid, SpawnFailure> {
        let path = program::find(self.spec)?;
        let program = Program::new(self.spec, &path, self.rlimits.clone(), self.stdio, None)?;
        let mut failure = None;
        let pid = Stack::new()
            .run_borrowing(&mut || failure = Some(program.execute()))
            .at(Stage::Clone)?;
        failure.map_or(Ok(pid), Err)
    }
}

/// Moves the caller into the control group of an open `tasks` or `cgroup.procs` file.
pub(crate) fn enter_group(entrance: RawFd) -> Result<(), Errno> {
    // SAFETY: the spawner keeps the file open as long as the slot is in use.
    let entrance = unsafe { BorrowedFd::borrow_raw(entrance) };
    rustix::io::write(entrance.as_fd(), b"0").map(|_| ())
}

fn all_signals() -> libc::sigset_t {
    // SAFETY: `sigfillset` initialises the set it is given.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        set
    }
}

/// The first process of a pid namespace gets from outside only signals that it handles or blocks.
fn block_all_signals() {
    let all = all_signals();
    // SAFETY: the set is initialised and only read.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
}

/// Reaps children, forwarding other signals to the program's process group, until the program has ended.
fn reap_until(program: Pid) -> libc::c_int {
    let all = all_signals();
    loop {
        while let Some((pid, status)) = reap_one() {
            if pid == program.as_raw_nonzero().get() {
                return status;
            }
        }
        // SAFETY: the set is initialised; no information about the signal is asked for.
        let signal = unsafe { libc::sigwaitinfo(&raw const all, std::ptr::null_mut()) };
        if let Some(signal) =
            Signal::from_named_raw(signal).filter(|signal| *signal != Signal::CHILD)
        {
            // The group may have ended, of which SIGCHLD will tell.
            let _ = rustix::process::kill_process_group(program, signal);
        }
    }
}

fn reap_one() -> Option<(i32, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the status is a valid place to write to.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    (pid > 0).then_some((pid, status))
}

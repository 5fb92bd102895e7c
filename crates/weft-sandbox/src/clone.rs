//! The two ways to make a process.
//!
//! *Borrowing* (`CLONE_VM | CLONE_VFORK`) runs a function of ours in the new process on a stack of its own while the
//! spawner waits: no page table is copied, so it costs the same however large the spawner is. *Copying* (`clone3`
//! without them) is a fork into new namespaces; it suits the init of a sandbox, which goes on running our code and
//! must not share memory with what it contains.

use rustix::io::Errno;
use rustix::process::Pid;
use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Flag of `clone3` (linux/sched.h): start in the group `clone_args::cgroup`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Bytes of the stack on which borrowing children run; they only make a few dozen system calls.
const STACK_BYTES: usize = 128 << 10;

/// A stack for [`Stack::run_borrowing`], used again for each child.
#[derive(Debug)]
pub(crate) struct Stack(Box<[u128]>);

impl Stack {
    pub(crate) fn new() -> Self {
        Self(vec![0; STACK_BYTES / size_of::<u128>()].into_boxed_slice())
    }

    /// Runs `child` in a new process and returns when that has executed a program or ended. `child` returns only
    /// when it failed; what it wrote to memory is then seen here. It must not allocate, lock or panic: it runs in the
    /// memory of this process.
    ///
    /// # Errors
    /// When no process can be made.
    pub(crate) fn run_borrowing<F: FnMut()>(&mut self, child: &mut F) -> Result<Pid, Errno> {
        extern "C" fn enter<F: FnMut()>(child: *mut c_void) -> c_int {
            // SAFETY: `run_borrowing` passes a pointer to an `F` that outlives the call, because the parent does not
            // run before the child has left this memory (CLONE_VFORK).
            let child = unsafe { &mut *child.cast::<F>() };
            child();
            127
        }
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the pointer is one past the end of the stack, aligned to 16 bytes; nothing else uses the stack,
        // because it is borrowed mutably and the parent waits. The child gets a pointer to the live closure.
        let pid = unsafe {
            let top = self.0.as_mut_ptr().add(self.0.len()).cast::<c_void>();
            libc::clone(enter::<F>, top, flags, std::ptr::from_mut(child).cast())
        };
        Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .ok_or_else(last_errno)
    }
}

/// Which side of a fork one is on.
#[derive(Debug)]
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old one, with the new one's id.
    Parent(Pid),
}

/// Forks into the new namespaces of `flags` (`CLONE_NEW…`), and into a unified control group if there is one.
///
/// # Errors
/// When the kernel refuses, for instance for want of a privilege.
pub(crate) fn fork_into(flags: c_int, group: Option<BorrowedFd<'_>>) -> Result<Fork, Errno> {
    let into_group = if group.is_some() {
        CLONE_INTO_CGROUP
    } else {
        0
    };
    // SAFETY: a zeroed `clone_args` is a valid request for a plain fork.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.cast_unsigned()) | into_group;
    arguments.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    arguments.cgroup = group.map_or(0, |group| u64::from(group.as_raw_fd().cast_unsigned()));
    // SAFETY: without CLONE_VM the child has a copy of everything. The spawner has one thread, so that no lock is
    // held in the copy by a thread that does not exist there.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(pid) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) if pid > 0 => Ok(Pid::from_raw(pid).map_or(Fork::Child, Fork::Parent)),
        _ => Err(last_errno()),
    }
}

/// The error of the last C library call.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Ends this process without running anything of the copied spawner's.
pub(crate) fn exit_now(code: c_int) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowing_child_writes_into_our_memory_and_exits() {
        let mut seen = 0;
        let pid = Stack::new()
            .run_borrowing(&mut || seen = rustix::process::getpid().as_raw_nonzero().get())
            .unwrap();
        let (_, status) =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                .unwrap()
                .unwrap();
        assert_eq!(seen, pid.as_raw_nonzero().get());
        assert_eq!(status.exit_status(), Some(127));
    }
}

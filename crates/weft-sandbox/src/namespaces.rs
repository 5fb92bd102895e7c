//! User and network namespaces.
//!
//! A network namespace costs more to make than everything else in the sandbox, and neither it nor a user namespace
//! remembers anything of a task without privileges. When the agent is root each task slot therefore keeps one of
//! both, which the tasks that take the slot enter in turn. Without root each task makes its own.

use crate::clone::{Fork, fork_into, last_errno};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Uid and gid that a sandboxed task sees as its own.
pub(crate) const INSIDE_ID: u32 = 1_000;

/// Namespaces kept for a slot.
#[derive(Debug)]
pub(crate) struct SlotNamespaces {
    user: File,
    network: File,
}

impl SlotNamespaces {
    /// Makes a user namespace in which [`INSIDE_ID`] is the host's `id`, and a network namespace with only a loopback
    /// interface. Needs root.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn create(id: u32) -> io::Result<Self> {
        let (ready, mut told) = io::pipe()?;
        let holder = match fork_into(libc::CLONE_NEWUSER | libc::CLONE_NEWNET, None)? {
            Fork::Child => {
                let outcome = crate::program::die_with(None).and_then(|()| raise_loopback());
                let outcome = outcome.map_or_else(Errno::raw_os_error, |()| 0);
                let _ = io::Write::write_all(&mut told, &outcome.to_ne_bytes());
                loop {
                    // SAFETY: `pause` has no preconditions.
                    unsafe { libc::pause() };
                }
            }
            Fork::Parent(pid) => pid,
        };
        drop(told);
        let made = Self::of_holder(holder, id, ready);
        let _ = rustix::process::kill_process(holder, Signal::KILL);
        let _ = rustix::process::waitpid(Some(holder), rustix::process::WaitOptions::empty());
        made
    }

    fn of_holder(holder: Pid, id: u32, mut ready: io::PipeReader) -> io::Result<Self> {
        let mut outcome = [0; 4];
        io::Read::read_exact(&mut ready, &mut outcome)?;
        match i32::from_ne_bytes(outcome) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        let path = |name: &str| format!("/proc/{}/{name}", holder.as_raw_nonzero());
        let map = format!("{INSIDE_ID} {id} 1");
        std::fs::write(path("uid_map"), &map)?;
        std::fs::write(path("gid_map"), &map)?;
        Ok(Self {
            user: File::open(path("ns/user"))?,
            network: File::open(path("ns/net"))?,
        })
    }

    pub(crate) fn user(&self) -> BorrowedFd<'_> {
        self.user.as_fd()
    }

    pub(crate) fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }
}

/// Moves the calling process into a namespace.
///
/// # Errors
/// When it has not the privilege.
pub(crate) fn enter(namespace: BorrowedFd<'_>, kind: libc::c_int) -> Result<(), Errno> {
    // SAFETY: takes a descriptor and a flag, touches no memory.
    match unsafe { libc::setns(namespace.as_raw_fd(), kind) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Maps [`INSIDE_ID`] to the host's `uid` and `gid` in the user namespace the caller has just been cloned into.
///
/// # Errors
/// When these are not the caller's own.
pub(crate) fn map_own_identity(uid: u32, gid: u32) -> io::Result<()> {
    // An unprivileged group map needs this first (user_namespaces(7)).
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{INSIDE_ID} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{INSIDE_ID} {gid} 1"))
}

/// Brings up the loopback interface of the current network namespace.
///
/// # Errors
/// When the caller has no privilege in it.
pub(crate) fn raise_loopback() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, letter) in request.ifr_name.iter_mut().zip(*b"lo") {
        *place = letter as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    // SAFETY: the request is an initialised `ifreq` with a terminated name, which the kernel only reads.
    match unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

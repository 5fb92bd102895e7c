//! Waiting for children.

use super::task::Ended;
use crate::Usage;
use rustix::process::Pid;

/// A child that has ended and was not reaped yet, so that its id and its process group are still its own.
pub(crate) fn ended_child() -> Option<Pid> {
    // SAFETY: `siginfo_t` is plain data, and a valid place to write to; the pid is read only after the call filled it in.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        match libc::waitid(libc::P_ALL, 0, &raw mut info, options) {
            0 => Pid::from_raw(info.si_pid()),
            _ => None,
        }
    }
}

/// Reaps a child that has ended.
pub(crate) fn reap(pid: Pid) -> Option<Ended> {
    let mut status = 0;
    // SAFETY: `rusage` is plain data.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid places to write to.
    let reaped = unsafe {
        libc::wait4(
            pid.as_raw_nonzero().get(),
            &raw mut status,
            libc::WNOHANG | libc::__WALL,
            &raw mut usage,
        )
    };
    (reaped > 0).then(|| Ended {
        status,
        usage: convert(&usage),
    })
}

fn convert(usage: &libc::rusage) -> Usage {
    let microseconds = |time: libc::timeval| {
        u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000
            + u64::try_from(time.tv_usec).unwrap_or(0)
    };
    Usage {
        user_us: microseconds(usage.ru_utime),
        system_us: microseconds(usage.ru_stime),
        max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1_024,
        ..Usage::default()
    }
}

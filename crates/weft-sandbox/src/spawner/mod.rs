//! The spawner process: the agent's binary executed again, with one thread and a small address space.
//!
//! It reads requests from its socket, starts processes, waits for them, passes on their output and reports their end,
//! all in one loop, many of each at a time. It does not know why it starts anything. When the socket ends, it kills
//! everything it started, removes the control groups and ends; when it is killed itself, the kernel kills its
//! children (`PR_SET_PDEATHSIG`), and a sandbox with its init.

mod deadlines;
mod launch;
mod link;
mod orphans;
mod outputs;
mod reaper;
mod serve;
mod slots;
mod task;
mod trial;

use crate::cgroup::Hierarchy;
use crate::frame::{Report, Request};
use crate::{Error, Options};
use launch::Launcher;
use link::{Link, Peer};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// First argument by which the binary recognises that it is to be the spawner.
pub const ARGUMENT: &str = "__spawner";

/// Longest wait for processes to die when the spawner ends.
const MAX_END: Duration = Duration::from_secs(10);

/// Serves as the spawner on the socket `fd` until the agent is gone, then kills everything and exits.
/// To be called first thing in the binary's `main`, before any thread exists:
///
/// ```no_run
/// let mut args = std::env::args().skip(1);
/// if args.next().as_deref() == Some(weft_sandbox::spawner::ARGUMENT) {
///     let fd = args.next().and_then(|fd| fd.parse().ok()).unwrap_or(3);
///     weft_sandbox::spawner::main(fd);
/// }
/// ```
pub fn main(fd: RawFd) -> ! {
    match run(fd) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            eprintln!("weft spawner: {error}");
            std::process::exit(1)
        }
    }
}

fn run(fd: RawFd) -> Result<(), Error> {
    if fd < 3 {
        return Err(Error::Frame("the spawner's socket is a standard stream"));
    }
    // The agent may do without huge pages, but what is started here would inherit that.
    let _ = rustix::thread::disable_transparent_huge_pages(false);
    // SAFETY: by contract the descriptor is the socket the agent passed, and nothing else in this process uses it.
    let mut link = Link::new(unsafe { OwnedFd::from_raw_fd(fd) });
    settle().map_err(|error| Error::System {
        context: "cannot set up the spawner",
        source: error.into(),
    })?;
    let Some(options) = configure(&mut link)? else {
        return Ok(());
    };
    check_tag(&options.node_tag)?;
    let opened = Hierarchy::open(&options.node_tag)
        .and_then(|hierarchy| hierarchy.enter().map(|()| hierarchy));
    let (hierarchy, no_groups) = match opened {
        Ok(hierarchy) => (hierarchy, None),
        Err(error) => (Hierarchy::None, Some(error)),
    };
    let mut launcher = Launcher::new(&options, hierarchy)?;
    let capabilities = trial::capabilities(&mut launcher, no_groups);
    let json = serde_json::to_vec(&capabilities)
        .map_err(|_| Error::Frame("capabilities do not encode"))?;
    link.report(&Report::Ready(json.into()));
    serve::Server::new(link, launcher, &options)?.serve(&options);
    Ok(())
}

/// Leaves the agent's terminal and process group, becomes the parent of orphans, and gives up the agent's
/// standard input and output.
fn settle() -> Result<(), rustix::io::Errno> {
    // Fails when the agent made it a group leader already, which is as good.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let _ = rustix::thread::set_name(c"weft-spawner");
    rustix::process::chdir("/")?;
    rustix::process::umask(crate::mounts::UMASK);
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)
}

/// Waits for the first frame. `None` when the agent went away instead.
fn configure(link: &mut Link) -> Result<Option<Options>, Error> {
    loop {
        if let Some(request) = link.next_request()? {
            let Request::Configure(json) = request else {
                return Err(Error::Frame("not configured yet"));
            };
            return serde_json::from_slice(&json)
                .map(Some)
                .map_err(|_| Error::Frame("malformed options"));
        }
        let mut readable = [PollFd::from_borrowed_fd(link.socket(), PollFlags::IN)];
        // An interrupted poll only means to look again.
        let _ = poll(&mut readable, None);
        if link.receive() == Peer::Gone {
            return Ok(None);
        }
    }
}

/// Node tags become names of directories.
///
/// # Errors
/// When it is empty, longer than 64 bytes or has other characters than letters, digits, `-` and `_`.
pub(crate) fn check_tag(tag: &str) -> Result<(), Error> {
    let fits = !tag.is_empty() && tag.len() <= 64;
    if fits
        && tag
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    {
        Ok(())
    } else {
        Err(Error::InvalidSpec(format!(
            "node tag {tag:?} is not 1 to 64 letters, digits, - or _"
        )))
    }
}

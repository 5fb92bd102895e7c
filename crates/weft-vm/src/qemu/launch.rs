//! Starting the process.

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr};
use tokio::time::Instant;
use weft_types::Reason;
use weft_unit::{Error, Missing, Step};

use crate::fail;
use crate::machine::{Exit, Machine, Place};
use crate::qmp::Client;
use crate::user;

use super::handles::Handles;
use super::{ALIVE_LOCK, CALLS_SOCKET, PATIENCE, args, mark};

/// How long QEMU may take until it can be controlled; its own start, not the guest's.
const START_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(15);
/// How much of what QEMU says is kept, in bytes.
const MAX_SAID_BYTES: usize = 16 << 10;

pub(super) fn unavailable(missing: Missing) -> Error {
    Error::new(Step::Start, Reason::RuntimeUnavailable, missing.to_string())
}

/// Starts QEMU and waits until it can be controlled.
pub(super) async fn launch(
    program: &Path,
    machine: &Machine,
    has_kvm: bool,
    place: &Place<'_>,
    ended: Box<dyn FnOnce(Exit) + Send>,
) -> Result<(), Error> {
    let mut child = spawn(program, machine, has_kvm, place)?;
    let stderr = child.stderr.take();
    let (told, mut exit) = tokio::sync::watch::channel(None);
    // Waits on also when the caller is dropped, so that the process is reaped.
    tokio::spawn(async move {
        let said = said(stderr).await;
        let status = child.wait().await.ok();
        let exit = Exit {
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            said,
        };
        // Nobody listens any more once it could be controlled.
        let _ = told.send(Some(exit.clone()));
        ended(exit);
    });
    let end = Instant::now() + START_PATIENCE;
    loop {
        if Client::connect(&place.dir.join(CALLS_SOCKET), PATIENCE)
            .await
            .is_ok()
        {
            return Ok(());
        }
        if let Some(exit) = &*exit.borrow_and_update() {
            return Err(refusal(exit));
        }
        if Instant::now() >= end {
            let detail = format!("QEMU cannot be controlled after {START_PATIENCE:?}");
            return Err(Error::new(Step::Start, Reason::RuntimeError, detail));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn refusal(exit: &Exit) -> Error {
    let lines: Vec<_> = exit.said.lines().map(str::to_owned).collect();
    let last = lines.last().map_or("it said nothing", String::as_str);
    let how = match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    };
    let detail = format!("QEMU does not start ({how}): {last}");
    Error::new(Step::Start, Reason::RuntimeError, detail).with_evidence(lines)
}

fn spawn(
    program: &Path,
    machine: &Machine,
    has_kvm: bool,
    place: &Place<'_>,
) -> Result<Child, Error> {
    let failed = |path: &Path, e: &std::io::Error| fail::file(Step::Start, "starting in", path, e);
    let at = place.dir.join(ALIVE_LOCK);
    let alive = File::create(&at).map_err(|e| failed(&at, &e))?;
    if rustix::fs::flock(&alive, FlockOperation::NonBlockingLockExclusive).is_err() {
        // A process that was made by an agent that was killed, and is not quite there yet.
        let detail = "an earlier process of this machine is still there; try again";
        return Err(Error::new(Step::Start, Reason::RuntimeError, detail));
    }
    let handles = Handles::open(machine, place.dir).map_err(|e| failed(place.dir, &e))?;
    let mut inherited = handles.numbers();
    inherited.push(alive.as_raw_fd());
    let mut groups = Vec::new();
    for entrance in place.entrances {
        let file = File::options().write(true).open(entrance);
        groups.push(file.map_err(|e| failed(entrance, &e))?);
    }
    let mut command = std::process::Command::new(program);
    command
        .arg0(mark(place.dir))
        .args(args::arguments(machine, &handles, has_kvm))
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let user = place.user;
    let group = user::kvm_group().filter(|_| has_kvm);
    let enter = move || {
        for group in &groups {
            rustix::io::write(group, b"0")?;
        }
        rustix::process::setsid()?;
        let none = rustix::process::Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        rustix::process::setrlimit(rustix::process::Resource::Core, none)?;
        if let Some(user) = user {
            user.enter(group)?;
        }
        rustix::thread::set_no_new_privs(true)?;
        // The lock among them is held for as long as the process lives.
        for &number in &inherited {
            // SAFETY: `handles` and `alive` are open until the process is made.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only system calls on descriptors that are open; nothing is
    // allocated and no lock is taken.
    unsafe { command.pre_exec(enter) };
    let child = tokio::process::Command::from(command).spawn();
    drop((handles, alive));
    child.map_err(|e| failed(program, &e))
}

/// Reads what QEMU says until it ends, and keeps the last of it. A pipe, not a file: guests can
/// make QEMU complain, and a pipe that nobody reads any more holds nothing.
async fn said(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0; 4 << 10];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..length]);
        if kept.len() > 2 * MAX_SAID_BYTES {
            kept.drain(..kept.len() - MAX_SAID_BYTES);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

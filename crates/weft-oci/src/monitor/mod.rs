//! The process that stays with a container when the agent goes: a mode of the agent's own binary.
//!
//! ```text
//!  agent ──request──► monitor ──fork──► (leaves the agent's session, becomes subreaper)
//!        ◄──answer──           mounts the layers, makes the network namespace,
//!                              runs the OCI runtime, which leaves the container behind
//!                              ... writes down what the container prints, waits for its end,
//!                              removes its control group, writes down how it ended
//! ```
//!
//! All mounts are in a mount namespace of the monitor's own, with the bundle and the state of the
//! OCI runtime on a tmpfs in it: they vanish with the last process of the container, whoever is
//! killed when, and secrets never reach a disk. It has one thread and no runtime.

mod copy;
mod launch;
mod log;
mod mounts;
mod netns;
mod request;
mod user;
mod wait;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::ExitCode;

use crate::Error;
use crate::error::During;

pub(crate) use log::{parse_line, rotated};
pub(crate) use request::{Answer, MAX_ANSWER_BYTES, MonitorNetwork, Request, RuntimeCommand};

/// What a monitor may still do when the machine has no memory left.
const OOM_SCORE: &str = "-900";

/// Runs a monitor: reads its request from the standard input, answers on the standard output, and
/// returns in the agent's child at once. To be called before any thread is made.
pub fn main() -> ExitCode {
    let mut bytes = Vec::new();
    let read = std::io::stdin()
        .lock()
        .take(request::MAX_REQUEST_BYTES)
        .read_to_end(&mut bytes);
    let request: Request = match read
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_slice(&bytes).map_err(|e| format!("not a request: {e}")))
    {
        Ok(request) => request,
        Err(why) => {
            eprintln!("weft: the monitor of a container is not for people: {why}");
            return ExitCode::from(2);
        }
    };
    drop(bytes);
    // SAFETY: there is one thread, as the caller promised.
    match unsafe { libc::fork() } {
        -1 => ExitCode::FAILURE,
        0 => {
            monitor(request);
            ExitCode::SUCCESS
        }
        _ => ExitCode::SUCCESS,
    }
}

fn monitor(request: Request) {
    let mut answers = match detach() {
        Ok(answers) => answers,
        Err(_) => return,
    };
    let lock = request.unit.become_monitor();
    let _lock = match lock {
        Ok(Some(lock)) => lock,
        Ok(None) => return answer(&mut answers, &Answer::Busy),
        Err(error) => return answer(&mut answers, &Answer::from(error)),
    };
    match launch::launch(request) {
        Ok(running) => {
            answer(&mut answers, &Answer::Running);
            drop(answers);
            running.watch();
        }
        Err(error) => answer(&mut answers, &Answer::from(error)),
    }
}

fn answer(answers: &mut File, answer: &Answer) {
    // An agent that is gone finds what there is by its records.
    if let Ok(bytes) = serde_json::to_vec(answer) {
        let _ = answers.write_all(&bytes);
    }
}

/// Leaves the agent: its session, its signals, its standard streams. Gives what answers go to.
fn detach() -> Result<File, Error> {
    rustix::process::setsid().during(|| "leave the session".into())?;
    // SAFETY: plain system calls on descriptors of our own; the results are checked.
    unsafe {
        let answers = libc::fcntl(1, libc::F_DUPFD_CLOEXEC, 3);
        if answers < 0 {
            return Err(Error::io(
                "keep the output",
                std::io::Error::last_os_error(),
            ));
        }
        let answers = File::from_raw_fd(answers);
        let null = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .during(|| "open /dev/null".into())?;
        for stream in 0..3 {
            libc::dup2(null.as_raw_fd(), stream);
        }
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
        libc::prctl(libc::PR_SET_NAME, c"weft-monitor".as_ptr());
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &all, std::ptr::null_mut());
        let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        Ok(answers)
    }
}

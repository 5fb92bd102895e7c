//! From a request to a container that runs.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::bundle::netns_path;
use crate::cgroup::Cgroups;
use crate::error::During;
use crate::files::{self, now_ms};
use crate::network::Netlink;
use crate::record::Started;

use super::log::Log;
use super::mounts;
use super::netns;
use super::request::{MonitorNetwork, Request, RuntimeCommand};
use super::user;
use super::wait::{Children, Running, Streams};

/// How long an OCI runtime may take to start a container.
const START: Duration = Duration::from_secs(60);
/// How often is looked whether a sandbox is there.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How much of what the runtime says is kept, in lines and bytes.
const EVIDENCE_LINES: usize = 20;
const EVIDENCE_BYTES: usize = 16 << 10;

/// Starts the container. Nothing of it is left when that fails.
pub(super) fn launch(request: Request) -> Result<Running, Error> {
    mounts::enter()?;
    let cgroups = Cgroups::open()?;
    cgroups.leave_service(&request.monitors_cgroup);
    let outcome = attempt(&request, &cgroups);
    match outcome {
        Ok((streams, children, watched)) => Ok(Running {
            request,
            cgroups,
            streams,
            children,
            watched,
        }),
        Err(error) => {
            undo(&request, &cgroups);
            Err(error)
        }
    }
}

/// Removes what was made on the node for this run; mounts go with this process.
pub(super) fn undo(request: &Request, cgroups: &Cgroups) {
    if let Err(error) = cgroups.remove(&request.cgroup) {
        eprintln!("{error}");
    }
    if let MonitorNetwork::Bridge(attachment) = &request.network
        && let Ok(mut netlink) = Netlink::open()
    {
        let _ = netlink.remove(&attachment.veth);
    }
}

fn attempt(request: &Request, cgroups: &Cgroups) -> Result<(Streams, Children, i32), Error> {
    request.unit.forget_run()?;
    cgroups.remove(&request.cgroup)?;
    let run = request.unit.run();
    mounts::make_run(&run)?;
    mounts::make_rootfs(request)?;
    netns::make(&request.network, &netns_path(&run))?;
    write_bundle(request, &run)?;

    let mut children = Children::new()?;
    let (output, output_end) = pipe()?;
    let (error, error_end) = pipe()?;
    let mut streams = Streams::new(output, error, Log::open(request.unit.log())?);
    let starter = spawn(request, &run, output_end, error_end)?;
    let (pid, watched) = if request.runtime.is_sandbox {
        let pid = until_written(&run, starter, &mut children, &mut streams)?;
        (pid, starter)
    } else {
        let status = children.until_exit(starter, &mut streams, START);
        if status != Some(0) {
            return Err(refused(&run, status, &mut streams));
        }
        let pid = read_pid(&run)?;
        (pid, pid)
    };
    request.unit.write_started(&Started {
        pid,
        since_ms: now_ms(),
    })?;
    Ok((streams, children, watched))
}

fn write_bundle(request: &Request, run: &Path) -> Result<(), Error> {
    for (name, content) in &request.files {
        let at = run.join("files").join(name);
        std::fs::write(&at, content).during(|| format!("write {}", at.display()))?;
    }
    let mut config = request.config.clone();
    user::complete(&mut config, &request.user, &run.join("rootfs"))?;
    files::write_json(&run.join("bundle/config.json"), &config)
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(|| "make a pipe".into())
}

/// A call of the OCI runtime that dies with the monitor and has its signals back.
pub(super) fn command(runtime: &RuntimeCommand, run: &Path) -> Command {
    let mut command = Command::new(&runtime.program);
    command
        .args(&runtime.options)
        .arg("--root")
        .arg(run.join("root"))
        .arg("--log")
        .arg(run.join("runtime.log"))
        .stdin(Stdio::null());
    // SAFETY: between fork and exec only system calls are made, on memory of our own.
    unsafe {
        command.pre_exec(|| {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

fn spawn(request: &Request, run: &Path, output: OwnedFd, error: OwnedFd) -> Result<i32, Error> {
    let mut command = command(&request.runtime, run);
    command.arg("run");
    // Only the runtime of a sandbox learns how a process in it ended: it stays, and ends likewise.
    if !request.runtime.is_sandbox {
        command.arg("--detach");
    }
    let child = command
        .arg("--bundle")
        .arg(run.join("bundle"))
        .arg("--pid-file")
        .arg(run.join("pid"))
        .arg(&request.id)
        .stdout(output)
        .stderr(error)
        .spawn()
        .during(|| format!("run {}", request.runtime.program.display()))?;
    Ok(child.id() as i32)
}

/// Waits until the runtime of a sandbox, which stays, has made the container.
fn until_written(
    run: &Path,
    starter: i32,
    children: &mut Children,
    streams: &mut Streams,
) -> Result<i32, Error> {
    let end = Instant::now() + START;
    loop {
        let ended = children.until_exit(starter, streams, LOOK_AGAIN);
        let pid = read_pid(run);
        match (pid, ended) {
            (Ok(pid), None) => return Ok(pid),
            (Ok(pid), Some(status)) => {
                children.put_back(starter, status);
                return Ok(pid);
            }
            (Err(_), None) if Instant::now() < end => {}
            (Err(_), status) => return Err(refused(run, status, streams)),
        }
    }
}

fn read_pid(run: &Path) -> Result<i32, Error> {
    let file = run.join("pid");
    let text = std::fs::read_to_string(&file).during(|| format!("read {}", file.display()))?;
    text.trim().parse().map_err(|_| Error::Runtime {
        detail: format!("the runtime wrote {text:?} instead of a process id"),
        evidence: Vec::new(),
    })
}

/// What the runtime said when it did not start the container.
fn refused(run: &Path, status: Option<i32>, streams: &mut Streams) -> Error {
    streams.drain();
    let mut said = std::fs::read(run.join("runtime.log")).unwrap_or_default();
    if said.is_empty() {
        said = streams.tail();
    }
    let start = said.len().saturating_sub(EVIDENCE_BYTES);
    let text = String::from_utf8_lossy(&said[start..]).into_owned();
    let mut evidence: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.contains("cgroups in hybrid mode"))
        .map(str::to_owned)
        .collect();
    let start = evidence.len().saturating_sub(EVIDENCE_LINES);
    evidence.drain(..start);
    let detail = match (evidence.last(), status) {
        (Some(last), _) => message(last),
        (None, None) => format!("the runtime did not start it within {} s", START.as_secs()),
        (None, Some(status)) => format!("the runtime ended with status {status:#x}"),
    };
    Error::Runtime { detail, evidence }
}

/// The message of a line such as `time="…" level=error msg="…"` or `{"msg":"…",…}`, or the line.
fn message(line: &str) -> String {
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line)
        && let Some(message) = line["msg"].as_str()
    {
        return message.to_owned();
    }
    let quoted = line
        .split_once("msg=\"")
        .and_then(|(_, rest)| rest.rsplit_once('"'))
        .map(|(message, _)| message.replace("\\\"", "\""));
    quoted.unwrap_or_else(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_are_taken_out_of_log_lines() {
        let line = r#"time="2026" level=error msg="exec: \"x\": not found""#;
        assert_eq!(super::message(line), r#"exec: "x": not found"#);
        assert_eq!(super::message("plain"), "plain");
        assert_eq!(
            super::message(r#"{"msg":"no such file","level":"error"}"#),
            "no such file"
        );
    }
}

//! The end of the agent, of the spawner, and of an earlier life.

use crate::setup::{
    exe, full, groups_of, processes_with, shell, tag, unique_seconds, until, work_dir,
};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;
use weft_sandbox::{Client, Error, Options, Sandbox, Spec, spawner};

/// An agent that starts sleepers of every kind, says so, and waits to be killed. `argument` is tag, seconds and a
/// directory to clean up.
pub(crate) fn agent(argument: &str) -> ! {
    let [tag, seconds, cleanup] = argument.split(',').collect::<Vec<_>>()[..] else {
        panic!("arguments")
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut options = Options::new(tag);
        options.cleanup_dirs.push(cleanup.into());
        let client = Client::start(exe(), options).await.unwrap();
        let work = tempfile::tempdir_in(cleanup).unwrap();
        let mut running = Vec::new();
        for sandbox in [Sandbox::None, full(work.path())] {
            let script = format!(
                "setsid setsid sleep {seconds} & env -i setsid sleep {seconds} & sleep {seconds}"
            );
            let mut limited = shell(&script, work.path(), sandbox.clone());
            limited.limits.processes = Some(20);
            running.push(client.spawn(limited).await.unwrap());
            running.push(
                client
                    .spawn(shell(&script, work.path(), sandbox))
                    .await
                    .unwrap(),
            );
        }
        until("they sleep", || processes_with(seconds).len() >= 12).await;
        println!("{}", client.pid());
        std::io::stdout().flush().unwrap();
        tokio::time::sleep(Duration::from_secs(1_000)).await;
    });
    std::process::exit(1)
}

/// Starts an agent with sleepers; gives it, its spawner's pid, its tag and their seconds.
fn start_agent(cleanup: &std::path::Path) -> (std::process::Child, i32, String, String) {
    let (tag, seconds) = (tag(), unique_seconds());
    let argument = format!("{tag},{seconds},{}", cleanup.display());
    let mut agent = Command::new(exe())
        .args(["__agent", &argument])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(agent.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (agent, line.trim().parse().unwrap(), tag, seconds)
}

fn is_alive(pid: i32) -> bool {
    // A zombie whose parent is not ours to wait for has an empty command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

pub(crate) async fn killed_agent() {
    let cleanup = work_dir();
    let inner = cleanup.path().join("cluster");
    std::fs::create_dir(&inner).unwrap();
    let (mut agent, spawner, tag, seconds) = start_agent(&inner);
    agent.kill().unwrap();
    agent.wait().unwrap();
    until("no sleeper is left", || processes_with(&seconds).is_empty()).await;
    until("the spawner has ended", || !is_alive(spawner)).await;
    assert_eq!(groups_of(&tag), Vec::<std::path::PathBuf>::new());
    assert!(!inner.exists(), "the directory is cleaned up");
}

pub(crate) async fn killed_spawner() {
    let (tag, work) = (tag(), work_dir());
    let client = Client::start(exe(), Options::new(&tag)).await.unwrap();
    let seconds = unique_seconds();
    let mut running = Vec::new();
    for sandbox in [Sandbox::None, full(work.path())] {
        let script = format!("env -i setsid sleep {seconds} & sleep {seconds}");
        running.push(
            client
                .spawn(shell(&script, work.path(), sandbox))
                .await
                .unwrap(),
        );
    }
    until("they sleep", || processes_with(&seconds).len() >= 4).await;
    let pid = rustix::process::Pid::from_raw(client.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    for process in &mut running {
        assert!(matches!(process.wait().await, Err(Error::SpawnerGone)));
    }
    client.closed().await;
    assert_eq!(processes_with(&seconds), Vec::<i32>::new());
    assert_eq!(groups_of(&tag), Vec::<std::path::PathBuf>::new());
    let refused = client.run(Spec::new(["true"], "/", Sandbox::None)).await;
    assert!(matches!(refused, Err(Error::SpawnerGone)), "{refused:?}");
}

pub(crate) async fn garbage() {
    let options = serde_json::to_vec(&Options::new(tag())).unwrap();
    let mut configured = u32::try_from(options.len() + 5)
        .unwrap()
        .to_le_bytes()
        .to_vec();
    configured.push(1);
    configured.extend_from_slice(&u32::try_from(options.len()).unwrap().to_le_bytes());
    configured.extend_from_slice(&options);
    let garbage: [&[u8]; 4] = [
        &[0xff; 64],
        &[1, 0, 0, 0, 99],
        &[6, 0, 0, 0, 2, 1, 1, 1, 1, 1],
        &[0; 16],
    ];
    for prefix in [&b""[..], &configured] {
        for bytes in garbage {
            let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).unwrap();
            let theirs: OwnedFd = theirs.into();
            let mut command = Command::new(exe());
            command
                .arg(spawner::ARGUMENT)
                .arg(theirs.as_raw_fd().to_string())
                .stderr(Stdio::piped());
            let child = command.spawn().unwrap();
            drop(theirs);
            ours.write_all(prefix)
                .and_then(|()| ours.write_all(bytes))
                .unwrap();
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.code().is_some() && !stderr.contains("panicked"),
                "{bytes:?}: {stderr}"
            );
        }
    }
}

pub(crate) async fn sweep() {
    let cleanup = work_dir();
    let (mut agent, spawner, tag, seconds) = start_agent(cleanup.path());
    // Both at once: nobody is left to clean up.
    let spawner = rustix::process::Pid::from_raw(spawner).unwrap();
    rustix::process::kill_process(spawner, rustix::process::Signal::STOP).unwrap();
    agent.kill().unwrap();
    rustix::process::kill_process(spawner, rustix::process::Signal::KILL).unwrap();
    agent.wait().unwrap();
    let had_groups = !groups_of(&tag).is_empty();
    let swept = weft_sandbox::sweep(&tag).unwrap();
    assert!(
        swept.processes > 0 && (swept.cgroups > 0) == had_groups,
        "{swept:?}"
    );
    assert_eq!(groups_of(&tag), Vec::<std::path::PathBuf>::new());
    until("no sleeper is left", || processes_with(&seconds).is_empty()).await;
    assert_eq!(
        weft_sandbox::sweep(&tag).unwrap(),
        weft_sandbox::Swept::default()
    );
}

//! Agents and monitors that are killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use weft_unit::{LogsWanted, Observed, Phase, Progress, UnitRuntime};

use crate::ground::{Ground, Node, of_spec, unit, with_ground};

pub const AGENT: &str = "agent";
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent that starts a unit, says so, and waits to be killed.
pub fn run(args: &[String]) -> ExitCode {
    let [dir, name, image, id] = args else {
        return ExitCode::from(2);
    };
    let node = Node {
        name: name.clone(),
        data_dir: dir.into(),
        runtimes: vec!["crun".into()],
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut unit = unit(
            image,
            &["/bin/sh", "-c", "echo first; sleep 10; echo second; exit 5"],
        );
        unit.id = id.parse().expect("a unit id");
        let backend = node.open();
        let progress = Progress::new(String::new());
        backend.prepare(&unit, &progress).await.expect("prepared");
        backend.start(&unit).await.expect("started");
        println!("started");
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}

pub async fn until(
    backend: &impl UnitRuntime,
    id: weft_types::UnitId,
    is: impl Fn(&Observed) -> bool,
) -> Observed {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = backend.observe(id).await.expect("observed");
        if is(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "not in time: {seen:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn killed_agent_leaves_container_and_log() {
    with_ground(&["crun"], async |ground: &Ground| {
        let node = ground.node("killed");
        let id = unit("x", &[]).id;
        let mut agent = Command::new(std::env::current_exe().expect("our own path"))
            .arg(AGENT)
            .arg(&node.data_dir)
            .args([&node.name, &ground.image.tagged, &id.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("an agent");
        let mut line = String::new();
        let stdout = agent.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "started");
        agent.kill().expect("killed");
        agent.wait().expect("reaped");

        let backend = node.open();
        assert!(backend.observe(id).await.expect("observed").is_running());
        let ended = |seen: &Observed| matches!(seen.phase, Phase::Exited { .. });
        let seen = until(&backend, id, ended).await;
        assert!(
            matches!(
                seen.phase,
                Phase::Exited {
                    exit_code: Some(5),
                    ..
                }
            ),
            "{seen:?}"
        );
        let mut lines = backend.logs(id, LogsWanted::default()).await.expect("logs");
        let mut said = Vec::new();
        while let Some(line) = lines.recv().await {
            said.push(String::from_utf8_lossy(&line.line).into_owned());
        }
        assert_eq!(said, ["first", "second"]);
        backend.remove(id, false).await.expect("removed");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

/// The monitor of a container's process. For a moment that is still the child of what made it.
fn monitor_of(pid: i64) -> i32 {
    let end = Instant::now() + PATIENCE;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        let parent: i32 = parent.expect("a parent").trim().parse().expect("a number");
        let words = std::fs::read(format!("/proc/{parent}/cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(crate::ground::MONITOR) {
            return parent;
        }
        assert!(Instant::now() < end, "{parent} is no monitor");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

pub fn killed_monitor_is_told_and_cleared_away() {
    with_ground(&["crun"], async |ground: &Ground| {
        let node = ground.node("unwatched");
        let backend = node.open();
        let id = unit("x", &[]).id;
        let mut spec = weft_types::ContainerSpec::default();
        spec.image.clone_from(&ground.image.tagged);
        spec.command = ["/bin/sh", "-c", "sleep 1000 & wait"]
            .map(str::to_owned)
            .to_vec();
        let unit = of_spec(id, spec);
        backend.start(&unit).await.expect("started");
        let started = node.data_dir.join(format!("oci/units/{id}/started.json"));
        let started: serde_json::Value =
            serde_json::from_slice(&std::fs::read(started).expect("a record")).expect("JSON");
        let pid = started["pid"].as_i64().expect("a number");
        let parent = rustix::process::Pid::from_raw(monitor_of(pid)).expect("a process");
        rustix::process::kill_process(parent, rustix::process::Signal::KILL).expect("killed");

        let ended = |seen: &Observed| matches!(seen.phase, Phase::Exited { .. });
        until(&backend, id, ended).await;
        let gone = !std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists();
        assert!(gone, "the container runs on");
        backend.start(&unit).await.expect("started again");
        until(&backend, id, Observed::is_running).await;
        backend.remove(id, false).await.expect("removed");
        assert_eq!(node.leftovers(), Vec::<String>::new());
    });
}

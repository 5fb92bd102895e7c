//! Starting, output, and the end.

use crate::setup::{
    children_of, client, confined, exe, full, groups_of, processes_with, shell, tag, text,
    unique_seconds, until, work_dir,
};
use bytes::Bytes;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use weft_sandbox::{Capture, Client, Event, Options, Outcome, Sandbox, Spec, Stdin};

/// Both sandboxes around a directory.
fn both(work: &Path) -> [Sandbox; 2] {
    [Sandbox::None, full(work)]
}

pub(crate) async fn exit_codes_and_signals() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        for (script, expected) in [
            ("exit 0", Outcome::Exited(0)),
            ("exit 7", Outcome::Exited(7)),
            ("kill -9 $$", Outcome::Signalled(9)),
            ("kill -TERM $$", Outcome::Signalled(15)),
        ] {
            let exit = client
                .run(shell(script, work.path(), sandbox.clone()))
                .await
                .unwrap()
                .exit;
            assert_eq!(exit.outcome, expected, "{script} in {sandbox:?}");
            assert!(exit.usage.wall_us > 0 && exit.usage.max_rss_bytes > 0);
        }
        let finished = client
            .run(shell("echo out; echo err >&2", work.path(), sandbox))
            .await
            .unwrap();
        assert_eq!(
            (&finished.stdout[..], &finished.stderr[..]),
            (&b"out\n"[..], &b"err\n"[..])
        );
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn spawn_failures() {
    let (client, work) = (client().await, work_dir());
    let file = work.path().join("plain");
    std::fs::write(&file, "text").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    for sandbox in both(work.path()) {
        let spec = |program: &str| Spec::new([program], work.path(), sandbox.clone());
        assert_eq!(
            client
                .run(spec("no-such-program"))
                .await
                .unwrap()
                .exit
                .shell_code(),
            127
        );
        assert_eq!(
            client
                .run(spec("/no/such/program"))
                .await
                .unwrap()
                .exit
                .shell_code(),
            127
        );
        assert_eq!(
            client
                .run(spec(file.to_str().unwrap()))
                .await
                .unwrap()
                .exit
                .shell_code(),
            126
        );
        let mut elsewhere = spec("true");
        elsewhere.cwd = "/no/such/directory".into();
        assert_eq!(client.run(elsewhere).await.unwrap().exit.shell_code(), 125);
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn standard_input() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        for length in [0, 1, 65_536, 65_537, 3_000_000] {
            let mut spec = Spec::new(["wc", "-c"], work.path(), sandbox.clone());
            spec.stdin = Stdin::Bytes(Bytes::from(vec![b'x'; length]));
            assert_eq!(text(&client.run(spec).await.unwrap()), length.to_string());
        }
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn truncation() {
    let (client, work) = (client().await, work_dir());
    let mut spec = shell(
        "head -c 3000000 /dev/zero; echo some >&2",
        work.path(),
        full(work.path()),
    );
    spec.stdout = Capture::Pipe {
        limit_bytes: 1_000_000,
    };
    let finished = client.run(spec.clone()).await.unwrap();
    assert_eq!(finished.stdout.len(), 1_000_000);
    assert!(finished.exit.stdout_truncated && !finished.exit.stderr_truncated);
    assert_eq!(finished.exit.outcome, Outcome::Exited(0));
    spec.stdout = Capture::Pipe {
        limit_bytes: u64::MAX,
    };
    assert_eq!(
        client.run(spec.clone()).await.unwrap().stdout.len(),
        3_000_000
    );
    spec.stdout = Capture::Discard;
    let finished = client.run(spec).await.unwrap();
    assert!(finished.stdout.is_empty() && !finished.exit.stdout_truncated);
    client.shutdown().await.unwrap();
}

pub(crate) async fn backpressure() {
    let (client, work) = (client().await, work_dir());
    let mut spec = shell(
        "head -c 5000000 /dev/zero; touch done",
        work.path(),
        Sandbox::None,
    );
    spec.stdout = Capture::Pipe {
        limit_bytes: u64::MAX,
    };
    let mut slow = client.spawn(spec).await.unwrap();
    // Others go on meanwhile, and the writer does not.
    for _ in 0..50 {
        client
            .run(shell("true", work.path(), Sandbox::None))
            .await
            .unwrap();
    }
    assert!(
        !work.path().join("done").exists(),
        "5 MB are not buffered anywhere"
    );
    let mut received = 0;
    while let Some(event) = slow.next_event().await.unwrap() {
        if let Event::Output { bytes, .. } = event {
            received += bytes.len();
        }
    }
    assert_eq!(received, 5_000_000);
    client.shutdown().await.unwrap();
}

pub(crate) async fn clean_environment() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        let mut spec = Spec::new(["/usr/bin/env"], work.path(), sandbox);
        spec.env = vec![("ONLY".into(), "this".into())];
        let finished = client.run(spec).await.unwrap();
        let text = text(&finished);
        let visible: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with("WEFT_SPAWN_ID="))
            .collect();
        assert_eq!(visible, ["ONLY=this"]);
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn closed_descriptors() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        let finished = client
            .run(Spec::new(["ls", "/proc/self/fd"], work.path(), sandbox))
            .await
            .unwrap();
        // The fourth is the directory being listed.
        assert_eq!(
            text(&finished).split_whitespace().collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn timeout() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        let seconds = unique_seconds();
        let script =
            format!("setsid sh -c 'setsid sleep {seconds} & sleep {seconds}' & sleep {seconds}");
        let mut spec = shell(&script, work.path(), sandbox);
        spec.timeout = Some(Duration::from_millis(200));
        let start = Instant::now();
        let exit = client.run(spec).await.unwrap().exit;
        assert!(
            exit.timed_out && start.elapsed() < Duration::from_secs(20),
            "{exit:?}"
        );
        assert_eq!(exit.outcome, Outcome::Signalled(libc::SIGKILL));
        until("all sleepers are dead", || {
            processes_with(&seconds).is_empty()
        })
        .await;
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn grace() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        let script = "trap 'echo cleaned; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
        let mut spec = shell(script, work.path(), sandbox.clone());
        spec.timeout = Some(Duration::from_secs(3));
        spec.grace = Duration::from_secs(10);
        let finished = client.run(spec).await.unwrap();
        assert_eq!(text(&finished), "ready\ncleaned");
        assert!(finished.exit.timed_out);
        assert_eq!(finished.exit.outcome, Outcome::Exited(3));
        let process = client.spawn(shell(
            "trap '' TERM; sleep 1000 & wait; sleep 1000",
            work.path(),
            sandbox,
        ));
        let mut process = process.await.unwrap();
        process.kill(libc::SIGTERM, Duration::from_millis(100));
        assert!(matches!(
            process.wait().await.unwrap().outcome,
            Outcome::Signalled(_)
        ));
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn background_child() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        let seconds = unique_seconds();
        let script = format!(
            "setsid sleep {seconds} >/dev/null 2>&1 & env -i setsid sleep {seconds} & exit 0"
        );
        let start = Instant::now();
        let exit = client
            .run(shell(&script, work.path(), sandbox))
            .await
            .unwrap()
            .exit;
        assert_eq!(exit.outcome, Outcome::Exited(0));
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "nobody waits for a child that holds the pipes"
        );
        until("the children are dead", || {
            processes_with(&seconds).is_empty()
        })
        .await;
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn dropped() {
    let (client, work) = (client().await, work_dir());
    for sandbox in both(work.path()) {
        let seconds = unique_seconds();
        let process = client
            .spawn(Spec::new(["sleep", &seconds], work.path(), sandbox))
            .await
            .unwrap();
        until("it runs", || !processes_with(&seconds).is_empty()).await;
        drop(process);
        until("it is dead", || processes_with(&seconds).is_empty()).await;
    }
    client.shutdown().await.unwrap();
}

pub(crate) async fn thousand() {
    let (tag, work) = (tag(), work_dir());
    let mounts_before = std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count();
    let client = Client::start(exe(), Options::new(&tag)).await.unwrap();
    for sandbox in both(work.path()) {
        let mut running = Vec::new();
        for index in 0..1_000 {
            let directory = work.path().join(index.to_string());
            std::fs::create_dir_all(&directory).unwrap();
            let mut spec = Spec::new(["true"], &directory, sandbox.clone());
            if let Sandbox::Full(confinement) = &mut spec.sandbox {
                confinement.work_dir = directory;
            }
            let client = client.clone();
            running.push(tokio::spawn(async move {
                client.run(spec).await.unwrap().exit.outcome
            }));
        }
        for outcome in running {
            assert_eq!(outcome.await.unwrap(), Outcome::Exited(0));
        }
    }
    until("no zombie is left", || children_of(client.pid()) == 0).await;
    client.shutdown().await.unwrap();
    assert_eq!(groups_of(&tag), Vec::<std::path::PathBuf>::new());
    assert_eq!(
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count(),
        mounts_before
    );
    assert_eq!(confined("true").await.exit.outcome, Outcome::Exited(0));
}

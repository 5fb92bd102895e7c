//! Applications of several services, inline and from Git, over a private engine.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common;
use crate::common::{PATIENCE, World, backend, inline, unit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_types::{Bytes, ComposeSpec, GitSource, Millicores, Reason};
use weft_unit::conformance::git::GitServer;
use weft_unit::conformance::images::{self, Registry};
use weft_unit::{
    CleanPolicy, Credentials, ExecOutput, ExecWanted, LogsWanted, Observed, Phase, Progress, Step,
    Unit, UnitRuntime,
};

const GRACE: Duration = Duration::from_secs(5);

/// Web, worker and redis; the page says `VERSION`.
fn application(world: &World, redis: &str, version: &str) -> String {
    let busybox = &world.busybox;
    format!(
        r#"
version: "3.8"
services:
  web:
    image: {busybox}
    entrypoint: ["/bin/sh", "-c"]
    command:
      - mkdir -p /www; echo "{version} $${{WHO}}" > /www/index.html; echo web-is-up;
        exec httpd -f -p 80 -h /www
    environment: {{WHO: "${{WHO:-nobody}}"}}
    ports: ["127.0.0.1::80"]
    depends_on: [worker]
    stop_signal: SIGKILL
  worker:
    image: {redis}
    entrypoint: ["/bin/sh", "-c"]
    command: ['trap "exit 0" TERM; while :; do redis-cli -h redis INCR ticks; sleep 0.2; done']
    restart: always
    depends_on: [redis]
  redis:
    image: {redis}
    command: ["--dir", "/data", "--save", "", "--appendonly", "yes", "--protected-mode", "no"]
    volumes: ["data:/data"]
  migrate:
    image: {busybox}
    entrypoint: ["/bin/sh", "-c", "echo migrated"]
volumes: {{data: }}
"#
    )
}

async fn page(observed: &Observed) -> String {
    let address = observed.published[&80];
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text).await;
            if let Some((head, body)) = text.split_once("\r\n\r\n")
                && head.contains("200")
            {
                return body.trim().to_owned();
            }
        }
        assert!(Instant::now() < end, "{address} does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn run_inside(world: &World, unit: &Unit, part: &str, command: &str) -> String {
    let ran = try_inside(world, unit, part, command).await;
    ran.unwrap()
}

async fn try_inside(
    world: &World,
    unit: &Unit,
    part: &str,
    command: &str,
) -> Result<String, weft_unit::Error> {
    let wanted = ExecWanted {
        command: ["/bin/sh", "-c", command].map(str::to_owned).into(),
        part: part.to_owned(),
        tty: None,
    };
    let mut session = world.runtime.exec(unit.id, wanted).await?;
    let mut said = String::new();
    while let Some(ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes)) =
        session.output.recv().await
    {
        said.push_str(&String::from_utf8_lossy(&bytes));
    }
    Ok(said)
}

async fn ticks(world: &World, unit: &Unit) -> u64 {
    let said = try_inside(world, unit, "worker", "redis-cli -h redis GET ticks").await;
    // The worker may be between two of its lives.
    let said = said.unwrap_or_default();
    let number = said.trim().trim_matches('"').parse().ok();
    number.unwrap_or(0)
}

async fn until_ticking(world: &World, unit: &Unit, above: u64) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = ticks(world, unit).await;
        if now > above {
            return now;
        }
        assert!(Instant::now() < end, "{now} ticks, not more than {above}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The process of a container, as the engine tells it; `None` while there is none.
fn pid_of(world: &World, container: &str) -> Option<rustix::process::Pid> {
    let asked = ["inspect", "-f", "{{.State.Pid}}", container];
    let told = world.daemon.docker(&asked).unwrap();
    rustix::process::Pid::from_raw(told.trim().parse().ok()?)
}

/// Waits until the engine has noticed that a process was killed, and made another.
async fn until_another_life(world: &World, container: &str, before: rustix::process::Pid) {
    let end = Instant::now() + PATIENCE;
    while pid_of(world, container).is_none_or(|pid| pid == before) {
        assert!(Instant::now() < end, "{container} stays dead");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn from_git(url: &str, path: Option<&str>) -> ComposeSpec {
    ComposeSpec {
        git: Some(GitSource {
            url: url.to_owned(),
            path: path.map(str::to_owned),
            ..GitSource::default()
        }),
        ..ComposeSpec::default()
    }
}

async fn prepare_error(world: &World, unit: &Unit) -> weft_unit::Error {
    let progress = Progress::new(String::new());
    let error = world
        .runtime
        .prepare(unit, &progress)
        .await
        .expect_err("it was accepted");
    world.runtime.remove(unit.id, false).await.unwrap();
    error
}

macro_rules! world_or_skip {
    () => {{
        if let Some(lacks) = common::missing() {
            println!("skipped: needs {lacks}");
            return;
        }
        World::new()
    }};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inline_application_runs_is_repaired_updated_and_removed() {
    let world = world_or_skip!();
    let redis = world.redis();
    let mut first = unit(world.id(1), 1, inline(application(&world, &redis, "one")));
    first.secrets.env.insert("WHO".into(), "s3cret-name".into());
    world.up(&first).await;
    let seen = world.until(first.id, "it runs", Observed::is_running).await;
    let names: Vec<_> = seen.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["migrate", "redis", "web", "worker"]);
    assert_eq!(page(&seen).await, "one s3cret-name");
    until_ticking(&world, &first, 3).await;
    no_file_holds(&world, "s3cret-name");

    // The engine repairs what its file says, the unit's start the rest.
    let name = format!("weft-{}_web_1", first.id);
    world.daemon.docker(&["kill", &name]).unwrap();
    let ended = |seen: &Observed| {
        matches!(
            seen.phase,
            Phase::Exited {
                exit_code: Some(137),
                ..
            }
        )
    };
    world.until(first.id, "web has ended", ended).await;
    world.runtime.start(&first).await.unwrap();
    world
        .until(first.id, "it runs again", Observed::is_running)
        .await;
    let worker = format!("weft-{}_worker_1", first.id);
    let killed = pid_of(&world, &worker).expect("the worker runs");
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    until_another_life(&world, &worker, killed).await;
    world
        .until(first.id, "the worker is back", Observed::is_running)
        .await;

    let mut lines = world
        .runtime
        .logs(first.id, LogsWanted::default())
        .await
        .unwrap();
    let mut all = Vec::new();
    while let Some(line) = lines.recv().await {
        all.push(line);
    }
    assert!(
        all.iter()
            .any(|line| line.part == "web" && line.line == "web-is-up")
    );
    assert!(
        all.iter()
            .any(|line| line.part == "migrate" && line.line == "migrated")
    );
    assert!(all.is_sorted_by_key(|line| line.at_ms));
    let usage = world.runtime.stats(first.id).await.unwrap();
    assert!(usage.pids >= 3 && usage.memory_bytes > 0, "{usage:?}");

    // An update takes the volume over.
    let before = until_ticking(&world, &first, 5).await;
    world.runtime.stop(first.id, GRACE).await.unwrap();
    world.runtime.remove(first.id, true).await.unwrap();
    let second = unit(world.id(2), 2, inline(application(&world, &redis, "two")));
    world.up(&second).await;
    let seen = world
        .until(second.id, "it runs", Observed::is_running)
        .await;
    assert_eq!(page(&seen).await, "two nobody");
    until_ticking(&world, &second, before).await;
    world.runtime.remove(second.id, false).await.unwrap();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

/// Looks through everything that the backend has written.
fn no_file_holds(world: &World, secret: &str) {
    let mut waiting = vec![world.daemon.dir.path().join("weft-n1")];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(common::entries(&path).into_iter().map(Into::into));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(secret), "{} holds a secret", path.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_from_git_is_built_run_and_updated() {
    let world = world_or_skip!();
    let redis = world.redis();
    // `user:hunter2-long`
    let server = GitServer::start(
        world.daemon.dir.path(),
        Some("Basic dXNlcjpodW50ZXIyLWxvbmc="),
    )
    .unwrap();
    let file = |version: &str| {
        let text = application(&world, &redis, version);
        text.replacen(&format!("image: {}", world.busybox), "build: ../web", 1)
    };
    server
        .write(
            "web/Dockerfile",
            &format!("FROM {}\nCOPY mark /mark\n", world.busybox),
        )
        .unwrap();
    server.write("web/mark", "built").unwrap();
    server.write("deploy/app.yaml", &file("one")).unwrap();
    let commit = server.commit().unwrap();
    let spec = from_git(&server.url, Some("deploy/app.yaml"));
    let mut first = unit(world.id(1), 1, spec.clone());
    let error = prepare_error(&world, &first).await;
    assert_eq!(error.reason, Reason::PermissionDenied, "{error}");
    first.secrets.git = Some(Credentials {
        username: "user".into(),
        password: "hunter2-long".into(),
    });
    world.up(&first).await;
    let seen = world.until(first.id, "it runs", Observed::is_running).await;
    assert_eq!(seen.source, Some(format!("git:{commit}")));
    assert_eq!(page(&seen).await, "one nobody");
    assert_eq!(
        run_inside(&world, &first, "web", "cat /mark").await,
        "built"
    );
    no_file_holds(&world, "hunter2-long");

    // What was fetched is not fetched again, also by another process; a moved branch is for the
    // next unit.
    server.write("deploy/app.yaml", &file("two")).unwrap();
    let next = server.commit().unwrap();
    let asked = server.requests();
    world.up(&first).await;
    let restarted = backend(&world.daemon, "n1", |_| {});
    restarted
        .prepare(&first, &Progress::new(String::new()))
        .await
        .unwrap();
    restarted.start(&first).await.unwrap();
    assert_eq!(server.requests(), asked);
    assert_eq!(
        restarted.observe(first.id).await.unwrap().source,
        seen.source
    );

    world.runtime.remove(first.id, true).await.unwrap();
    let mut second = unit(world.id(2), 2, spec);
    second.secrets = first.secrets.clone();
    world.up(&second).await;
    let seen = world
        .until(second.id, "it runs", Observed::is_running)
        .await;
    assert_eq!(seen.source, Some(format!("git:{next}")));
    assert_eq!(page(&seen).await, "two nobody");
    let everything = CleanPolicy {
        unused_for: Duration::ZERO,
        min_free_bytes: u64::MAX,
    };
    assert_eq!(world.runtime.clean(everything).await.unwrap().items, 1);
    world.runtime.start(&second).await.unwrap();
    world.runtime.remove(second.id, false).await.unwrap();
    // Redis, and what the page was built from.
    assert_eq!(world.runtime.clean(everything).await.unwrap().items, 2);
    assert_eq!(world.runtime.clean(everything).await.unwrap().items, 0);
    let images = world
        .daemon
        .docker(&["images", "-q", "--filter", "label=weft.unit"])
        .unwrap();
    assert_eq!(images, "");
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_repositories_and_files_are_refused_and_leave_nothing() {
    let world = world_or_skip!();
    let server = GitServer::start(world.daemon.dir.path(), None).unwrap();
    let with = |line: &str| format!("services: {{a: {{image: {}, {line}}}}}", world.busybox);
    server
        .write("compose.yaml", &with("volumes: ['./data:/data:ro']"))
        .unwrap();
    for (name, target) in [
        ("link.yaml", "/etc/passwd"),
        ("data", "/etc"),
        ("dir", "deploy"),
    ] {
        std::os::unix::fs::symlink(target, server.file(name).unwrap()).unwrap();
    }
    server
        .write(
            "deploy/env.yaml",
            &with("env_file: ../../../../../etc/passwd"),
        )
        .unwrap();
    server
        .write(
            "deploy/extends.yaml",
            "services: {a: {extends: {file: /etc/passwd, service: b}}}",
        )
        .unwrap();
    server
        .write(
            "deploy/include.yaml",
            "include: [/etc/passwd]\nservices: {a: {image: a}}",
        )
        .unwrap();
    server.commit().unwrap();
    let mut number = 0;
    let mut unit_of = |spec| {
        number += 1;
        unit(world.id(number), 1, spec)
    };
    for path in [
        None,
        Some("link.yaml"),
        Some("dir/env.yaml"),
        Some("deploy/env.yaml"),
        Some("deploy/extends.yaml"),
        Some("deploy/include.yaml"),
        Some("../../x"),
        Some("missing.yaml"),
    ] {
        let error = prepare_error(&world, &unit_of(from_git(&server.url, path))).await;
        assert_eq!(
            (error.step, error.reason),
            (Step::Prepare, Reason::InvalidSpec),
            "{path:?}: {error}"
        );
        assert!(!error.detail.contains("root:"), "{error}");
    }
    for url in [
        "--upload-pack=touch /tmp/x",
        "ext::sh -c x",
        "file:///etc",
        "/etc",
        "http://user:pw@h/x",
    ] {
        let error = prepare_error(&world, &unit_of(from_git(url, None))).await;
        assert_eq!(error.reason, Reason::InvalidSpec, "{url}: {error}");
    }
    let error = prepare_error(
        &world,
        &unit_of(from_git("http://169.254.169.254/latest", None)),
    )
    .await;
    assert_eq!(error.reason, Reason::PermissionDenied, "{error}");
    for reference in [
        "--upload-pack=x",
        "main:x",
        "no-such-branch",
        &"0".repeat(40),
    ] {
        let mut spec = from_git(&server.url, None);
        spec.git.as_mut().unwrap().reference = Some(reference.to_owned());
        let error = prepare_error(&world, &unit_of(spec)).await;
        assert_eq!(error.reason, Reason::InvalidSpec, "{reference}: {error}");
    }
    for (line, reason) in [
        ("privileged: true", Reason::PermissionDenied),
        ("network_mode: host", Reason::PermissionDenied),
        ("volumes: ['/etc:/x']", Reason::PermissionDenied),
        ("volumes: ['/etc:/x:ro']", Reason::PermissionDenied),
        ("volumes: ['../../..:/x:ro']", Reason::PermissionDenied),
        ("privileged: '${WHO}'", Reason::PermissionDenied),
        ("container_name: x", Reason::InvalidSpec),
        ("imagee: x", Reason::InvalidSpec),
        ("restart: [1]", Reason::InvalidSpec),
    ] {
        let mut unit = unit_of(inline(with(line)));
        unit.secrets.env.insert("WHO".into(), "true".into());
        let error = prepare_error(&world, &unit).await;
        assert_eq!(error.reason, reason, "{line}: {error}");
    }
    let mut bomb = String::from("x-a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..12 {
        let refs = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("x-a{level}: &a{level} [{refs}]\n"));
    }
    let error = prepare_error(&world, &unit_of(inline(bomb + &with("tty: true")))).await;
    assert_eq!(error.reason, Reason::InvalidSpec, "{error}");
    let mut unit = unit_of(inline(with("tty: true")));
    unit.secrets.env.insert("LD_PRELOAD".into(), "/x".into());
    assert_eq!(
        prepare_error(&world, &unit).await.reason,
        Reason::InvalidSpec
    );
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_bound_the_sum_of_all_services() {
    let world = world_or_skip!();
    // Each holds 40 MiB in memory: together more than the unit may have, alone less.
    let hog = "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 && sleep 600 || exit 137";
    let application = |script: &str| {
        let service = format!(
            "{{image: {}, entrypoint: [/bin/sh, -c, '{script}'], shm_size: 64m}}",
            world.busybox
        );
        inline(format!(
            "services: {{a: {service}, b: {service}, c: {service}}}"
        ))
    };
    let bounded = |number, script: &str| {
        let mut unit = unit(world.id(number), 1, application(script));
        unit.resources.memory = Bytes(64 << 20);
        unit.resources.cpu = Millicores(250);
        unit
    };
    let is_ended = |phase: &Phase| matches!(phase, Phase::Exited { .. });
    let oom = |seen: &Observed| seen.parts.iter().any(|part| is_ended(&part.phase));

    // At once: what is over the limit may still be starting.
    let hasty = bounded(1, hog);
    let progress = Progress::new(String::new());
    world.runtime.prepare(&hasty, &progress).await.unwrap();
    match world.runtime.start(&hasty).await {
        Ok(()) => drop(world.until(hasty.id, "one does not fit", oom).await),
        Err(error) => assert_eq!(error.reason, Reason::OomKilled, "{error}"),
    }
    world.runtime.remove(hasty.id, false).await.unwrap();

    let waiting = format!("until [ -e /tmp/go ]; do sleep 0.1; done; {hog}");
    let unit = bounded(2, &waiting);
    world.up(&unit).await;
    // These two are enough, and leave room for the command in the second.
    for part in ["a", "b"] {
        run_inside(&world, &unit, part, "touch /tmp/go").await;
    }
    let seen = world.until(unit.id, "one does not fit", oom).await;
    let usage = world.runtime.stats(unit.id).await;
    assert!(
        usage.as_ref().map_or(0, |usage| usage.memory_bytes) <= 64 << 20,
        "{usage:?} {seen:?}"
    );
    let v1 = format!(
        "/sys/fs/cgroup/cpu/weft-compose/{}/cpu.cfs_quota_us",
        unit.id
    );
    let v2 = format!("/sys/fs/cgroup/weft-compose/{}/cpu.max", unit.id);
    let quota = std::fs::read_to_string(v1)
        .or_else(|_| std::fs::read_to_string(v2))
        .unwrap();
    assert!(quota.starts_with("25000"), "{quota}");
    world.runtime.remove(unit.id, false).await.unwrap();
    for hierarchy in ["", "cpu", "memory", "pids", "systemd", "unified"] {
        let group = Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join("weft-compose")
            .join(unit.id.to_string());
        assert!(!group.exists(), "{}", group.display());
    }
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_told_and_profiles_replicas_and_secrets_work() {
    let world = world_or_skip!();
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let sleep = format!(
        "image: {}, entrypoint: [/bin/sleep, '600'], stop_signal: SIGKILL",
        world.busybox
    );
    let text = format!("services: {{a: {{{sleep}, ports: ['127.0.0.1:{port}:80']}}}}");
    let taken = unit(world.id(1), 1, inline(text));
    world
        .runtime
        .prepare(&taken, &Progress::new(String::new()))
        .await
        .unwrap();
    let error = world.runtime.start(&taken).await.unwrap_err();
    assert_eq!(
        (error.step, error.reason),
        (Step::Start, Reason::RuntimeError)
    );
    assert!(error.detail.contains("is taken on this node"), "{error}");
    assert_eq!(
        world.runtime.observe(taken.id).await.unwrap().phase,
        Phase::Absent
    );
    world.runtime.remove(taken.id, false).await.unwrap();

    let text = format!(
        "services: {{a: {{{sleep}, scale: 2, healthcheck: {{test: [CMD, 'true'], interval: 200ms}}}}, \
         b: {{{sleep}, profiles: [extra]}}, c: {{{sleep}, profiles: [other]}}}}"
    );
    let mut spec = inline(text);
    spec.profiles = vec!["extra".into()];
    let profiled = unit(world.id(2), 1, spec);
    world.up(&profiled).await;
    let healthy = |seen: &Observed| seen.is_running() && seen.healthy == Some(true);
    let seen = world.until(profiled.id, "it is healthy", healthy).await;
    let names: Vec<_> = seen.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["a-1", "a-2", "b"]);
    world.runtime.stop(profiled.id, GRACE).await.unwrap();
    let ended = world.runtime.observe(profiled.id).await.unwrap();
    assert!(matches!(ended.phase, Phase::Exited { .. }), "{ended:?}");
    world.runtime.remove(profiled.id, false).await.unwrap();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_registry_is_read_with_the_units_credentials_alone() {
    if !images::is_installed("htpasswd") {
        println!("skipped: needs htpasswd of apache2-utils");
        return;
    }
    let world = world_or_skip!();
    let dir = world.daemon.dir.path();
    let registry = Registry::with_password(dir, "user", "hunter2-long").unwrap();
    let image = images::busybox(dir, "private", &["/bin/sleep", "600"]).unwrap();
    let image = registry.push(&image, "private:1").unwrap().tagged;
    let text = format!("services: {{a: {{image: '{image}', stop_signal: SIGKILL}}}}");
    let mut private = unit(world.id(1), 1, inline(text));
    let error = prepare_error(&world, &private).await;
    let expected = [Reason::ImagePullFailed, Reason::ImageNotFound];
    assert!(
        expected.contains(&error.reason),
        "{}: {error}",
        error.reason
    );
    private.secrets.registry = Some(Credentials {
        username: "user".into(),
        password: "hunter2-long".into(),
    });
    world.up(&private).await;
    world
        .until(private.id, "it runs", Observed::is_running)
        .await;
    no_file_holds(&world, "hunter2-long");
    world.runtime.remove(private.id, false).await.unwrap();
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

/// Names of the images that an engine has.
fn images_of(world: &World) -> Vec<String> {
    let format = "{{.Repository}}:{{.Tag}}";
    let told = world
        .daemon
        .docker(&["images", "--format", format])
        .unwrap();
    let mut names: Vec<_> = told.split_whitespace().map(str::to_owned).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_were_pulled_for_applications_are_cleaned_and_no_others() {
    let world = world_or_skip!();
    let policy = |days: u64| CleanPolicy {
        unused_for: Duration::from_secs(days * 24 * 3_600),
        min_free_bytes: 0,
    };
    // The same content under a name that others pulled.
    let dir = world.daemon.dir.path();
    let theirs = images::busybox(dir, "theirs", &[]).unwrap();
    let theirs = world.registry.push(&theirs, "theirs:1").unwrap().tagged;
    world.daemon.docker(&["pull", &theirs]).unwrap();

    let missing = world.busybox.replace("busybox:1", "missing:1");
    let broken = inline(format!("services: {{a: {{image: '{missing}'}}}}"));
    let broken = unit(world.id(1), 1, broken);
    prepare_error(&world, &broken).await;
    world.runtime.remove(broken.id, false).await.unwrap();

    let sleep = "entrypoint: [/bin/sleep, '600'], stop_signal: SIGKILL";
    let text = format!(
        "services: {{a: {{image: '{}', {sleep}}}, b: {{image: '{theirs}', {sleep}}}}}",
        world.busybox
    );
    let runs = unit(world.id(2), 1, inline(text));
    world.up(&runs).await;
    let both = images_of(&world);
    assert_eq!(both.len(), 2, "{both:?}");
    let clean = async |days| world.runtime.clean(policy(days)).await.unwrap().items;
    assert_eq!(clean(0).await, 0, "both are in use");
    world.runtime.remove(runs.id, false).await.unwrap();
    assert_eq!(clean(1).await, 0, "it was in use just now");
    assert_eq!(images_of(&world), both);
    assert_eq!(clean(0).await, 1);
    assert_eq!(images_of(&world), [theirs]);
    // With little room it goes at once, and is there again when it is needed.
    world.up(&runs).await;
    world.runtime.remove(runs.id, false).await.unwrap();
    let pressed = CleanPolicy {
        min_free_bytes: u64::MAX,
        ..policy(1)
    };
    let cleaned = world.runtime.clean(pressed).await.unwrap();
    assert_eq!(cleaned.items, 1);
    assert!(cleaned.bytes > 0);
    assert_eq!(images_of(&world).len(), 1);
    assert_eq!(world.leftovers(), Vec::<String>::new());
}

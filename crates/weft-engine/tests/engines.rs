//! The conformance suite, and what is the engines' own, against a private Docker Engine and a
//! private Podman.

mod private;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use private::PrivateEngine;
use tokio::sync::watch;
use weft_engine::{Engine, Options};
use weft_types::{
    Bytes, ContainerSpec, Millicores, NetworkMode, NodeId, Reason, Resources, Retain, UnitId,
    VolumeClass, VolumeSpec, WorkloadId,
};
use weft_unit::conformance::images::{self, Pushed, Registry};
use weft_unit::conformance::{
    Ground, Program, SERVE_PORT, Subject, fresh_id, pull_policies, run_all,
};
use weft_unit::{
    CleanPolicy, Credentials, LogsWanted, Phase, Secrets, Unit, UnitRuntime, UnitWork,
};

/// A loaded machine takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// Registry, image, engine and agent's directory of a test.
struct Bench {
    // Dropped in this order: the engine before the directory that it has mounts in.
    engine: PrivateEngine,
    registry: Registry,
    image: Pushed,
    agent: tempfile::TempDir,
    runtime: Arc<dyn UnitRuntime>,
    publish: bool,
    is_podman: bool,
}

impl Bench {
    fn new(is_podman: bool, publish: bool) -> Option<Self> {
        if let Some(program) = images::missing() {
            eprintln!("skipped: needs {program}");
            return None;
        }
        let agent = tempfile::Builder::new()
            .prefix("wfa")
            .tempdir()
            .expect("a directory");
        let registry = Registry::start(agent.path()).expect("a registry");
        let busybox = images::busybox(agent.path(), "busybox", &[]).expect("an image");
        let image = registry
            .push(&busybox, "busybox:1")
            .expect("a pushed image");
        let engine = if is_podman {
            PrivateEngine::podman(&registry.address)?
        } else {
            PrivateEngine::docker()?
        };
        let runtime = runtime(&engine, agent.path(), "node-1", publish);
        Some(Self {
            engine,
            registry,
            image,
            agent,
            runtime,
            publish,
            is_podman,
        })
    }

    fn volumes(&self) -> Vec<String> {
        let dir = self.agent.path().join("data/volumes");
        let mut left = Vec::new();
        for beneath in ["", ".binds"] {
            let entries = fs::read_dir(dir.join(beneath))
                .into_iter()
                .flatten()
                .flatten();
            let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
            left.extend(
                names
                    .filter(|name| !name.starts_with('.'))
                    .map(|name| format!("volume {name}")),
            );
        }
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let agent = self.agent.path().to_string_lossy().into_owned();
        left.extend(
            table
                .lines()
                .filter(|line| line.contains(&agent))
                .map(|line| format!("mount {line}")),
        );
        left
    }

    async fn containers(&self) -> Vec<String> {
        let socket = self.engine.socket.to_string_lossy().into_owned();
        let docker = Docker::connect_with_unix(&socket, 60, bollard::API_DEFAULT_VERSION);
        let docker = docker
            .expect("a client")
            .negotiate_version()
            .await
            .expect("an engine");
        let options = ListContainersOptionsBuilder::new().all(true).build();
        let all = docker.list_containers(Some(options)).await.expect("a list");
        all.iter()
            .flat_map(|one| one.names.clone().unwrap_or_default())
            .collect()
    }

    /// A unit of our own image that runs a script.
    fn scripted(&self, script: &str) -> (Unit, ContainerSpec) {
        let spec = ContainerSpec {
            image: self.image.tagged.clone(),
            command: ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
            args: vec![script.to_owned()],
            ..ContainerSpec::default()
        };
        let number = 1 + (std::process::id() % 1_000);
        let id = UnitId {
            workload: WorkloadId(4_711),
            number,
        };
        (unit(id, spec.clone()), spec)
    }

    async fn start(&self, unit: &Unit) -> Result<(), weft_unit::Error> {
        let progress = watch::Sender::new(String::new());
        self.runtime.prepare(unit, &progress).await?;
        self.runtime.start(unit).await
    }

    /// Runs a unit to its end and gives what it printed and its exit code.
    async fn run(&self, unit: &Unit) -> (String, Option<i32>) {
        let ground = Ground::new(self);
        self.start(unit).await.expect("it starts");
        let phase = ground.until_exited(unit.id).await.expect("it ends");
        // An engine may write the last lines a moment after the end is told.
        let all = LogsWanted {
            follow: true,
            ..LogsWanted::default()
        };
        let lines = ground.lines(unit.id, all).await.expect("a log");
        let lines: Vec<_> = lines
            .iter()
            .map(|line| String::from_utf8_lossy(&line.line))
            .collect();
        let text = lines.join("\n");
        self.runtime
            .remove(unit.id, false)
            .await
            .expect("it is removed");
        match phase {
            Phase::Exited { exit_code, .. } => (text, exit_code),
            other => panic!("{other:?}"),
        }
    }
}

fn runtime(
    engine: &PrivateEngine,
    agent: &Path,
    node: &str,
    publish: bool,
) -> Arc<dyn UnitRuntime> {
    let node: NodeId = node.parse().expect("a name");
    let data = if node.as_str() == "node-1" {
        "data"
    } else {
        "other"
    };
    let mut options = Options::new(engine.socket.clone(), node, agent.join(data));
    options.publish = publish;
    Arc::new(Engine::new(options).expect("directories"))
}

fn unit(id: UnitId, spec: ContainerSpec) -> Unit {
    Unit {
        id,
        namespace: "default".parse().expect("a name"),
        name: "suite".parse().expect("a name"),
        revision: 3,
        work: UnitWork::Container(Box::new(spec)),
        resources: Resources {
            cpu: Millicores(500),
            memory: Bytes(48 << 20),
            disk: Bytes(64 << 20),
            gpu: None,
        },
        secrets: Secrets::default(),
        may_be_privileged: false,
    }
}

#[async_trait]
impl Subject for Bench {
    fn runtime(&self) -> Arc<dyn UnitRuntime> {
        self.runtime.clone()
    }

    async fn restarted(&self) -> Arc<dyn UnitRuntime> {
        runtime(&self.engine, self.agent.path(), "node-1", self.publish)
    }

    async fn stranger(&self) -> Option<Arc<dyn UnitRuntime>> {
        Some(runtime(
            &self.engine,
            self.agent.path(),
            "node-2",
            self.publish,
        ))
    }

    fn unit(&self, id: UnitId, program: Program) -> Unit {
        let (registry, digest) = (&self.registry.address, "a".repeat(64));
        let image = match program {
            Program::MissingImage => format!("{registry}/no-such-image:1"),
            Program::WrongDigest => format!("{registry}/busybox@sha256:{digest}"),
            _ => self.image.tagged.clone(),
        };
        let spec = ContainerSpec {
            image,
            command: ["/bin/sh", "-c"].map(str::to_owned).to_vec(),
            args: vec![program.script()],
            ports: vec![format!("{SERVE_PORT}").parse().expect("a port")],
            volumes: vec![
                VolumeSpec {
                    target: "/data".to_owned(),
                    class: Some(VolumeClass::Local),
                    ..VolumeSpec::default()
                },
                VolumeSpec {
                    target: "/inner".to_owned(),
                    class: Some(VolumeClass::Local),
                    sub_path: Some("a/b".to_owned()),
                    ..VolumeSpec::default()
                },
            ],
            pids: (program == Program::ForkBomb).then_some(64),
            ..ContainerSpec::default()
        };
        let mut unit = unit(id, spec);
        if program == Program::MemoryHog {
            unit.resources.memory = Bytes(16 << 20);
        }
        unit
    }

    fn not_applicable(&self, scenario: &str) -> Option<String> {
        let why = match scenario {
            "gives_the_tail_and_what_is_later" => "Podman tells times in whole seconds",
            "memory_beyond_the_limit_is_oom_killed" if private::is_hybrid() => {
                "conmon does not tell of it where both versions of control groups are mounted"
            }
            _ => return None,
        };
        self.is_podman.then(|| why.to_owned())
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    async fn instances(&self, id: UnitId) -> Option<usize> {
        let name = format!("/weft-{id}");
        let all = self.containers().await;
        Some(
            all.iter()
                .filter(|one| one.trim_start_matches('/') == &name[1..])
                .count(),
        )
    }

    async fn leftovers(&self) -> Vec<String> {
        let mut left = self.engine.leftovers();
        left.extend(self.volumes());
        left.extend(
            self.containers()
                .await
                .into_iter()
                .map(|name| format!("container {name}")),
        );
        left
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_conforms() {
    if let Some(bench) = Bench::new(false, false) {
        run_all(&bench).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_answer_on_loopback() {
    let Some(bench) = Bench::new(false, true) else {
        return;
    };
    let ground = Ground::new(&bench);
    let unit = ground.started(Program::Serve).await.expect("it starts");
    let served = ground.until_serving(unit.id).await;
    served.expect("it answers");
    let observed = ground.observe(unit.id).await.expect("it is there");
    assert!(observed.published[&SERVE_PORT].ip().is_loopback());
    ground.remove(unit.id).await.expect("it is removed");
}

/// What both engines must do beyond the suite.
async fn keeps_to_the_specification(bench: &Bench) {
    let ground = Ground::new(bench);

    // By digest, and told as such.
    let (_, mut spec) = bench.scripted("sleep 1000");
    let id = bench.scripted("").0.id;
    spec.image = bench.image.digested.clone();
    let by_digest = unit(id, spec);
    bench.start(&by_digest).await.expect("it starts");
    let observed = ground.observe(id).await.expect("it is there");
    assert_eq!(observed.source.as_deref(), Some(&*bench.image.digested));
    bench
        .runtime
        .remove(id, false)
        .await
        .expect("it is removed");

    // Environment, user, directory, limits, capabilities, network.
    let (_, mut spec) = bench.scripted(
        "echo $A; id -u; pwd; grep -E 'NoNewPrivs|CapEff' /proc/self/status; \
         ls /sys/class/net; echo x > /ro/x && echo written",
    );
    spec.env = [("A".to_owned(), "one".to_owned())].into();
    spec.user = Some("65534".to_owned());
    spec.workdir = Some("/tmp".to_owned());
    spec.network = NetworkMode::None;
    spec.volumes = vec![VolumeSpec {
        target: "/ro".to_owned(),
        class: Some(VolumeClass::Local),
        read_only: true,
        ..VolumeSpec::default()
    }];
    let (text, _) = bench.run(&unit(id, spec)).await;
    for wanted in [
        "one",
        "65534",
        "/tmp",
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000000",
        "lo",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert!(
        !text.contains("eth0") && !text.contains("written"),
        "{text}"
    );

    // A volume's data outlive the unit when they are to be kept.
    let (_, mut spec) = bench.scripted("echo kept >> /data/x; cat /data/x | wc -l");
    spec.volumes = vec![VolumeSpec {
        target: "/data".to_owned(),
        class: Some(VolumeClass::Local),
        size: Some(Bytes(16 << 20)),
        retain: Retain::Retain,
        ..VolumeSpec::default()
    }];
    let kept = unit(id, spec.clone());
    assert_eq!(bench.run(&kept).await.0.trim(), "1");
    assert_eq!(bench.run(&kept).await.0.trim(), "2");
    spec.volumes[0].retain = Retain::Delete;
    assert_eq!(bench.run(&unit(id, spec)).await.0.trim(), "3");

    refuses(bench, id).await;
    assert!(bench.volumes().is_empty(), "{:?}", bench.volumes());
}

/// What must not run.
async fn refuses(bench: &Bench, id: UnitId) {
    let host = |path: &Path| VolumeSpec {
        target: "/host".to_owned(),
        host: Some(path.display().to_string()),
        ..VolumeSpec::default()
    };
    let agent = bench.agent.path().join("data");
    for path in [
        Path::new("/"),
        Path::new("/etc"),
        &bench.engine.socket,
        &agent,
    ] {
        let (_, mut spec) = bench.scripted("true");
        spec.volumes = vec![host(path)];
        let error = bench.start(&unit(id, spec)).await.expect_err("refused");
        assert_eq!(error.reason, Reason::PermissionDenied, "{error}");
    }
    let (_, mut spec) = bench.scripted("true");
    spec.runtime_class = Some("kata".to_owned());
    let error = bench.start(&unit(id, spec)).await.expect_err("refused");
    assert_eq!(error.reason, Reason::RuntimeUnavailable, "{error}");
    let (_, mut spec) = bench.scripted("true");
    spec.command = vec!["/no/such/program".to_owned()];
    let error = bench.start(&unit(id, spec)).await.expect_err("refused");
    assert!(error.detail.contains("/no/such/program"), "{error}");
    bench
        .runtime
        .remove(id, false)
        .await
        .expect("it is removed");
}

/// Only what we pulled is cleaned, and only what nobody uses.
async fn cleans_its_own_images(bench: &Bench) {
    let everything = CleanPolicy {
        unused_for: Duration::ZERO,
        min_free_bytes: 0,
    };
    let (unit, _) = bench.scripted("sleep 1000");
    bench.start(&unit).await.expect("it starts");
    let cleaned = bench.runtime.clean(everything).await.expect("cleaned");
    assert_eq!(cleaned.items, 0, "it is used");
    bench
        .runtime
        .remove(unit.id, false)
        .await
        .expect("it is removed");
    let kept = CleanPolicy {
        unused_for: Duration::from_secs(3_600),
        min_free_bytes: 0,
    };
    assert_eq!(bench.runtime.clean(kept).await.expect("cleaned").items, 0);
    assert!(
        bench
            .runtime
            .clean(everything)
            .await
            .expect("cleaned")
            .items
            >= 1
    );
    assert_eq!(
        bench
            .runtime
            .clean(everything)
            .await
            .expect("cleaned")
            .items,
        0
    );
    let error = bench.runtime.start(&unit).await.expect_err("no image");
    assert_eq!(error.reason, Reason::ImageNotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_keeps_to_the_specification() {
    if let Some(bench) = Bench::new(false, false) {
        keeps_to_the_specification(&bench).await;
        cleans_its_own_images(&bench).await;
        policies(&bench).await;
        registries(&bench).await;
    }
}

/// One test: two podmans at once would share the rules of their networks.
#[tokio::test(flavor = "multi_thread")]
async fn podman_conforms_and_keeps_to_the_specification() {
    if let Some(bench) = Bench::new(true, false) {
        run_all(&bench).await;
        keeps_to_the_specification(&bench).await;
        cleans_its_own_images(&bench).await;
        policies(&bench).await;
    }
}

/// When the registry is asked; and that the image goes that a tag stood for before.
async fn policies(bench: &Bench) {
    let fresh = |spec| unit(fresh_id(), spec);
    let dir = bench.agent.path();
    let passed = pull_policies(&*bench.runtime, &bench.registry, dir, &fresh).await;
    passed.expect("the policies are heeded");
    let everything = CleanPolicy {
        unused_for: Duration::ZERO,
        min_free_bytes: 0,
    };
    let cleaned = bench.runtime.clean(everything).await.expect("cleaned");
    assert_eq!(cleaned.items, 2, "the old and the new");
}

/// A registry that wants a password, one that lies, and one that is not there.
async fn registries(bench: &Bench) {
    let (_, mut spec) = bench.scripted("true");
    let id = bench.scripted("").0.id;
    spec.image = "127.0.0.1:1/none:1".to_owned();
    let error = bench
        .start(&unit(id, spec.clone()))
        .await
        .expect_err("no registry");
    assert_eq!(error.reason, Reason::ImagePullFailed, "{error}");

    let dir = bench.agent.path();
    let other = images::build(
        dir,
        "other",
        &images::ImageConfig {
            entrypoint: Vec::new(),
            files: vec![("/etc/mark".to_owned(), b"other".to_vec(), false)],
        },
    )
    .expect("an image");
    // Another manifest in the place of the one that the digest names.
    let pushed = bench.registry.push(&other, "tampered:1").expect("pushed");
    let manifest = bench.registry.blob(&pushed.digest);
    let text = fs::read_to_string(&manifest).expect("a manifest");
    fs::write(&manifest, format!("{text}\n")).expect("tampered");
    spec.image = pushed.digested;
    let error = bench
        .start(&unit(id, spec.clone()))
        .await
        .expect_err("tampered");
    eprintln!("of a tampered manifest is said: {} {error}", error.reason);
    assert_ne!(error.reason, Reason::Internal);

    if !images::is_installed("htpasswd") {
        eprintln!("skipped: needs htpasswd (apt apache2-utils)");
        return;
    }
    let guarded = Registry::with_password(dir, "weft", "0pen-sesame").expect("a registry");
    spec.image = guarded.push(&other, "guarded:1").expect("pushed").tagged;
    let mut unit = unit(id, spec);
    for password in ["", "wr0ng-password"] {
        unit.secrets.registry = (!password.is_empty()).then(|| Credentials {
            username: "weft".to_owned(),
            password: password.to_owned(),
        });
        let error = bench.start(&unit).await.expect_err("not let in");
        assert_eq!(error.reason, Reason::ImageNotFound, "{error}");
        assert!(password.is_empty() || !error.detail.contains(password));
    }
    unit.secrets.registry = Some(Credentials {
        username: "weft".to_owned(),
        password: "0pen-sesame".to_owned(),
    });
    assert_eq!(bench.run(&unit).await.1, Some(0));
}

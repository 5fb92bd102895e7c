//! What the tests share: the guest, a runtime over a directory of its own, units.

#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod debian;
pub mod guest;
pub mod http;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use weft_types::{
    BlobHash, Bytes, CloudInit, ImageFormat, Millicores, NetworkSpec, PortSpec, Protocol, Reason,
    Resources, UnitId, VmImage, VmSpec, WorkloadId,
};
use weft_unit::{Error, LogsWanted, Observed, Phase, Secrets, Step, Unit, UnitRuntime, UnitWork};
use weft_vm::{ArtifactSource, Options, Vms};

use guest::Guest;

/// How long anything may take; machines are emulated, and others build beside.
pub const PATIENCE: Duration = Duration::from_secs(120);
pub const KERNEL: BlobHash = BlobHash([1; 32]);
pub const INITRD: BlobHash = BlobHash([2; 32]);

/// Files by hash, as a store of artifacts has them.
pub struct Files(pub BTreeMap<BlobHash, PathBuf>);

#[async_trait]
impl ArtifactSource for Files {
    async fn path(&self, hash: BlobHash) -> Result<PathBuf, Error> {
        let missing = || Error::new(Step::Prepare, Reason::ArtifactMissing, "not there");
        self.0.get(&hash).cloned().ok_or_else(missing)
    }
}

/// A node with its directory.
pub struct Lab {
    pub dir: tempfile::TempDir,
    pub guest: &'static Guest,
    pub node: String,
}

impl Lab {
    /// `None` when the machine lacks something, which is printed.
    pub fn new(name: &str) -> Option<Self> {
        let guest = match guest::guest() {
            Ok(guest) => guest,
            Err(why) => {
                eprintln!("skipped: needs {why}");
                return None;
            }
        };
        let node = format!("{name}-{}", std::process::id());
        let dir = tempfile::Builder::new().prefix("weft-vm-").tempdir();
        let dir = dir.expect("a directory for the test");
        Some(Self { dir, guest, node })
    }

    pub fn options(&self) -> Options {
        let node = self.node.parse().expect("a node's name");
        let mut options = Options::new(self.dir.path().join("data,with comma"), node);
        let files = [
            (KERNEL, self.guest.kernel.clone()),
            (INITRD, self.guest.initrd.clone()),
        ];
        options.artifacts = Some(Arc::new(Files(files.into())));
        let fast = self.dir.path().join("fast pool,");
        options.pools.insert("fast".to_owned(), fast);
        options
    }

    pub async fn open(&self) -> Vms {
        Vms::open(self.options()).await.expect("the runtime opens")
    }

    /// Processes, control groups, tap devices and files of units, seen from the outside.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(self.processes(""));
        let groups = find_dirs(
            Path::new("/sys/fs/cgroup"),
            &format!("weft-vm-{}", self.node),
        );
        left.extend(groups);
        let data = self.dir.path().join("data,with comma");
        let pools = [data.join("pool"), self.dir.path().join("fast pool,")];
        for dir in pools.into_iter().chain([data.join("nodes")]) {
            let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        left
    }

    /// Processes that were started with this directory, and whose command line has `text`.
    pub fn processes(&self, text: &str) -> Vec<String> {
        let ours = self.dir.path().display().to_string();
        let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = all.filter_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let is_ours = line.contains("qemu-system") && line.contains(&ours);
            (is_ours && line.contains(text)).then_some(line)
        });
        lines.collect()
    }
}

impl Drop for Lab {
    /// Ends what a failed test has left.
    fn drop(&mut self) {
        let ours = self.dir.path().display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("qemu-system") && line.contains(&ours) {
                let pid = entry.file_name().to_string_lossy().into_owned();
                let _ = std::process::Command::new("kill")
                    .args(["-9", &pid])
                    .status();
            }
        }
    }
}

fn find_dirs(dir: &Path, name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy() == name {
            found.push(entry.path().display().to_string());
        }
        found.extend(find_dirs(&entry.path(), name));
    }
    found
}

pub fn blob(hash: BlobHash) -> Option<VmImage> {
    Some(VmImage {
        url: None,
        sha256: None,
        blob: Some(hash),
        format: ImageFormat::Raw,
    })
}

pub fn port(target: u16) -> PortSpec {
    PortSpec {
        port: target,
        target,
        protocol: Protocol::Tcp,
    }
}

/// A machine with the test's guest; words of `cmdline` switch parts of its `init`.
pub fn spec(script: &str, cmdline: &str) -> VmSpec {
    let mut spec: VmSpec =
        serde_json::from_value(serde_json::json!({})).expect("everything has a default");
    spec.kernel = blob(KERNEL);
    spec.initrd = blob(INITRD);
    spec.cmdline = Some(format!(
        "console=ttyS0 no_timer_check quiet loglevel=1 panic=0 {cmdline}"
    ));
    spec.boot_timeout = PATIENCE;
    spec.networks = vec![NetworkSpec {
        ports: vec![port(8080), port(23)],
        ..NetworkSpec::default()
    }];
    if !script.is_empty() {
        spec.cloud_init = Some(CloudInit {
            user_data: Some(format!("#!/bin/sh\n{script}\n")),
            ..CloudInit::default()
        });
    }
    spec
}

pub fn fresh_id() -> UnitId {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    UnitId {
        workload: WorkloadId(u64::from(std::process::id()) << 20),
        number: NEXT.fetch_add(1, Ordering::Relaxed),
    }
}

pub fn unit(id: UnitId, spec: VmSpec) -> Unit {
    Unit {
        id,
        namespace: "default".parse().expect("a namespace"),
        name: "small-guest".parse().expect("a name"),
        revision: 3,
        work: UnitWork::Vm(Box::new(spec)),
        resources: Resources {
            cpu: Millicores(2_000),
            memory: Bytes(192 << 20),
            ..Resources::default()
        },
        secrets: Secrets::default(),
        may_be_privileged: false,
    }
}

pub async fn start(vms: &Vms, unit: &Unit) -> Result<(), Error> {
    let progress = watch::Sender::new(String::new());
    vms.prepare(unit, &progress).await?;
    vms.start(unit).await
}

/// Waits until a machine is as wanted.
pub async fn until(vms: &Vms, id: UnitId, what: &str, is: impl Fn(&Observed) -> bool) -> Observed {
    until_within(PATIENCE, vms, id, what, is).await
}

/// The same with a time of its own.
pub async fn until_within(
    patience: Duration,
    vms: &Vms,
    id: UnitId,
    what: &str,
    is: impl Fn(&Observed) -> bool,
) -> Observed {
    let end = Instant::now() + patience;
    loop {
        let seen = vms.observe(id).await.expect("it is observed");
        if is(&seen) {
            return seen;
        }
        if Instant::now() > end {
            let printed = printed(vms, id).await;
            panic!("not in time: {what}; instead {seen:?}\n{printed}");
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

pub async fn until_booted(vms: &Vms, id: UnitId) -> Observed {
    until(vms, id, "it has booted", |seen| seen.healthy == Some(true)).await
}

pub async fn until_ended(vms: &Vms, id: UnitId) -> (Option<Reason>, String) {
    let ended = |seen: &Observed| matches!(seen.phase, Phase::Exited { .. });
    match until(vms, id, "it has ended", ended).await.phase {
        Phase::Exited { reason, detail, .. } => (reason, detail),
        _ => unreachable!("waited for it"),
    }
}

/// The console so far.
pub async fn printed(vms: &Vms, id: UnitId) -> String {
    let Ok(mut lines) = vms.logs(id, LogsWanted::default()).await else {
        return String::new();
    };
    let mut text = String::new();
    while let Some(line) = lines.recv().await {
        text.push_str(&String::from_utf8_lossy(&line.line));
        text.push('\n');
    }
    text
}

pub async fn until_printed(vms: &Vms, id: UnitId, wanted: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = printed(vms, id).await;
        if text.contains(wanted) {
            return;
        }
        assert!(Instant::now() < end, "{wanted:?} is not printed:\n{text}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

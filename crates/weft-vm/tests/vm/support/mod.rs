//! What the tests share: the guest, a runtime over a directory of its own, units.

pub mod debian;
pub mod guest;
pub mod http;
mod lab;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_types::{
    BlobHash, Bytes, CloudInit, ImageFormat, Millicores, NetworkSpec, PortSpec, Protocol, Reason,
    Resources, UnitId, VmImage, VmSpec, WorkloadId,
};
use weft_unit::{Error, LogsWanted, Observed, Phase, Secrets, Unit, UnitRuntime, UnitWork};
use weft_vm::Vms;

pub use lab::{Files, Lab, kill, nft};

/// How long anything may take; machines are emulated, and others build beside.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// What an emulated kernel need not do in a test.
const FAST: &str = "edd=off mitigations=off nokaslr apparmor=0 cryptomgr.notests";
pub const KERNEL: BlobHash = BlobHash([1; 32]);
pub const INITRD: BlobHash = BlobHash([2; 32]);

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
        "console=ttyS0 no_timer_check quiet loglevel=1 panic=0 {FAST} {cmdline}"
    ));
    spec.boot_timeout = PATIENCE;
    // A second one would cost more to emulate than it saves.
    spec.vcpus = Some(1);
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

//! QEMU as the hypervisor: by its command line and, once it runs, over QMP.
//!
//! A machine's process is a session of its own, so that it survives the agent. It runs as a user of
//! its own, who may open no file of the node, under QEMU's seccomp filter. It has two monitors:
//! one is held by whoever watches the machine, the other is for single calls. Guests that shut down
//! or panic leave it paused, so that how it ended and the end of its console can still be read.

mod args;
mod control;
mod handles;
mod kvm;
mod launch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;
use weft_unit::{Error, Missing};

use crate::Options;
use crate::guest::Agent;
use crate::machine::{Control, Door, Exit, Hypervisor, HypervisorFound, Machine, Place};
use crate::process::Process;

/// The emulator's program; machines are those of PCs.
const PROGRAM: &str = "qemu-system-x86_64";
const WATCH_SOCKET: &str = "watch.sock";
const CALLS_SOCKET: &str = "calls.sock";
const AGENT_SOCKET: &str = "agent.sock";
/// Held, through an inherited descriptor, from before the process is made until it has ended.
const ALIVE_LOCK: &str = "alive.lock";
/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What one TCG machine keeps of translated code, in MiB.
const TCG_CACHE_MIB: u64 = 128;

/// Machines on QEMU.
#[derive(Debug)]
pub(crate) struct Qemu {
    program: Option<PathBuf>,
    data_dir: PathBuf,
    use_kvm: bool,
    found: OnceCell<Found>,
}

/// The emulator of this machine.
#[derive(Clone, Debug)]
struct Found {
    program: PathBuf,
    version: String,
    kvm: Result<(), Missing>,
}

impl Qemu {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            program: options.qemu.clone().or_else(|| in_path(PROGRAM)),
            data_dir: options.data_dir.clone(),
            use_kvm: options.use_kvm,
            found: OnceCell::new(),
        }
    }

    async fn found(&self) -> Result<&Found, Missing> {
        self.found.get_or_try_init(|| self.find()).await
    }

    async fn find(&self) -> Result<Found, Missing> {
        let missing = |why: String| Missing {
            what: "QEMU".to_owned(),
            why,
            fix: "install qemu-system-x86 and qemu-utils".to_owned(),
        };
        let not_there = || missing(format!("{PROGRAM} is not in PATH"));
        let program = self.program.clone().ok_or_else(not_there)?;
        let mut command = tokio::process::Command::new(&program);
        command.arg("--version").kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output
            .map_err(|_| missing(format!("{} does not answer", program.display())))?
            .map_err(|e| missing(format!("{}: {e}", program.display())))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        let version = first
            .trim_start_matches("QEMU emulator version ")
            .to_owned();
        if !output.status.success() || version.is_empty() {
            return Err(missing(format!("{} says {first:?}", program.display())));
        }
        let kvm = if self.use_kvm {
            kvm::probe(&program, &version, &self.data_dir).await
        } else {
            Err(kvm::missing("switched off by the node's options"))
        };
        Ok(Found {
            program,
            version,
            kvm,
        })
    }
}

/// What the process of a machine is called, by which it is found again.
fn mark(dir: &Path) -> PathBuf {
    dir.join(PROGRAM)
}

/// A program in `PATH`.
pub(crate) fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(name));
    candidates.find(|candidate| candidate.is_file())
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn probe(&self) -> Result<HypervisorFound, Missing> {
        let found = self.found().await?.clone();
        let capabilities = found.kvm.iter().map(|()| "kvm".to_owned());
        Ok(HypervisorFound {
            version: found.version,
            capabilities: capabilities.collect(),
            missing: found.kvm.err().into_iter().collect(),
        })
    }

    async fn overhead_bytes(&self, machine: &Machine) -> u64 {
        let has_kvm = matches!(self.found().await, Ok(found) if found.kvm.is_ok());
        let devices = machine.disks.len() as u64 + machine.cards.len() as u64;
        let translated = if has_kvm { 0 } else { TCG_CACHE_MIB + 32 };
        (96 + 8 * devices + 8 * u64::from(machine.vcpus) + translated) << 20
    }

    async fn launch(
        &self,
        machine: &Machine,
        place: &Place<'_>,
        ended: Box<dyn FnOnce(Exit) + Send>,
    ) -> Result<(), Error> {
        let found = self.found().await.map_err(launch::unavailable)?;
        launch::launch(&found.program, machine, found.kvm.is_ok(), place, ended).await
    }

    fn process(&self, dir: &Path) -> Option<Process> {
        Process::with_argument(&mark(dir))
    }

    async fn connect(&self, dir: &Path, door: Door) -> Result<Box<dyn Control>, Error> {
        Ok(Box::new(control::QemuControl::connect(dir, door).await?))
    }

    fn agent(&self, dir: &Path) -> Agent {
        Agent::at(dir.join(AGENT_SOCKET))
    }
}

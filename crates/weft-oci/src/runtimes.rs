//! OCI runtimes of this machine, found by running a container with each.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::json;
use weft_unit::Missing;

use crate::Error;
use crate::error::During;
use crate::files;
use crate::monitor::{Answer, MonitorNetwork, Request, RuntimeCommand};
use crate::path::find_on_path;
use crate::record::UnitDir;
use crate::spawn::Spawner;

/// Platforms of gVisor, the fastest first.
const RUNSC_PLATFORMS: [&str; 2] = ["systrap", "ptrace"];
const TRIAL: &str = "trial-";

/// A runtime that has run a container here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Runtime {
    /// As `runtime_class` calls it.
    pub(crate) name: String,
    pub(crate) command: RuntimeCommand,
}

/// What works on this machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Found {
    pub(crate) runtimes: Vec<Runtime>,
    /// Whether layers can be mounted by overlayfs.
    pub(crate) has_overlay: bool,
    pub(crate) missing: Vec<Missing>,
}

impl Found {
    /// The runtime of a class, or the preferred one.
    pub(crate) fn choose(&self, class: Option<&str>) -> Result<&Runtime, Error> {
        let chosen = match class {
            Some(class) => self.runtimes.iter().find(|runtime| runtime.name == class),
            None => self.runtimes.first(),
        };
        chosen.ok_or_else(|| {
            let wanted = class.unwrap_or("crun or runc");
            let why = self.missing.iter().find(|missing| missing.what == wanted);
            Error::Unavailable(match why {
                Some(missing) => format!("OCI runtime {missing}"),
                None => format!("no OCI runtime {wanted} on this node; install it"),
            })
        })
    }
}

/// Looks for runtimes, and runs a container with each.
pub(crate) struct Trials<'a> {
    pub(crate) data_dir: &'a Path,
    pub(crate) node_cgroup: &'a str,
    pub(crate) spawner: &'a Spawner,
}

impl Trials<'_> {
    pub(crate) async fn run(&self, names: &[String]) -> Result<Found, Error> {
        self.write_layer()?;
        let mut found = Found {
            has_overlay: true,
            ..Found::default()
        };
        for name in names {
            match self.find(name, &mut found).await {
                Ok(Some(runtime)) => found.runtimes.push(runtime),
                Ok(None) => {}
                Err(error) => found.missing.push(Missing {
                    what: name.clone(),
                    why: error.to_string(),
                    fix: format!("try `{name} run` by hand; its package may need an update"),
                }),
            }
        }
        Ok(found)
    }

    /// A runtime that works; `None` when it is not installed.
    async fn find(&self, name: &str, found: &mut Found) -> Result<Option<Runtime>, Error> {
        let program = match name {
            "kata" => "kata-runtime",
            name => name,
        };
        let Some(program) = find_on_path(program) else {
            return Ok(None);
        };
        let mut outcome = Ok(None);
        for options in candidates(name) {
            let command = RuntimeCommand {
                program: program.clone(),
                options,
                is_sandbox: name == "runsc",
            };
            match self.works(&command, found).await {
                Ok(()) => {
                    return Ok(Some(Runtime {
                        name: name.to_owned(),
                        command,
                    }));
                }
                Err(error) => outcome = Err(error),
            }
        }
        outcome
    }

    async fn works(&self, command: &RuntimeCommand, found: &mut Found) -> Result<(), Error> {
        let outcome = self.trial(command, found.has_overlay).await;
        let Err(error) = outcome else {
            return Ok(());
        };
        if !found.has_overlay || !error.to_string().contains("overlayfs") {
            return Err(error);
        }
        self.trial(command, false).await?;
        found.has_overlay = false;
        found.missing.push(Missing {
            what: "overlayfs".into(),
            why: error.to_string(),
            fix: "put the data directory on ext4 or xfs; until then layers are copied".into(),
        });
        Ok(())
    }

    async fn trial(&self, command: &RuntimeCommand, has_overlay: bool) -> Result<(), Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{TRIAL}{}-{count}", std::process::id());
        let unit = UnitDir::scratch(self.data_dir, &id)?;
        let request = Request {
            unit: unit.clone(),
            layers_dir: self.data_dir.join("layers"),
            layers: vec!["../trial".into()],
            has_overlay,
            runtime: command.clone(),
            config: trial_config(&unit, &format!("{}/{id}", self.node_cgroup)),
            user: String::new(),
            files: Vec::new(),
            network: MonitorNetwork::Loopback,
            cgroup: format!("{}/{id}", self.node_cgroup),
            monitors_cgroup: format!("{}/monitors", self.node_cgroup),
            id,
        };
        let answer = self.spawner.spawn(&request).await;
        self.spawner.until_gone(&unit).await?;
        let exit = unit.exit()?;
        unit.remove()?;
        match (answer?, exit) {
            (Answer::Running, Some(exit)) if exit.exit_code == Some(0) => Ok(()),
            (Answer::Running, exit) => Err(Error::Runtime {
                detail: exit.map_or_else(|| "it left no trace".into(), |exit| exit.detail),
                evidence: Vec::new(),
            }),
            (Answer::Busy, _) => Err(Error::Unavailable("another trial is running".into())),
            (
                Answer::Failed {
                    detail, evidence, ..
                },
                _,
            ) => Err(Error::Runtime { detail, evidence }),
        }
    }

    /// A root file system with nothing but a program that ends.
    fn write_layer(&self) -> Result<(), Error> {
        let dir = self.data_dir.join("trial");
        for part in ["dev", "proc", "sys", "etc"] {
            files::make_dir(&dir.join(part), 0o755)?;
        }
        let program = dir.join("exit");
        files::write_atomically(&program, &exit_program())?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode)
            .during(|| format!("make {} a program", program.display()))
    }
}

/// Removes what trials of a killed agent left.
pub(crate) fn is_old_trial(name: &str) -> bool {
    name.starts_with(TRIAL)
}

/// The ways to call a runtime, the best first.
fn candidates(name: &str) -> Vec<Vec<String>> {
    if name != "runsc" {
        return vec![Vec::new()];
    }
    // Old ones take every network namespace of a new kernel for the machine's own, and then run
    // only with the kernel's network stack, which is that of the container's namespace.
    let variants = [
        &[][..],
        &["--network=host"],
        &["--ignore-cgroups"],
        &["--ignore-cgroups", "--network=host"],
    ];
    let mut all = Vec::new();
    for more in variants {
        for platform in RUNSC_PLATFORMS {
            let mut options = vec![format!("--platform={platform}")];
            options.extend(more.iter().map(|&option| option.to_owned()));
            all.push(options);
        }
    }
    all
}

fn trial_config(unit: &UnitDir, cgroup: &str) -> serde_json::Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": unit.run().join("rootfs")},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/exit"], "env": [], "cwd": "/",
                    "noNewPrivileges": true},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {"pids": {"limit": 64}, "memory": {"limit": 256 << 20}},
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "mount"}, {"type": "uts"},
                           {"type": "network", "path": crate::bundle::netns_path(&unit.run())}],
        },
    })
}

/// An ELF program of one segment that ends with 0.
fn exit_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let (machine, code): (u16, &[u8]) = match std::env::consts::ARCH {
        // mov x0, 0; mov x8, 93; svc 0
        "aarch64" => (
            183,
            &[0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4],
        ),
        // xor edi, edi; mov eax, 60; syscall
        _ => (62, &[0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 5]),
    };
    let length = HEADERS + code.len() as u64;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for half in [2u16, machine] {
        elf.extend(half.to_le_bytes());
    }
    elf.extend(1u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend(half.to_le_bytes());
    }
    for word in [1u32, 5] {
        elf.extend(word.to_le_bytes());
    }
    for word in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend_from_slice(code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_trial_runs_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("exit");
        std::fs::write(&program, exit_program()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        let status = std::process::Command::new(&program).status().unwrap();
        assert_eq!(status.code(), Some(0));
    }

    #[test]
    fn a_class_that_is_not_there_is_told() {
        let error = Found::default().choose(Some("kata")).unwrap_err();
        assert!(error.to_string().contains("kata"), "{error}");
    }
}

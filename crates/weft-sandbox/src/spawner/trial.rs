//! Finding out what this machine allows, by trying it in children of the spawner.

use super::launch::{Launcher, try_namespaces};
use crate::{Capabilities, Confinement, Limits, Missing, Sandbox, SpawnFailure, Spec, Stage};
use std::path::PathBuf;

const ALLOW_USER_NAMESPACES: &str = "run the agent as root, or allow user namespaces: sysctl user.max_user_namespaces=15000, \
     kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0";

/// Tries everything.
pub(super) fn capabilities(
    launcher: &mut Launcher,
    no_groups: Option<std::io::Error>,
) -> Capabilities {
    let mut missing = Vec::new();
    // Without root a namespace can only be made together with a user namespace.
    let with = if rustix::process::geteuid().is_root() {
        0
    } else {
        libc::CLONE_NEWUSER
    };
    let mut namespace = |what: &str, flag: libc::c_int| match try_namespaces(flag | with) {
        Ok(()) => true,
        Err(error) => {
            missing.push(required(what, error.to_string(), ALLOW_USER_NAMESPACES));
            false
        }
    };
    let user_namespace = namespace("user namespaces", libc::CLONE_NEWUSER);
    let pid_namespace = namespace("pid namespaces", libc::CLONE_NEWPID);
    let network_namespace = namespace("network namespaces", libc::CLONE_NEWNET);
    let mut mount_namespace = namespace("mount namespaces", libc::CLONE_NEWNS);
    let seccomp = rustix::thread::secure_computing_mode().is_ok();
    if missing.is_empty()
        && let Err(failure) = try_sandbox(launcher)
    {
        mount_namespace &= failure.stage != Stage::Mount;
        missing.push(required(
            "the full sandbox",
            failure.to_string(),
            fix(failure.stage),
        ));
    }
    let landlock_abi = crate::landlock::abi();
    if landlock_abi == 0 {
        missing.push(optional(
            "Landlock",
            "the kernel does not offer it",
            "boot Linux 5.13 or newer with lsm=landlock,…",
        ));
    }
    missing.extend(missing_groups(launcher, no_groups));
    Capabilities {
        user_namespace,
        mount_namespace,
        pid_namespace,
        network_namespace,
        cgroup: launcher.support().clone(),
        seccomp,
        landlock_abi,
        missing,
    }
}

fn missing_groups(launcher: &Launcher, no_groups: Option<std::io::Error>) -> Vec<Missing> {
    let support = launcher.support();
    let fix = "run the agent as root or from a systemd unit with Delegate=yes";
    let why = no_groups.map_or("the controller is not available here".to_owned(), |error| {
        error.to_string()
    });
    let effects = [
        (
            support.cpu,
            "cgroup cpu",
            "CPU quota and weight are not enforced",
        ),
        (
            support.memory,
            "cgroup memory",
            "memory is limited per process (RLIMIT_AS) only",
        ),
        (
            support.pids,
            "cgroup pids",
            "processes are limited per user (RLIMIT_NPROC) only",
        ),
    ];
    let absent = effects.into_iter().filter(|(available, ..)| !available);
    absent
        .map(|(_, what, effect)| optional(what, &format!("{why}: {effect}"), fix))
        .collect()
}

/// Builds a whole sandbox around an empty directory.
fn try_sandbox(launcher: &mut Launcher) -> Result<(), SpawnFailure> {
    let directory: PathBuf =
        std::env::temp_dir().join(format!("weft-trial-{}", std::process::id()));
    let failed = |error: std::io::Error| SpawnFailure {
        stage: Stage::WorkDir,
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    std::fs::create_dir(&directory).map_err(failed)?;
    let confinement = Confinement::new(&directory);
    let mut spec = Spec::new(["true"], &directory, Sandbox::Full(confinement.clone()));
    spec.stdout = crate::Capture::Discard;
    spec.stderr = crate::Capture::Discard;
    spec.limits = Limits::default();
    let outcome = launcher.try_confined(&spec, &confinement);
    let _ = std::fs::remove_dir_all(&directory);
    outcome
}

fn fix(stage: Stage) -> &'static str {
    match stage {
        Stage::Mount => {
            "inside a container: let it mount /proc (Docker: --security-opt systempaths=unconfined \
             --security-opt seccomp=unconfined --security-opt apparmor=unconfined)"
        }
        Stage::Cgroup => {
            "remount the cgroup file system writable, or delegate a subtree to the agent"
        }
        Stage::Clone | Stage::Identity | Stage::Network => ALLOW_USER_NAMESPACES,
        Stage::WorkDir => "make the temporary directory writable",
        Stage::Landlock | Stage::Seccomp => {
            "run a kernel with CONFIG_SECCOMP_FILTER; in a container allow seccomp"
        }
        Stage::Request | Stage::Descriptors | Stage::Limits | Stage::Exec => {
            "raise the limits of the agent (ulimit -n, -u)"
        }
    }
}

fn required(what: &str, why: String, fix: &str) -> Missing {
    Missing {
        what: what.to_owned(),
        why,
        fix: fix.to_owned(),
        required: true,
    }
}

fn optional(what: &str, why: &str, fix: &str) -> Missing {
    Missing {
        what: what.to_owned(),
        why: why.to_owned(),
        fix: fix.to_owned(),
        required: false,
    }
}

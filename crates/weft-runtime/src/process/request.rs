//! From a task to the spawner's request.

use std::ffi::OsString;

use weft_sandbox::{Capture, Confinement, DEFAULT_PATH, Limits, Sandbox, Spec, Stdin};
use weft_types::SandboxMode;

use super::TERM_GRACE;
use crate::{TaskRun, WorkDir, template};

/// The request for `task`, which works in `dir`.
pub(super) fn spec(
    task: &TaskRun,
    command: &[String],
    sandbox: SandboxMode,
    dir: &WorkDir,
    stdin: Stdin,
    output_limit_bytes: u64,
) -> Spec {
    let argv = template::expand(command, task.input.name(), task.index);
    let containment = match sandbox {
        SandboxMode::Full => Sandbox::Full(Confinement::new(dir.path())),
        SandboxMode::None => Sandbox::None,
    };
    let mut spec = Spec::new(argv, dir.path(), containment);
    spec.env = environment(task, sandbox, dir);
    spec.stdin = stdin;
    let capture = Capture::Pipe {
        limit_bytes: output_limit_bytes,
    };
    (spec.stdout, spec.stderr) = (capture, capture);
    spec.timeout = task.timeout;
    spec.grace = TERM_GRACE;
    spec.limits = limits(task, sandbox);
    spec
}

/// Ours first, so that the user's own setting of the same name wins, except for `WEFT_*`.
fn environment(task: &TaskRun, sandbox: SandboxMode, dir: &WorkDir) -> Vec<(OsString, OsString)> {
    let home = dir.path().as_os_str();
    let temporary = match sandbox {
        SandboxMode::Full => "/tmp".into(),
        SandboxMode::None => home.to_owned(),
    };
    let defaults: [(&str, OsString); 4] = [
        ("PATH", DEFAULT_PATH.into()),
        ("HOME", home.to_owned()),
        ("TMPDIR", temporary),
        ("LANG", "C.UTF-8".into()),
    ];
    let out = [("WEFT_OUT", dir.out().into_os_string())];
    let ours: Vec<(&str, OsString)> = task
        .identity()
        .map(|(name, value)| (name, value.into()))
        .into_iter()
        .chain(out)
        .collect();
    let is_ours = |name: &str| ours.iter().any(|(ours, _)| *ours == name);
    let users = task.env.iter().filter(|(name, _)| !is_ours(name));
    let defaults = defaults
        .into_iter()
        .filter(|(name, _)| !task.env.contains_key(*name));
    let mut env: Vec<(OsString, OsString)> = users
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    env.extend(defaults.map(|(name, value)| (name.into(), value)));
    env.extend(ours.into_iter().map(|(name, value)| (name.into(), value)));
    env
}

fn limits(task: &TaskRun, sandbox: SandboxMode) -> Limits {
    let limit = |amount: u64| (amount > 0).then_some(amount);
    let disk_bytes = limit(task.resources.disk.0);
    match sandbox {
        SandboxMode::None => Limits {
            disk_bytes,
            ..Limits::default()
        },
        SandboxMode::Full => Limits {
            cpu_weight_millicores: limit(task.resources.cpu.0),
            memory_bytes: limit(task.resources.memory.0),
            disk_bytes,
            ..Limits::default()
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkRoot;
    use crate::testing::process_task;

    #[test]
    fn the_user_may_change_defaults_but_not_what_weft_says() {
        let base = tempfile::tempdir().unwrap();
        let root = WorkRoot::open(base.path().join("work")).unwrap();
        let mut task = process_task(&["true"]);
        task.env = [("HOME", "/h"), ("WEFT_OUT", "/evil"), ("X", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let dir = root.prepare(&task).unwrap();
        let env = environment(&task, SandboxMode::None, &dir);
        let get = |wanted: &str| {
            let found: Vec<_> = env.iter().filter(|(name, _)| name == wanted).collect();
            assert_eq!(found.len(), 1, "{wanted}");
            found[0].1.to_str().unwrap().to_owned()
        };
        assert_eq!((get("HOME"), get("X")), ("/h".to_owned(), "1".to_owned()));
        assert_eq!(get("WEFT_OUT"), dir.out().to_str().unwrap());
        assert_eq!(get("WEFT_TASK_INDEX"), task.index.to_string());
    }
}

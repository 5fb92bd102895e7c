//! From the end of a process to the outcome of its task.

use weft_sandbox::{Exit, SpawnFailure, Stage};
use weft_types::{Failure, Reason};

use crate::outcome::{self, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, EXIT_SIGNAL_BASE};
use crate::{Outcome, TaskRun, Work};

// The same numbers on all Linux architectures.
const EPERM: i32 = 1;
const ENOENT: i32 = 2;
const E2BIG: i32 = 7;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;
/// "File too large": RLIMIT_FSIZE was reached.
const SIGXFSZ: i32 = 25;

/// Tells in `outcome` how the process ended and what it used.
pub(super) fn describe(outcome: &mut Outcome, exit: &Exit, task: &TaskRun, was_cancelled: bool) {
    outcome.used.cpu_us = exit.usage.user_us + exit.usage.system_us;
    outcome.used.peak_memory_bytes = exit
        .usage
        .cgroup_peak_bytes
        .unwrap_or(exit.usage.max_rss_bytes);
    let own = match exit.outcome {
        weft_sandbox::Outcome::NotStarted(failure) => {
            outcome.exit_code = exit_code_not_started(failure);
            Some(not_started(failure, task))
        }
        weft_sandbox::Outcome::Exited(code) => {
            outcome.exit_code = Some(code);
            (code != 0).then(|| {
                Failure::new(
                    Reason::NonzeroExit,
                    format!("it ended with exit code {code}"),
                )
            })
        }
        weft_sandbox::Outcome::Signalled(signal) => {
            outcome.exit_code = Some(EXIT_SIGNAL_BASE + signal);
            outcome.signal = Some(signal);
            Some(signalled(signal, task))
        }
    };
    outcome.failure = limit_reached(exit, task).or_else(|| match own {
        // What was about to fail when it was cancelled was, most likely, cancelled.
        Some(_) if was_cancelled => Some(outcome::cancelled()),
        own => own,
    });
    if matches!(
        outcome.failure.as_ref().map(|failure| failure.reason),
        Some(Reason::Timeout | Reason::Cancelled)
    ) {
        outcome.exit_code = None;
    }
}

/// A limit that ended it explains more than the signal that enforced the limit.
fn limit_reached(exit: &Exit, task: &TaskRun) -> Option<Failure> {
    if exit.oom_killed {
        let detail = format!(
            "it used more than its memory limit of {}",
            task.resources.memory
        );
        return Some(Failure::new(Reason::OomKilled, detail).with_next("raise `resources.memory`"));
    }
    if exit.disk_exceeded {
        return Some(disk_exceeded(task));
    }
    exit.timed_out.then(|| outcome::timed_out(task.timeout))
}

fn disk_exceeded(task: &TaskRun) -> Failure {
    let detail = match task.resources.disk.0 {
        0 => "the disk of the node is nearly full".to_owned(),
        _ => format!(
            "it used more than its disk limit of {}, or the disk of the node is nearly full",
            task.resources.disk
        ),
    };
    Failure::new(Reason::StorageError, detail).with_next("raise `resources.disk`")
}

fn signalled(signal: i32, task: &TaskRun) -> Failure {
    if signal == SIGXFSZ {
        return disk_exceeded(task);
    }
    Failure::new(Reason::NonzeroExit, format!("signal {signal} killed it"))
}

fn exit_code_not_started(failure: SpawnFailure) -> Option<i32> {
    match (failure.stage, failure.errno) {
        (Stage::Exec, ENOENT | ENOTDIR) => Some(EXIT_NOT_FOUND),
        (Stage::Exec, _) => Some(EXIT_NOT_EXECUTABLE),
        _ => None,
    }
}

fn not_started(failure: SpawnFailure, task: &TaskRun) -> Failure {
    let program = match &task.work {
        Work::Process { command, .. } => command.first().map_or("", String::as_str),
        _ => "",
    };
    match (failure.stage, failure.errno) {
        (Stage::Exec, ENOENT | ENOTDIR) => Failure::new(
            Reason::InvalidSpec,
            format!("{program}: command not found on the node"),
        )
        .with_next("check the spelling and that the program is installed on every node"),
        (Stage::Exec, EACCES | EPERM | EISDIR) => {
            Failure::new(Reason::PermissionDenied, format!("{program}: {failure}"))
                .with_next(format!("chmod +x {program}"))
        }
        (Stage::Exec, E2BIG | ENOEXEC) | (Stage::Request, _) => {
            Failure::new(Reason::InvalidSpec, format!("{program}: {failure}"))
        }
        (_, ENOSPC | EDQUOT) => Failure::new(Reason::StorageError, failure.to_string()),
        _ => Failure::new(Reason::RuntimeError, failure.to_string()),
    }
}

/// Why the spawner did not run a process to its end.
pub(super) fn refused(error: weft_sandbox::Error) -> Failure {
    let detail = error.to_string();
    match error {
        weft_sandbox::Error::Unavailable { .. } => Failure::new(Reason::RuntimeUnavailable, detail)
            .with_next("fix what is missing, or run it without containment: --sandbox none"),
        weft_sandbox::Error::InvalidSpec(_) => Failure::new(Reason::InvalidSpec, detail),
        _ => Failure::new(Reason::RuntimeError, detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::process_task;
    use weft_sandbox::{Outcome as End, Usage};

    fn exit(outcome: End) -> Exit {
        Exit {
            outcome,
            usage: Usage {
                user_us: 2,
                system_us: 3,
                max_rss_bytes: 7,
                ..Usage::default()
            },
            timed_out: false,
            oom_killed: false,
            disk_exceeded: false,
            stdout_truncated: false,
            stderr_truncated: false,
        }
    }

    fn described(exit: &Exit, was_cancelled: bool) -> (Option<Reason>, Option<i32>) {
        let mut outcome = Outcome::default();
        describe(&mut outcome, exit, &process_task(&["prog"]), was_cancelled);
        assert_eq!(
            (outcome.used.cpu_us, outcome.used.peak_memory_bytes),
            (5, 7)
        );
        (outcome.reason(), outcome.exit_code)
    }

    #[test]
    fn endings_map_to_reasons_and_shell_codes() {
        let not_started = |errno| {
            End::NotStarted(SpawnFailure {
                stage: Stage::Exec,
                errno,
            })
        };
        for (end, reason, code) in [
            (End::Exited(0), None, Some(0)),
            (End::Exited(127), Some(Reason::NonzeroExit), Some(127)),
            (End::Signalled(9), Some(Reason::NonzeroExit), Some(137)),
            (
                End::Signalled(SIGXFSZ),
                Some(Reason::StorageError),
                Some(153),
            ),
            (not_started(ENOENT), Some(Reason::InvalidSpec), Some(127)),
            (
                not_started(EACCES),
                Some(Reason::PermissionDenied),
                Some(126),
            ),
            (not_started(ENOEXEC), Some(Reason::InvalidSpec), Some(126)),
            (
                End::NotStarted(SpawnFailure {
                    stage: Stage::Clone,
                    errno: 11,
                }),
                Some(Reason::RuntimeError),
                None,
            ),
            (
                End::NotStarted(SpawnFailure {
                    stage: Stage::Mount,
                    errno: ENOSPC,
                }),
                Some(Reason::StorageError),
                None,
            ),
        ] {
            assert_eq!(described(&exit(end), false), (reason, code), "{end:?}");
        }
    }

    #[test]
    fn a_limit_explains_more_than_the_signal_that_enforced_it() {
        let killed = exit(End::Signalled(9));
        let oom = Exit {
            oom_killed: true,
            ..killed.clone()
        };
        assert_eq!(described(&oom, true), (Some(Reason::OomKilled), Some(137)));
        let late = Exit {
            timed_out: true,
            ..killed.clone()
        };
        assert_eq!(described(&late, false), (Some(Reason::Timeout), None));
        let disk = Exit {
            disk_exceeded: true,
            ..killed.clone()
        };
        assert_eq!(described(&disk, false).0, Some(Reason::StorageError));
        assert_eq!(described(&killed, true), (Some(Reason::Cancelled), None));
        assert_eq!(described(&exit(End::Exited(0)), true), (None, Some(0)));
    }
}

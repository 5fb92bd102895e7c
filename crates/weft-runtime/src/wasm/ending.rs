//! From the end of a program to the outcome of its task.

use wasmtime::{Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use weft_types::{Failure, Reason};

use super::execute::End;
use super::host::OutOfMemory;
use super::stdio::OutputLost;
use super::watch::DiskExceeded;
use crate::outcome::{cancelled, timed_out};
use crate::{Outcome, TaskRun};

/// Frames of a trap's backtrace that are told.
const MAX_FRAMES: usize = 8;

/// Tells in `outcome` how the program ended. `disk` is the last measurement.
pub(super) fn describe(
    outcome: &mut Outcome,
    end: End,
    task: &TaskRun,
    disk: Result<(), DiskExceeded>,
) {
    match end {
        End::Cancelled => outcome.failure = Some(cancelled()),
        End::TimedOut => outcome.failure = Some(timed_out(task.timeout)),
        End::Failed => exited(outcome, 1),
        End::Returned(Ok(())) => exited(outcome, 0),
        End::Returned(Err(error)) => match error.downcast_ref::<I32Exit>() {
            Some(I32Exit(code)) => exited(outcome, *code),
            None => outcome.failure = Some(stopped(&error)),
        },
    }
    if let Err(exceeded) = disk {
        outcome.failure = Some(disk_failure(&exceeded));
    }
}

fn exited(outcome: &mut Outcome, code: i32) {
    outcome.exit_code = Some(code);
    outcome.failure = (code != 0).then(|| {
        Failure::new(
            Reason::NonzeroExit,
            format!("it ended with exit code {code}"),
        )
    });
}

fn disk_failure(exceeded: &DiskExceeded) -> Failure {
    Failure::new(Reason::StorageError, exceeded.to_string()).with_next("raise `resources.disk`")
}

fn stopped(error: &wasmtime::Error) -> Failure {
    if let Some(memory) = error.downcast_ref::<OutOfMemory>() {
        return Failure::new(Reason::OomKilled, memory.to_string())
            .with_next("raise `resources.memory`");
    }
    if let Some(exceeded) = error.downcast_ref::<DiskExceeded>() {
        return disk_failure(exceeded);
    }
    if let Some(lost) = error.downcast_ref::<OutputLost>() {
        return Failure::new(Reason::StorageError, lost.to_string());
    }
    match error.downcast_ref::<Trap>() {
        Some(trap) => Failure::new(Reason::RuntimeError, format!("{trap}{}", frames(error))),
        None => Failure::new(
            Reason::RuntimeError,
            format!("{}{}", error.root_cause(), frames(error)),
        ),
    }
}

/// Where the program was, innermost first: ` at inner < outer < _start`.
fn frames(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return String::new();
    };
    let name = |frame: &wasmtime::FrameInfo| match frame.func_name() {
        Some(name) => name.to_owned(),
        None => format!("function {}", frame.func_index()),
    };
    let names: Vec<_> = backtrace
        .frames()
        .iter()
        .take(MAX_FRAMES)
        .map(name)
        .collect();
    let more = if backtrace.frames().len() > MAX_FRAMES {
        " < …"
    } else {
        ""
    };
    if names.is_empty() {
        String::new()
    } else {
        format!(" at {}{more}", names.join(" < "))
    }
}

//! Exit codes of the contract, and how a failure is told.

use std::process::ExitCode;

use weft_api::{Problem, ResultView};
use weft_types::{Class, FieldError, Reason, TaskState};

use crate::output::Output;

/// The work or the command failed.
pub const FAILED: u8 = 1;
/// The command line or an input is wrong.
pub const USAGE: u8 = 2;
/// No control plane answered.
pub const UNREACHABLE: u8 = 69;
/// Not placed yet, or try again.
pub const TRY_AGAIN: u8 = 75;
/// Not allowed, or over budget.
pub const NOT_ALLOWED: u8 = 77;
/// `run`: the time limit was reached.
pub const TIMEOUT: u8 = 124;
/// `run`: Weft itself failed.
pub const WEFT_FAILED: u8 = 125;
/// Added to the number of the signal that ended a program; Ctrl-C is 130.
pub const SIGNAL_BASE: u8 = 128;
/// `run`: interrupted by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub struct Failed {
    /// The exit code.
    pub code: u8,
    /// What is told.
    pub problem: Box<Problem>,
}

impl Failed {
    /// The command line or a local input is wrong.
    pub fn usage(detail: impl Into<String>) -> Self {
        Self::new(USAGE, "usage", Reason::InvalidSpec, detail)
    }

    /// A defect, or the machine refuses what should work.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(FAILED, "internal", Reason::Internal, detail)
    }

    /// Any failure.
    pub fn new(code: u8, kind: &str, reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            code,
            problem: Box::new(Problem::new(400, kind, reason, detail)),
        }
    }

    /// With the next step to suggest.
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.problem.next = Some(next.into());
        self
    }

    /// As `weft run` reports it: 125 unless the user is at fault.
    pub fn for_run(self) -> Self {
        let code = match self.code {
            FAILED | TRY_AGAIN => WEFT_FAILED,
            code => code,
        };
        Self { code, ..self }
    }
}

impl From<FieldError> for Failed {
    fn from(error: FieldError) -> Self {
        Self {
            code: USAGE,
            problem: Box::new(Problem::invalid(error)),
        }
    }
}

impl From<weft_client::Error> for Failed {
    fn from(error: weft_client::Error) -> Self {
        if error.is_unreachable() {
            return Self::new(
                UNREACHABLE,
                "unreachable",
                Reason::NetworkError,
                error.to_string(),
            )
            .with_next("start one with `weft up`, or choose another with `weft context use`");
        }
        match error {
            weft_client::Error::Refused(problem) => {
                let code = match (problem.status, problem.class) {
                    (401 | 403, _) | (_, Class::Budget) if problem.status != 429 => NOT_ALLOWED,
                    (429 | 503, _) => TRY_AGAIN,
                    (400 | 413 | 415, _) => USAGE,
                    _ => FAILED,
                };
                Self { code, problem }
            }
            other => Self::new(FAILED, "client", Reason::Internal, other.to_string()),
        }
    }
}

/// The exit code that a task's end means, as the contract has it.
pub fn of_result(result: &ResultView) -> u8 {
    if result.state == TaskState::Completed {
        return 0;
    }
    let reason = result.why.as_ref().map(|why| why.reason);
    match (reason, result.exit_code, result.signal) {
        (Some(Reason::Timeout), ..) => TIMEOUT,
        (_, Some(code), _) if code != 0 => u8::try_from(code & 0xff).unwrap_or(FAILED),
        (_, _, Some(signal)) => SIGNAL_BASE.saturating_add(u8::try_from(signal).unwrap_or(0)),
        (Some(Reason::NonzeroExit | Reason::InvalidSpec), ..) => FAILED,
        _ => WEFT_FAILED,
    }
}

/// Tells a failure: for people on standard error, as JSON also on standard output.
pub fn report(failed: &Failed, output: &Output) -> ExitCode {
    output.problem(&failed.problem);
    ExitCode::from(failed.code)
}

/// Tells what is wrong with the command line; help and version are no failure.
pub fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(USAGE),
    }
}

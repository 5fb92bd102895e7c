//! From the words of the runtimes to those of the machine.

use weft_core::unit as core;
use weft_unit::{Error, Observed, PartStatus, Phase};

/// The longest detail that is passed on, in bytes.
const MAX_DETAIL_BYTES: usize = 2_048;

pub(super) fn observation(observed: &Observed, evidence: Vec<String>) -> core::Observation {
    core::Observation {
        phase: phase(&observed.phase),
        healthy: observed.healthy,
        address: observed.address.map(|address| address.to_string()),
        source: observed.source.clone(),
        parts: observed.parts.iter().map(part).collect(),
        evidence,
    }
}

fn phase(phase: &Phase) -> core::Phase {
    match phase {
        Phase::Absent => core::Phase::Absent,
        Phase::Created => core::Phase::Created,
        Phase::Running { since_ms } => core::Phase::Running {
            since_ms: *since_ms,
        },
        Phase::Paused => core::Phase::Paused,
        Phase::Exited {
            exit_code,
            signal,
            reason,
            detail,
            ..
        } => core::Phase::Exited {
            exit_code: *exit_code,
            signal: *signal,
            reason: *reason,
            detail: bounded(detail),
        },
    }
}

fn part(part: &PartStatus) -> (String, String) {
    let state = match (&part.phase, part.healthy) {
        (Phase::Absent, _) => "absent".to_owned(),
        (Phase::Created, _) => "created".to_owned(),
        (Phase::Running { .. }, Some(false)) => "unhealthy".to_owned(),
        (Phase::Running { .. }, _) => "running".to_owned(),
        (Phase::Paused, _) => "paused".to_owned(),
        (Phase::Exited { exit_code, .. }, _) => match exit_code {
            Some(code) => format!("exited ({code})"),
            None => "exited".to_owned(),
        },
    };
    (part.name.clone(), state)
}

pub(super) fn failure(error: Error) -> core::Failure {
    core::Failure {
        step: error.step.as_str(),
        reason: error.reason,
        detail: bounded(&error.detail),
        evidence: error.evidence,
    }
}

fn bounded(text: &str) -> String {
    let mut end = text.len().min(MAX_DETAIL_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

//! From what an agent reported to what a client reads.

use prost::Message;
use weft_api::{AttemptView, OutputFileView, ResultView, Text, WhyView, rfc3339};
use weft_proto::v1;
use weft_types::{BlobHash, JobId, Reason, TaskState, Timestamp};

use crate::dispatch::StoredAttempt;

/// Builds the line of the results stream for a final task.
///
/// `outcome` is a [`v1::TaskOutcome`] as the journal has it, empty when no agent reported one.
pub fn result_view(
    task: u32,
    state: TaskState,
    reason: Option<Reason>,
    attempts: u32,
    file: Option<String>,
    outcome: &[u8],
) -> ResultView {
    let outcome = v1::TaskOutcome::decode(outcome).unwrap_or_default();
    let program = outcome.exit_code.is_some() || outcome.signal != 0;
    ResultView {
        task,
        state,
        file,
        result: raw_json(&outcome.result),
        exit_code: outcome.exit_code,
        signal: Some(outcome.signal).filter(|signal| *signal != 0),
        stdout: program.then(|| {
            text(
                &outcome.stdout,
                &outcome.stdout_blob,
                outcome.stdout_truncated,
            )
        }),
        stderr: program.then(|| {
            text(
                &outcome.stderr,
                &outcome.stderr_blob,
                outcome.stderr_truncated,
            )
        }),
        files: outcome.files.iter().map(output_file).collect(),
        why: reason.map(|reason| why(reason, &outcome.detail)),
        node: Some(outcome.node).filter(|node| !node.is_empty()),
        attempts,
        run_us: outcome.run_us,
        peak_memory_bytes: Some(outcome.peak_memory_bytes).filter(|bytes| *bytes > 0),
    }
}

/// An attempt of the history; the end of its output only when it is wanted.
pub fn attempt_view(stored: StoredAttempt, with_output: bool) -> AttemptView {
    let StoredAttempt {
        attempt,
        reason,
        outcome,
    } = stored;
    let time = |ms: u64| (ms > 0).then(|| rfc3339(Timestamp(ms)));
    let tail = |bytes: &[u8]| match with_output {
        true => String::from_utf8_lossy(bytes).into_owned(),
        false => String::new(),
    };
    AttemptView {
        attempt,
        started_at: time(outcome.started_ms),
        ended_at: time(outcome.finished_ms),
        run_us: outcome.run_us,
        reason,
        class: reason.map(Reason::class),
        exit_code: outcome.exit_code,
        signal: Some(outcome.signal).filter(|signal| *signal != 0),
        stdout_tail: tail(&outcome.stdout),
        stderr_tail: tail(&outcome.stderr),
        node: Some(outcome.node).filter(|node| !node.is_empty()),
        detail: match reason {
            Some(reason) if outcome.detail.is_empty() => reason.sentence().to_owned(),
            _ => outcome.detail,
        },
    }
}

/// Why a task is a dead letter, and how a person goes on with it.
pub fn dead_why(reason: Reason, detail: &str, job: JobId, task: u32) -> WhyView {
    let mut view = why(reason, detail);
    let requeue = format!("`weft dlq requeue {job}/{task}`");
    view.next = Some(match reason.class() {
        weft_types::Class::User => {
            format!(
                "see what it printed with `weft dlq show {job}/{task}`, mend that, then {requeue}"
            )
        }
        _ => format!("look at the nodes of its attempts with `weft node ls`, then {requeue}"),
    });
    view
}

/// A reason with its sentence, its class and the next step.
pub fn why(reason: Reason, detail: &str) -> WhyView {
    WhyView {
        reason,
        class: reason.class(),
        detail: if detail.is_empty() {
            reason.sentence().to_owned()
        } else {
            detail.to_owned()
        },
        next: next_step(reason).map(str::to_owned),
    }
}

/// One suggestion a reason, where there is one that helps.
fn next_step(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::InsufficientResources | Reason::NoCandidate => {
            "`weft explain ID` names the nearest change"
        }
        Reason::OomKilled => {
            "raise `resources.memory` (`weft run --memory`), for example to twice as much"
        }
        Reason::Timeout => {
            "give it more time with --timeout, or look at its output with `weft logs ID`"
        }
        Reason::NonzeroExit => "look at its output with `weft logs ID`",
        Reason::StorageError => {
            "raise `resources.disk` (`weft run --disk`), or free some on the node"
        }
        Reason::NodeLost => {
            "`weft node ls` shows the nodes; the task was moved as often as it may be"
        }
        Reason::RuntimeUnavailable => "`weft node show NODE` lists what is missing there",
        Reason::ArtifactMissing => "upload the artifact again: `weft run` does so by itself",
        Reason::Cancelled => "`weft job retry ID` runs it again",
        _ => return None,
    })
}

fn raw_json(bytes: &[u8]) -> Option<Box<serde_json::value::RawValue>> {
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| !text.is_empty())?;
    serde_json::value::RawValue::from_string(text.to_owned()).ok()
}

fn text(inline: &[u8], blob: &[u8], truncated: bool) -> Text {
    match BlobHash::from_slice(blob) {
        Ok(hash) => Text::Blob {
            hash: hash.to_string(),
            truncated,
        },
        Err(_) => Text::Inline {
            bytes: inline.to_vec(),
            truncated,
        },
    }
}

fn output_file(file: &v1::OutputFile) -> OutputFileView {
    OutputFileView {
        path: file.path.clone(),
        blob: BlobHash::from_slice(&file.blob)
            .map(|hash| hash.to_string())
            .unwrap_or_default(),
        size: file.size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_from_an_agent_is_not_passed_on_as_json() {
        let outcome = v1::TaskOutcome {
            result: "{not json".into(),
            ..Default::default()
        }
        .encode_to_vec();
        let view = result_view(0, TaskState::Completed, None, 1, None, &outcome);
        assert!(view.result.is_none());
        let view = result_view(0, TaskState::Completed, None, 1, None, &[0xff; 9]);
        assert!(view.result.is_none() && view.stdout.is_none());
    }

    #[test]
    fn a_program_that_printed_nothing_has_empty_output() {
        let outcome = v1::TaskOutcome {
            exit_code: Some(0),
            ..Default::default()
        }
        .encode_to_vec();
        let view = result_view(3, TaskState::Completed, None, 1, None, &outcome);
        assert_eq!(
            view.stdout,
            Some(Text::Inline {
                bytes: Vec::new(),
                truncated: false
            })
        );
    }
}

//! From what a runtime tells to what the server gets.

use bytes::Bytes;
use prost::Message;
use weft_proto::v1;
use weft_runtime::{Captured, OpOutcome, Outcome};
use weft_types::{Failure, Reason};

use crate::artifacts::Artifacts;
use crate::identity::now;

/// A result as it goes into a message: reason code, run time, encoded outcome.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) reason: u32,
    pub(crate) run_us: u64,
    pub(crate) outcome: Bytes,
}

fn report(reason: Option<Reason>, outcome: &v1::TaskOutcome) -> Report {
    Report {
        reason: reason.map_or(0, |reason| reason.code().into()),
        run_us: outcome.run_us,
        outcome: outcome.encode_to_vec().into(),
    }
}

/// The report of a byte program.
pub(crate) fn of_op(node: &str, started_ms: u64, done: OpOutcome) -> Report {
    let mut outcome = v1::TaskOutcome {
        run_us: done.run_us,
        // It computes all the time it runs.
        cpu_us: done.run_us,
        started_ms,
        finished_ms: started_ms + done.run_us / 1_000,
        node: node.to_owned(),
        ..v1::TaskOutcome::default()
    };
    match done.result {
        Ok(result) => {
            outcome.result = result;
            report(None, &outcome)
        }
        Err(failure) => failed(failure, outcome),
    }
}

/// The report of an attempt that did not get to run.
pub(crate) fn of_failure(node: &str, started_ms: u64, failure: Failure) -> Report {
    failed(
        failure,
        v1::TaskOutcome {
            node: node.to_owned(),
            started_ms,
            finished_ms: now().as_millis(),
            ..Default::default()
        },
    )
}

fn failed(failure: Failure, mut outcome: v1::TaskOutcome) -> Report {
    outcome.detail = failure.detail;
    report(Some(failure.reason), &outcome)
}

/// The report of a program, its large output and its files sent first.
pub(crate) async fn of_run(
    node: &str,
    started_ms: u64,
    done: Outcome,
    artifacts: &Artifacts,
) -> Report {
    let mut outcome = v1::TaskOutcome {
        result: done.result.clone().unwrap_or_default(),
        exit_code: done.exit_code,
        signal: done
            .signal
            .and_then(|signal| u32::try_from(signal).ok())
            .unwrap_or(0),
        peak_memory_bytes: done.used.peak_memory_bytes,
        cpu_us: done.used.cpu_us,
        run_us: done.used.run_us,
        started_ms,
        finished_ms: now().as_millis(),
        node: node.to_owned(),
        ..v1::TaskOutcome::default()
    };
    let mut failure = done.failure.clone();
    if let Err(lost) = send_all(&done, &mut outcome, artifacts).await {
        // What the task did cannot be shown: it has to run again, unless it failed anyway.
        failure.get_or_insert(lost);
    }
    match failure {
        None => {
            // A file that could not be taken along is not passed over in silence.
            outcome.detail = done.skipped_files.join("; ");
            report(None, &outcome)
        }
        Some(failure) => failed(failure, outcome),
    }
}

async fn send_all(
    done: &Outcome,
    outcome: &mut v1::TaskOutcome,
    artifacts: &Artifacts,
) -> Result<(), Failure> {
    (outcome.stdout, outcome.stdout_blob) = send_output(&done.stdout, artifacts).await?;
    (outcome.stderr, outcome.stderr_blob) = send_output(&done.stderr, artifacts).await?;
    outcome.stdout_truncated = done.stdout.truncated;
    outcome.stderr_truncated = done.stderr.truncated;
    for file in &done.files {
        let hash = artifacts.send(&file.disk_path).await?;
        outcome.files.push(v1::OutputFile {
            path: file.path.clone(),
            blob: Bytes::copy_from_slice(hash.as_bytes()),
            size: file.size_bytes,
            mode: file.mode,
        });
    }
    Ok(())
}

/// Output inline, or as the address of an artifact.
async fn send_output(output: &Captured, artifacts: &Artifacts) -> Result<(Bytes, Bytes), Failure> {
    match &output.file {
        None => Ok((output.inline.clone(), Bytes::new())),
        Some(path) => {
            let hash = artifacts.send(path).await?;
            Ok((Bytes::new(), Bytes::copy_from_slice(hash.as_bytes())))
        }
    }
}

//! Artifacts that nobody refers to any more are removed.
//!
//! An artifact is kept while a job that the server knows names it, as an input, a module, an output or
//! a file, and for as long as results are kept after it was last uploaded or asked for: whoever
//! uploads has that long to submit. Looking through the jobs is put off until something is old
//! enough to go.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use prost::Message;
use weft_proto::v1;
use weft_types::{BlobHash, JobId, Workload};

use crate::Error;
use crate::state::Server;

/// How often it is looked, at most and at least.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(600);
/// How many tasks are looked through before others may go on.
const STEP_TASKS: u32 = 1_024;

/// Removes what is not needed, until the server stops.
pub(crate) async fn collect(server: Arc<Server>, keep: Duration) {
    let pause = (keep / 4).clamp(MIN_PAUSE, MAX_PAUSE);
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = server.stopping.cancelled() => return,
        }
        if let Err(error) = collect_once(&server, keep).await {
            tracing::warn!(%error, "artifacts that nobody needs could not be removed");
        }
    }
}

async fn collect_once(server: &Server, keep: Duration) -> Result<(), Error> {
    let Some(since) = SystemTime::now().checked_sub(keep) else {
        return Ok(());
    };
    let mut idle: HashSet<BlobHash> = server.blobs.idle_since(since).await?.into_iter().collect();
    if idle.is_empty() {
        return Ok(());
    }
    let jobs = server
        .dispatcher
        .ask(|shell| shell.newest_jobs(JobId(u64::MAX), usize::MAX))
        .await?;
    for job in jobs {
        retain_unused(server, job, &mut idle).await?;
        if idle.is_empty() {
            return Ok(());
        }
    }
    for hash in &idle {
        if server.blobs.remove_idle(hash, since).await? {
            tracing::debug!(%hash, "an artifact that nobody needs was removed");
        }
    }
    Ok(())
}

/// Takes what a job refers to off the list.
async fn retain_unused(
    server: &Server,
    job: JobId,
    idle: &mut HashSet<BlobHash>,
) -> Result<(), Error> {
    let known = server.dispatcher.ask(move |shell| {
        let counts = shell.machine().counts(job)?;
        Some((counts.total, shell.spec(job)?))
    });
    let Some((total, spec)) = known.await? else {
        return Ok(());
    };
    if let Some(module) = module_of(spec) {
        idle.remove(&module);
    }
    let total = u32::try_from(total).unwrap_or(u32::MAX);
    let mut first = 0;
    while first < total {
        let count = STEP_TASKS.min(total - first);
        let payloads = server.log.payloads(job, first, count).await;
        for payload in payloads.unwrap_or_default() {
            input_of(payload).map(|hash| idle.remove(&hash));
        }
        for task in first..first + count {
            let Some(stored) = server.log.result(job, task).await else {
                continue;
            };
            for hash in left_behind(stored.outcome) {
                idle.remove(&hash);
            }
        }
        first += count;
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn hash(bytes: &[u8]) -> Option<BlobHash> {
    bytes.try_into().ok().map(BlobHash)
}

fn module_of(spec: Bytes) -> Option<BlobHash> {
    let spec = v1::JobSpec::decode(spec).ok()?;
    let workload: Option<Workload> = serde_json::from_slice(&spec.workload_json).ok();
    let named = workload.and_then(|workload| workload.wasm?.module?.parse().ok());
    hash(&spec.module).or(named)
}

fn input_of(payload: Bytes) -> Option<BlobHash> {
    match v1::TaskPayload::decode(payload).ok()?.input? {
        v1::task_payload::Input::Blob(bytes) => hash(&bytes),
        _ => None,
    }
}

fn left_behind(outcome: Bytes) -> Vec<BlobHash> {
    let Ok(outcome) = v1::TaskOutcome::decode(outcome) else {
        return Vec::new();
    };
    let files = outcome.files.iter().map(|file| &file.blob);
    [&outcome.stdout_blob, &outcome.stderr_blob]
        .into_iter()
        .chain(files)
        .filter_map(|bytes| hash(bytes))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_job_refers_to_is_found() {
        let blob = |byte: u8| Bytes::from(vec![byte; 32]);
        let spec = v1::JobSpec {
            module: blob(1),
            ..v1::JobSpec::default()
        };
        assert_eq!(
            module_of(spec.encode_to_vec().into()),
            Some(BlobHash([1; 32]))
        );
        let payload = v1::TaskPayload {
            input: Some(v1::task_payload::Input::Blob(blob(2))),
            ..v1::TaskPayload::default()
        };
        assert_eq!(
            input_of(payload.encode_to_vec().into()),
            Some(BlobHash([2; 32]))
        );
        let outcome = v1::TaskOutcome {
            stdout_blob: blob(3),
            files: vec![v1::OutputFile {
                blob: blob(4),
                ..v1::OutputFile::default()
            }],
            ..v1::TaskOutcome::default()
        };
        let left = left_behind(outcome.encode_to_vec().into());
        assert_eq!(left, [BlobHash([3; 32]), BlobHash([4; 32])]);
    }
}

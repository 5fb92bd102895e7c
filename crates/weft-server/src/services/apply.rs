//! Writing what somebody wants.
//!
//! Every write compares the revision that it read and begins again when it lost a race, so that
//! servers need no agreement. Applying the same twice writes nothing.

use serde_json::json;
use weft_api::{ApplyOutcome, ChangeView, Problem};
use weft_core::service::record::{RECORD_VERSION, WorkloadRecord};
use weft_store::Txn;
use weft_types::{FieldError, Reason, Run, Workload, WorkloadId};

use super::{diff, plan, ports, resolve, rights};
use crate::Error;
use crate::records::{put_json, unchanged};
use crate::rest::problem::ApiError;
use crate::state::Server;

/// The most services of a cluster.
const MAX_WORKLOADS: usize = 20_000;
/// The largest specification, in bytes of JSON: its assignments are kept with a decision each,
/// and a rollout beside it, within the limit of the store's values.
const MAX_SPEC_BYTES: usize = 512 << 10;
/// How often a write that lost a race begins again.
pub(super) const MAX_TRIES: usize = 32;
/// The version that specifications are kept in.
const API_VERSION: &str = "weft/v1";

/// What an apply does, or would do.
#[derive(Debug, Clone)]
pub struct Draft {
    /// What would be kept.
    pub record: WorkloadRecord,
    /// What becomes of it.
    pub outcome: ApplyOutcome,
    /// What differs.
    pub changes: Vec<ChangeView>,
    /// Whether units would be replaced one after the other.
    pub replaces_units: bool,
    /// The revision of the key it rests on.
    since: Option<u64>,
}

/// A checked specification of a service.
///
/// # Errors
/// The field that is refused, or the right that is missing.
pub fn checked(server: &Server, mut spec: Workload) -> Result<Workload, ApiError> {
    spec.check()?;
    if spec.run == Run::Job {
        let error = FieldError::new("run", "a job is not applied, it is submitted");
        return Err(Problem::invalid(error)
            .with_next("POST /v1/jobs takes it (`weft run`); a service has `run: service`")
            .into());
    }
    spec.api_version = Some(API_VERSION.to_owned());
    rights::check(server, &spec)?;
    let size = serde_json::to_vec(&spec).map_or(usize::MAX, |json| json.len());
    if size > MAX_SPEC_BYTES {
        let message = format!("{size} bytes as JSON, more than {MAX_SPEC_BYTES}");
        return Err(FieldError::new("", message).into());
    }
    Ok(spec)
}

/// A specification of a service at the door of jobs.
///
/// # Errors
/// Always when it is one.
pub fn only_job(spec: &Workload) -> Result<(), ApiError> {
    if spec.run == Run::Job {
        return Ok(());
    }
    let error = FieldError::new("run", "a service is not submitted, it is applied");
    Err(Problem::invalid(error)
        .with_next("POST /v1/workloads takes it (`weft apply -f FILE`)")
        .into())
}

/// What applying a checked specification would do now.
///
/// # Errors
/// When it may not be applied as things are.
pub async fn draft(
    server: &Server,
    spec: &Workload,
    if_match: Option<u64>,
) -> Result<Draft, ApiError> {
    let name = name_of(spec);
    let key = WorkloadRecord::key(&spec.namespace, name);
    let current = server.records.get::<WorkloadRecord>(&key).await?;
    let found = current.as_ref().map(|(record, _)| record.revision);
    if if_match.is_some() && if_match != found {
        return Err(conflict(name, found));
    }
    server
        .services
        .workloads
        .read(|tables| resolve::check(tables, spec))?;
    let now_ms = server.clock.wall().as_millis();
    let Some((old, since)) = current else {
        let count = server.services.workloads.read(|t| t.workloads().count());
        if count >= MAX_WORKLOADS {
            return Err(ApiError::too_many(
                format!("there are {count} services"),
                60,
            ));
        }
        return Ok(Draft {
            record: new_record(spec.clone(), now_ms)?,
            outcome: ApplyOutcome::Created,
            changes: Vec::new(),
            replaces_units: false,
            since: None,
        });
    };
    if old.deleting {
        return Err(being_deleted(name));
    }
    let replaces_units = diff::replaces_units(&old.spec, spec);
    let changes = diff::changes(&old.spec, spec);
    let outcome = if old.spec == *spec {
        ApplyOutcome::Unchanged
    } else {
        ApplyOutcome::Changed
    };
    let keeps_scale = old.spec.replicas == spec.replicas;
    let record = WorkloadRecord {
        revision: old.revision + u64::from(replaces_units),
        scale: old.scale.filter(|_| keeps_scale),
        spec: spec.clone(),
        changed_ms: now_ms,
        ..old
    };
    Ok(Draft {
        record,
        outcome,
        changes,
        replaces_units,
        since: Some(since),
    })
}

/// Applies a checked specification.
///
/// # Errors
/// When it may not be applied as things are, or the store cannot be written.
pub async fn apply(
    server: &Server,
    spec: Workload,
    if_match: Option<u64>,
) -> Result<Draft, ApiError> {
    for _ in 0..MAX_TRIES {
        let ports = ports::reserve(server, &spec).await?;
        let draft = draft(server, &spec, if_match).await?;
        if draft.outcome == ApplyOutcome::Unchanged {
            return Ok(draft);
        }
        plan::check_budget(server, &draft)?;
        let key = WorkloadRecord::key(&spec.namespace, name_of(&spec));
        let mut txn = Txn::new()
            .when(unchanged(&key, draft.since))
            .then(put_json(&key, &draft.record)?);
        if let Some(since) = ports {
            txn = txn
                .when(unchanged(ports::KEY, since))
                .then(put_json(ports::KEY, &draft.record.id)?);
        }
        if written(server, txn).await? {
            let data = json!({
                "name": name_of(&spec), "namespace": spec.namespace,
                "outcome": draft.outcome, "revision": draft.record.revision,
            });
            tell(server, "service.applied", &draft.record, data);
            return Ok(draft);
        }
    }
    Err(contended())
}

/// Writes, and waits until the server's own reading has it, so that the answer shows it.
pub(super) async fn written(server: &Server, txn: Txn) -> Result<bool, Error> {
    let outcome = server.records.txn(txn).await?;
    server.services.workloads.reached(outcome.revision).await;
    Ok(outcome.succeeded)
}

pub(super) fn tell(server: &Server, kind: &str, record: &WorkloadRecord, data: serde_json::Value) {
    let now = server.clock.wall();
    server.events.emit(now, kind, &record.id.to_string(), data);
}

fn new_record(spec: Workload, now_ms: u64) -> Result<WorkloadRecord, Error> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| Error::Corrupt {
        what: "random numbers".to_owned(),
        detail: error.to_string(),
    })?;
    Ok(WorkloadRecord {
        v: RECORD_VERSION,
        id: WorkloadId(u64::from_le_bytes(random)),
        revision: 1,
        spec,
        scale: None,
        stopped: false,
        deleting: false,
        restarts: 0,
        created_ms: now_ms,
        changed_ms: now_ms,
    })
}

/// The name of a checked service; it has one.
pub fn name_of(spec: &Workload) -> &str {
    spec.name.as_ref().map_or("", |name| name.as_str())
}

/// A service that is not there.
pub fn unknown(id: &str) -> Error {
    Error::NotFound {
        what: "workload",
        id: id.to_owned(),
    }
}

pub(super) fn conflict(name: &str, revision: Option<u64>) -> ApiError {
    let detail = match revision {
        Some(revision) => format!("{name:?} has revision {revision} by now"),
        None => format!("there is no service {name:?} any more"),
    };
    let mut problem = Problem::new(409, "conflict", Reason::InvalidSpec, detail)
        .with_next("read it again, and send the change with the revision it has now");
    problem.revision = revision;
    problem.into()
}

pub(super) fn being_deleted(name: &str) -> ApiError {
    Problem::new(
        409,
        "being-deleted",
        Reason::InvalidSpec,
        format!("{name:?} is being deleted"),
    )
    .with_next("wait until it is gone, with `DELETE …?wait=30s`, and apply it again")
    .into()
}

pub(super) fn contended() -> ApiError {
    ApiError::too_many("others change the same services all the time", 1)
}

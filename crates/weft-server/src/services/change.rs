//! Changes from day to day, and deletion.

use serde_json::json;
use weft_api::WorkloadPatch;
use weft_core::service::record::WorkloadRecord;
use weft_store::Txn;
use weft_types::{FieldError, MAX_REPLICAS, Workload};

use super::apply::{
    MAX_TRIES, being_deleted, conflict, contended, name_of, tell, unknown, written,
};
use crate::records::{put_json, unchanged};
use crate::rest::problem::ApiError;
use crate::state::Server;

/// Scales, stops, starts again or restarts a service.
///
/// # Errors
/// The field that is refused, a conflict, or when the store cannot be written.
pub async fn patch(
    server: &Server,
    key: &str,
    patch: &WorkloadPatch,
    if_match: Option<u64>,
) -> Result<WorkloadRecord, ApiError> {
    if *patch == WorkloadPatch::default() {
        let message = "nothing to change; give `scale`, `unscale`, `stopped` or `restart`";
        return Err(FieldError::new("", message).into());
    }
    if patch.unscale && patch.scale.is_some() {
        return Err(FieldError::new("unscale", "not together with `scale`").into());
    }
    change(server, key, if_match, |record| {
        if record.deleting {
            return Err(being_deleted(name_of(&record.spec)));
        }
        if let Some(scale) = patch.scale {
            check_scale(&record.spec, scale)?;
            record.scale = Some(scale);
        }
        if patch.unscale {
            record.scale = None;
        }
        record.stopped = patch.stopped.unwrap_or(record.stopped);
        record.restarts += u64::from(patch.restart);
        Ok(())
    })
    .await
}

fn check_scale(spec: &Workload, scale: u32) -> Result<(), FieldError> {
    let replicas = spec.replicas.unwrap_or_default();
    let max = if spec.exclusive {
        1
    } else {
        replicas.max.min(MAX_REPLICAS)
    };
    if (replicas.min..=max).contains(&scale) {
        return Ok(());
    }
    let message = format!(
        "{scale} is not between `replicas.min` {} and `replicas.max` {max}; apply other bounds first",
        replicas.min
    );
    Err(FieldError::new("scale", message))
}

/// Has everything of a service removed; its key goes when nothing of it is left.
///
/// # Errors
/// A conflict, or when the store cannot be written.
pub async fn delete(
    server: &Server,
    key: &str,
    if_match: Option<u64>,
) -> Result<WorkloadRecord, ApiError> {
    change(server, key, if_match, |record| {
        record.deleting = true;
        Ok(())
    })
    .await
}

/// Changes a record that is there; one that is as it should be already is not written.
pub async fn change(
    server: &Server,
    key: &str,
    if_match: Option<u64>,
    change: impl Fn(&mut WorkloadRecord) -> Result<(), ApiError>,
) -> Result<WorkloadRecord, ApiError> {
    for _ in 0..MAX_TRIES {
        let Some((old, since)) = server.records.get::<WorkloadRecord>(key).await? else {
            return Err(unknown(key.rsplit('/').next().unwrap_or(key)).into());
        };
        if if_match.is_some_and(|wanted| wanted != old.revision) {
            return Err(conflict(name_of(&old.spec), Some(old.revision)));
        }
        let mut record = old.clone();
        change(&mut record)?;
        if record == old {
            return Ok(record);
        }
        record.changed_ms = server.clock.wall().as_millis();
        let txn = Txn::new()
            .when(unchanged(key, Some(since)))
            .then(put_json(key, &record)?);
        if written(server, txn).await? {
            let data = json!({
                "name": name_of(&record.spec), "namespace": record.spec.namespace,
                "scale": record.scale, "stopped": record.stopped,
                "deleting": record.deleting, "restarts": record.restarts,
            });
            tell(server, "service.changed", &record, data);
            return Ok(record);
        }
    }
    Err(contended())
}

//! What a job waits for and until when it must have ended, as its client wrote it and as the
//! journal keeps it.

use weft_types::{Deadline, FieldError, JobId, Workload};

use super::problem::ApiError;
use crate::state::Server;

/// Replaces names and prefixes of jobs by ids, and the span of a deadline by a point in time: both
/// then mean the same after a restart.
///
/// # Errors
/// The field, for a job that is not known or a deadline that has passed.
pub(super) async fn settle(server: &Server, workload: &mut Workload) -> Result<(), ApiError> {
    if let Some(deadline) = workload.deadline {
        let now = server.clock.wall();
        let time = deadline.at(now);
        if time <= now {
            return Err(FieldError::new("deadline", format!("{deadline} has passed")).into());
        }
        workload.deadline = Some(Deadline::At(time));
    }
    if workload.after.is_empty() {
        return Ok(());
    }
    let (namespace, wanted) = (workload.namespace.clone(), workload.after.clone());
    let found = server
        .dispatcher
        .ask(move |shell| shell.find_jobs(&namespace, &wanted))
        .await?;
    let mut ids = Vec::with_capacity(found.len());
    for (index, found) in found.into_iter().enumerate() {
        let id = found.map_err(|message| FieldError::new(format!("after[{index}]"), message))?;
        ids.push(id.to_string());
    }
    workload.after = ids;
    Ok(())
}

/// The jobs that a settled workload waits for.
pub(super) fn jobs(workload: &Workload) -> Vec<JobId> {
    let ids = workload.after.iter().filter_map(|id| id.parse().ok());
    ids.collect()
}

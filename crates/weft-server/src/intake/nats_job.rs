//! The job that a producer publishes to NATS: the body of `POST /v1/jobs`.

use weft_intake::Delivery;
use weft_types::{Deadline, FieldError, Timestamp, Workload, parse_json};

use super::codec::{Incoming, Refusal};
use crate::dispatch::NewJob;
use crate::rest::whole_job;

/// Reads and checks a job.
pub(super) fn read(delivery: &Delivery, now: Timestamp) -> Result<Incoming, Refusal> {
    let id = delivery.key.clone().unwrap_or_default();
    let job =
        job(delivery, &id, now).map_err(|error| Refusal::invalid(delivery.key.clone(), error))?;
    Ok(Incoming { id, job })
}

fn job(delivery: &Delivery, id: &str, now: Timestamp) -> Result<NewJob, FieldError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=128).contains(&id.len()) || !id.bytes().all(plain) {
        // It becomes a word of the subject that carries the result.
        let detail = "not 1 to 128 letters, digits, `-` and `_`";
        return Err(FieldError::new("Nats-Msg-Id", detail));
    }
    let workload: Workload = parse_json(&delivery.body)?;
    workload.check()?;
    if !workload.after.is_empty() {
        let detail = "ids of jobs belong to one server, and any may take this job";
        return Err(FieldError::new("after", detail));
    }
    if matches!(workload.deadline, Some(Deadline::In(_))) {
        let detail = "write a time: the job may be delivered more than once";
        return Err(FieldError::new("deadline", detail));
    }
    whole_job(workload, Some(format!("nats:{id}")), now)
}

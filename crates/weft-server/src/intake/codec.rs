//! What the jobs of a queue look like, and how their results are told.

use weft_intake::Delivery;
use weft_types::{FieldError, Reason, Timestamp};

use super::{nats_job, redis_job};
use crate::dispatch::NewJob;

/// Which queue's words are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// The job and result of the contract's section "Dispatch over Redis".
    Redis,
    /// The body of `POST /v1/jobs`, and lines of the results stream.
    Nats,
}

/// A job that may be run.
pub(super) struct Incoming {
    /// The name under which its result is asked for.
    pub(super) id: String,
    /// Checked and encoded, with its idempotency key.
    pub(super) job: NewJob,
}

/// Why a job may not be run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Its id, as far as it could be read.
    pub(super) id: Option<String>,
    pub(super) reason: Reason,
    pub(super) detail: String,
}

impl Refusal {
    pub(super) fn invalid(id: Option<String>, error: FieldError) -> Self {
        Self {
            id,
            reason: Reason::InvalidSpec,
            detail: error.to_string(),
        }
    }
}

impl Codec {
    /// The queue's name in logs and metrics.
    pub(super) fn queue(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Nats => "nats",
        }
    }

    /// Reads and checks a job.
    pub(super) fn read(self, delivery: &Delivery, now: Timestamp) -> Result<Incoming, Refusal> {
        let read = match self {
            Self::Redis => redis_job::read(&delivery.body, now),
            Self::Nats => nats_job::read(delivery, now),
        };
        if delivery.is_whole() {
            return read;
        }
        let id = match read {
            Ok(incoming) => Some(incoming.id),
            Err(refusal) => refusal.id,
        };
        let limit = weft_intake::MAX_JOB_BYTES;
        Err(Refusal {
            id,
            reason: Reason::InvalidSpec,
            detail: format!(
                "the job has {} bytes, more than {limit}; upload its input as an artifact and use `blob`",
                delivery.size
            ),
        })
    }
}

//! Work that others push into a queue they already run: Redis and NATS JetStream.
//!
//! A [`door::Door`] takes jobs, has them checked by its [`codec::Codec`], submits them with the
//! job's id as idempotency key, waits for their end, and ends the delivery with the result. It
//! holds no state that matters: what it had taken when it was killed is delivered again, and the
//! key leads to the job that may have run meanwhile.

mod answer;
mod backoff;
mod codec;
mod cost;
mod door;
mod metrics;
mod nats_job;
mod redis_job;
mod working;

use std::sync::Arc;

use tokio::task::JoinHandle;
use weft_intake::{Limits, WorkQueue};

pub use metrics::IntakeMetrics;

use crate::state::Server;
use crate::{Config, Error};
use codec::Codec;
use door::Door;

/// Opens the doors that are configured.
///
/// # Errors
/// A setting that cannot be used. An engine that cannot be reached is waited for.
pub fn open(config: &Config, server: &Arc<Server>) -> Result<Vec<JoinHandle<()>>, Error> {
    let mut doors = Vec::new();
    if let Some(settings) = &config.redis {
        let queue = redis(settings, server.id.as_str())?;
        doors.push(start(server, queue, Codec::Redis, settings.limits()));
    }
    if let Some(settings) = &config.nats {
        let queue = nats(settings)?;
        doors.push(start(server, queue, Codec::Nats, settings.limits()));
    }
    Ok(doors)
}

fn start(
    server: &Arc<Server>,
    queue: Arc<dyn WorkQueue>,
    codec: Codec,
    limits: Limits,
) -> JoinHandle<()> {
    let door = Arc::new(Door::new(Arc::clone(server), queue, codec, limits));
    tokio::spawn(door.run())
}

#[cfg(feature = "redis")]
fn redis(
    settings: &weft_intake::RedisSettings,
    consumer: &str,
) -> Result<Arc<dyn WorkQueue>, Error> {
    let queue = weft_intake::redis::RedisQueue::new(settings.clone(), consumer)?;
    Ok(Arc::new(queue))
}

#[cfg(not(feature = "redis"))]
fn redis(_: &weft_intake::RedisSettings, _: &str) -> Result<Arc<dyn WorkQueue>, Error> {
    Err(not_built("queue.redis"))
}

#[cfg(feature = "nats")]
fn nats(settings: &weft_intake::NatsSettings) -> Result<Arc<dyn WorkQueue>, Error> {
    let queue = weft_intake::nats::NatsQueue::new(settings.clone())?;
    Ok(Arc::new(queue))
}

#[cfg(not(feature = "nats"))]
fn nats(_: &weft_intake::NatsSettings) -> Result<Arc<dyn WorkQueue>, Error> {
    Err(not_built("queue.nats"))
}

#[cfg(not(all(feature = "redis", feature = "nats")))]
fn not_built(field: &'static str) -> Error {
    Error::Intake(weft_intake::Error::Setting {
        field,
        detail: "this weft was built without it; build it with the default features".to_owned(),
    })
}

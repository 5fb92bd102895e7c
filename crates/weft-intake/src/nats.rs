//! The queue in NATS JetStream, which several servers share.
//!
//! | stream | subject | holds |
//! | --- | --- | --- |
//! | `<stream>` | `<subject>` | jobs; a work queue: what is ended is removed |
//! | `<stream>_RESULTS` | `<subject>.results.<id>`, `….<id>.<part>` | results, for a day |
//! | `<stream>_DEAD` | `<subject>.dead` | dead letters |
//!
//! All servers pull from one durable consumer. A result is published under the condition that its
//! subject has none, and the job is removed once JetStream has confirmed it: so of several servers
//! that had the job one after the other, the first to end it is the one that counts.
//!
//! Nothing here needs a NATS newer than 2.9.

mod connection;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::{Acker, PublishMessage};
use async_nats::jetstream::{AckKind, Message};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::timeout;

use crate::{
    Acked, DeadLetter, Delivery, Depth, Done, Error, MAX_JOB_BYTES, MAX_TAKEN_BYTES, NatsSettings,
    PREFIX_BYTES, Receipt, WorkQueue,
};
use connection::{Connected, Connection, refused, unreachable};

/// How long an answer of the server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// What a message may have beside its payload, in bytes.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Header of a result: which message of the stream it answers.
const SEQUENCE: &str = "Weft-Sequence";
/// Header of a result: the FNV-1a hash of the job it answers.
const JOB_HASH: &str = "Weft-Job-Hash";

/// The queue in JetStream, as one server sees it.
pub struct NatsQueue {
    settings: NatsSettings,
    connection: Connection,
    held: Mutex<HashMap<u64, Held>>,
}

/// A job that was delivered and not ended.
struct Held {
    acker: std::sync::Arc<Acker>,
    hash: u64,
}

impl NatsQueue {
    /// A consumer; it connects when it is used.
    ///
    /// # Errors
    /// A setting that cannot be used.
    pub fn new(settings: NatsSettings) -> Result<Self, Error> {
        settings.check()?;
        Ok(Self {
            connection: Connection::new(settings.clone()),
            settings,
            held: Mutex::default(),
        })
    }

    fn result_subject(&self, id: &str) -> String {
        format!("{}.results.{id}", self.settings.subject)
    }

    async fn pull(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, Error> {
        let connected = self.connection.get().await?;
        let found = self.fetch(&connected, max, Duration::ZERO).await?;
        if !found.is_empty() || wait.is_zero() {
            return Ok(found);
        }
        self.fetch(&connected, 1, wait).await
    }

    async fn fetch(
        &self,
        connected: &Connected,
        max: usize,
        wait: Duration,
    ) -> Result<Vec<Delivery>, Error> {
        let max_bytes = MAX_TAKEN_BYTES.max(connected.max_payload() + MAX_HEADER_BYTES);
        let consumer = &connected.consumer;
        let mut found = Vec::new();
        let collect = async {
            let batch = if wait.is_zero() {
                let fetch = consumer.fetch().max_messages(max).max_bytes(max_bytes);
                fetch.messages().await
            } else {
                let batch = consumer.batch().max_messages(max).max_bytes(max_bytes);
                batch.expires(wait).messages().await
            };
            let mut batch = batch.map_err(unreachable)?;
            while let Some(message) = batch.next().await {
                match message {
                    Ok(message) => found.extend(self.delivery(message)),
                    // The rest of the batch comes with the next one.
                    Err(error) if !found.is_empty() => {
                        tracing::debug!(%error, "a batch of NATS ended early");
                        break;
                    }
                    Err(error) => return Err(unreachable(error)),
                }
            }
            Ok(())
        };
        match timeout(wait + ANSWER_TIMEOUT, collect).await {
            Ok(collected) => collected.map(|()| found),
            Err(_) => Err(unreachable("no answer in time")),
        }
    }

    /// `None` for a job that this server works on already: its hold ended and it was sent again.
    fn delivery(&self, message: Message) -> Option<Delivery> {
        let info = message.info().ok()?;
        let sequence = info.stream_sequence;
        let deliveries = u32::try_from(info.delivered.max(1)).unwrap_or(u32::MAX);
        let published_ms = info.published.unix_timestamp_nanos() / 1_000_000;
        let (message, acker) = message.split();
        let held = Held {
            acker: std::sync::Arc::new(acker),
            hash: fnv64(&message.payload),
        };
        if self.held.lock().insert(sequence, held).is_some() {
            return None;
        }
        let given = |name: &str| {
            let headers = message.headers.as_ref()?;
            headers.get(name).map(|value| value.as_str().to_owned())
        };
        let size = message.payload.len();
        let body = if size > MAX_JOB_BYTES {
            message.payload.slice(..PREFIX_BYTES)
        } else {
            message.payload.clone()
        };
        Some(Delivery {
            receipt: Receipt {
                sequence,
                deliveries,
            },
            body,
            size,
            // The time, because a stream that is made anew counts from 1 again.
            key: given("Nats-Msg-Id").or(Some(format!("{sequence}-{published_ms}"))),
        })
    }

    fn held(&self, receipt: &Receipt) -> Option<(std::sync::Arc<Acker>, u64)> {
        let held = self.held.lock();
        held.get(&receipt.sequence)
            .map(|held| (std::sync::Arc::clone(&held.acker), held.hash))
    }

    /// Publishes what nothing was published under; `false` when something was.
    async fn publish_first(
        &self,
        connected: &Connected,
        subject: &str,
        message: PublishMessage,
    ) -> Result<bool, Error> {
        let message = message.expected_last_subject_sequence(0);
        match connected.publish(subject, message).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Ok(false),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(refused(error))
            }
            Err(error) => Err(unreachable(error)),
        }
    }

    /// Removes the job from the stream; nothing is left to do when this server has it no more.
    async fn remove(&self, receipt: &Receipt, acker: &Acker) -> Result<(), Error> {
        timeout(ANSWER_TIMEOUT, acker.double_ack())
            .await
            .map_err(|_| unreachable("no answer in time"))?
            .map_err(unreachable)?;
        self.held.lock().remove(&receipt.sequence);
        Ok(())
    }

    /// Whether the result that is there answers this job, or one that is the same.
    async fn answers(
        &self,
        connected: &Connected,
        subject: &str,
        sequence: u64,
        hash: u64,
    ) -> Result<bool, Error> {
        let Some(headers) = connected.last_headers(subject).await? else {
            return Ok(true);
        };
        let header = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
        Ok(header(SEQUENCE) == Some(sequence.to_string())
            || header(JOB_HASH) == Some(format!("{hash:016x}")))
    }
}

#[async_trait::async_trait]
impl WorkQueue for NatsQueue {
    fn lease(&self) -> Duration {
        self.settings.lease
    }

    async fn take(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, Error> {
        let taken = self.pull(max, wait).await;
        if taken.is_err() {
            // Streams and consumer may be gone: they are looked for again.
            self.connection.forget().await;
        }
        taken
    }

    async fn part(&self, result: &str, number: u32, body: Bytes) -> Result<(), Error> {
        let connected = self.connection.get().await?;
        let subject = self.result_subject(&format!("{result}.{number}"));
        let message = PublishMessage::build().payload(body);
        self.publish_first(&connected, &subject, message)
            .await
            .map(drop)
    }

    async fn ack(&self, receipt: &Receipt, done: &Done) -> Result<Acked, Error> {
        let Some((acker, hash)) = self.held(receipt) else {
            return Ok(Acked::Stale);
        };
        let connected = self.connection.get().await?;
        let subject = self.result_subject(&done.result);
        let message = PublishMessage::build()
            .payload(done.body.clone())
            .header(SEQUENCE, receipt.sequence.to_string().as_str())
            .header(JOB_HASH, format!("{hash:016x}").as_str());
        let first = self.publish_first(&connected, &subject, message).await?;
        if !first
            && !self
                .answers(&connected, &subject, receipt.sequence, hash)
                .await?
        {
            return Ok(Acked::NameTaken);
        }
        self.remove(receipt, &acker).await?;
        Ok(if first { Acked::Done } else { Acked::Stale })
    }

    async fn reject(&self, receipt: &Receipt, letter: &DeadLetter) -> Result<Acked, Error> {
        let Some((acker, _)) = self.held(receipt) else {
            return Ok(Acked::Stale);
        };
        let connected = self.connection.get().await?;
        let id = format!("{}-{}", self.settings.stream, receipt.sequence);
        let message = PublishMessage::build()
            .payload(letter.to_json())
            .message_id(id);
        let subject = format!("{}.dead", self.settings.subject);
        let published = connected.publish(&subject, message).await;
        published.map_err(unreachable)?;
        self.remove(receipt, &acker).await?;
        Ok(Acked::Done)
    }

    async fn renew(&self) -> Result<(), Error> {
        let ackers: Vec<_> = self
            .held
            .lock()
            .values()
            .map(|held| std::sync::Arc::clone(&held.acker))
            .collect();
        for acker in ackers {
            let progress = acker.ack_with(AckKind::Progress).await;
            progress.map_err(unreachable)?;
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), Error> {
        let held: Vec<Held> = self.held.lock().drain().map(|(_, held)| held).collect();
        if held.is_empty() {
            return Ok(());
        }
        for Held { acker, .. } in held {
            let given = acker.ack_with(AckKind::Nak(None)).await;
            given.map_err(unreachable)?;
        }
        self.connection.flush().await
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let connected = self.connection.get().await?;
        Ok(Depth {
            waiting: connected.waiting().await?,
            held: self.held.lock().len() as u64,
        })
    }
}

/// FNV-1a, 64 bits: the same in every version, and nobody gains by a collision but who pushed both.
fn fnv64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

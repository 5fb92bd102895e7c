//! The queue in Redis, with the keys of the contract.
//!
//! | key | holds |
//! | --- | --- |
//! | `<p>:jobs:queue` | list of jobs; producers `LPUSH`, consumers take from the right |
//! | `<p>:jobs:processing:<consumer>` | hash of what a consumer holds |
//! | `<p>:jobs:sequence` | counter of jobs that were taken |
//! | `<p>:jobs:dead` | list of dead letters, the newest first |
//! | `<p>:results:<id>` | a result, for a day |
//! | `<p>:metrics` | list of lines about executions, the newest last |
//! | `<p>:consumers` | set of consumers that hold or held something |
//! | `<p>:consumers:<consumer>` | heartbeat of a consumer, ends with its lease |
//!
//! There is no blocking command: `BLMOVE` would bring a job of any size into this process before
//! it could be refused. An idle consumer looks again after [`MAX_PAUSE`] at the latest.

mod connection;
mod scripts;

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use redis::Value;
use tokio::time::Instant;

use crate::{
    Acked, DeadLetter, Delivery, Depth, Done, Error, MAX_DEAD_LETTERS, MAX_JOB_BYTES,
    MAX_TAKEN_BYTES, PREFIX_BYTES, RESULT_TTL, Receipt, RedisSettings, WorkQueue,
};
use connection::Connection;
use scripts::Scripts;

/// How soon an idle consumer looks again, at first and at the latest.
const MIN_PAUSE: Duration = Duration::from_millis(2);
const MAX_PAUSE: Duration = Duration::from_millis(50);
/// The most lines about executions that are kept.
const MAX_MEASURES: usize = 10_000;

/// The queue in Redis, as one consumer sees it.
pub struct RedisQueue {
    settings: RedisSettings,
    consumer: String,
    connection: Connection,
    scripts: Scripts,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Fields of the own hash that were delivered and not ended.
    held: HashSet<String>,
    /// When dead consumers and the own hash were looked at last; never since the connection broke.
    looked: Option<Instant>,
    /// Dead consumers that may have more.
    dead: VecDeque<String>,
}

impl RedisQueue {
    /// A consumer; it connects when it is used. A consumer that comes back under the same name
    /// gets at once what it held.
    ///
    /// # Errors
    /// A setting that cannot be used.
    pub fn new(settings: RedisSettings, consumer: &str) -> Result<Self, Error> {
        settings.check()?;
        Ok(Self {
            connection: Connection::new(&settings.url)?,
            consumer: consumer.to_owned(),
            scripts: Scripts::new(),
            state: Mutex::default(),
            settings,
        })
    }

    fn key(&self, rest: &str) -> String {
        format!("{}:{rest}", self.settings.prefix)
    }

    fn processing(&self, consumer: &str) -> String {
        self.key(&format!("jobs:processing:{consumer}"))
    }

    fn heartbeat(&self, consumer: &str) -> String {
        self.key(&format!("consumers:{consumer}"))
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.settings.lease.as_millis()).unwrap_or(u64::MAX)
    }

    async fn look(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let mut found = Vec::new();
        let due = self.settings.lease / 3;
        let looked = self.state.lock().looked;
        if looked.is_none_or(|looked| looked.elapsed() >= due) {
            found = self.reclaim_own(max).await?;
            let dead = self.others().await?;
            let mut state = self.state.lock();
            state.dead = dead;
            // What did not fit is looked for again at once.
            state.looked = (found.len() < max).then(Instant::now);
        }
        while found.len() < max {
            let Some(other) = self.state.lock().dead.front().cloned() else {
                break;
            };
            let taken = self.reclaim(&other, max - found.len(), &[]).await?;
            if taken.is_empty() {
                self.state.lock().dead.pop_front();
            }
            found.extend(taken);
        }
        if found.is_empty() {
            found = self.take_new(max).await?;
        }
        Ok(found)
    }

    /// What is in the own hash and nobody works on: of a former life, or because the answer that
    /// brought it was lost.
    async fn reclaim_own(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let mut command = redis::cmd("HKEYS");
        command.arg(self.processing(&self.consumer));
        let fields: Vec<String> = self.connection.query(&command).await?;
        let mut lost: Vec<String> = {
            let state = self.state.lock();
            let lost = fields
                .into_iter()
                .filter(|field| !state.held.contains(field));
            lost.collect()
        };
        lost.sort_by_key(|field| receipt(field).map_or(0, |receipt| receipt.sequence));
        lost.truncate(max);
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        self.reclaim(&self.consumer, max, &lost).await
    }

    async fn others(&self) -> Result<VecDeque<String>, Error> {
        let mut command = redis::cmd("SMEMBERS");
        command.arg(self.key("consumers"));
        let all: Vec<String> = self.connection.query(&command).await?;
        Ok(all.into_iter().filter(|id| *id != self.consumer).collect())
    }

    async fn reclaim(
        &self,
        from: &str,
        max: usize,
        fields: &[String],
    ) -> Result<Vec<Delivery>, Error> {
        let mut call = self.scripts.reclaim.prepare_invoke();
        call.key(self.processing(from))
            .key(self.heartbeat(from))
            .key(self.processing(&self.consumer))
            .key(self.key("consumers"))
            .arg(from)
            .arg(max)
            .arg(MAX_TAKEN_BYTES)
            .arg(MAX_JOB_BYTES)
            .arg(PREFIX_BYTES)
            .arg(fields);
        let rows = self.connection.invoke(&call).await?;
        Ok(self.deliveries(rows))
    }

    async fn take_new(&self, max: usize) -> Result<Vec<Delivery>, Error> {
        let mut call = self.scripts.take.prepare_invoke();
        call.key(self.key("jobs:queue"))
            .key(self.processing(&self.consumer))
            .key(self.key("jobs:sequence"))
            .key(self.key("consumers"))
            .key(self.heartbeat(&self.consumer))
            .arg(&self.consumer)
            .arg(self.lease_ms())
            .arg(max)
            .arg(MAX_TAKEN_BYTES)
            .arg(MAX_JOB_BYTES)
            .arg(PREFIX_BYTES);
        let rows = self.connection.invoke(&call).await?;
        Ok(self.deliveries(rows))
    }

    /// Reads field, size, body; and again. `None` is the answer about an owner that lives.
    fn deliveries(&self, rows: Option<Vec<Value>>) -> Vec<Delivery> {
        let rows = rows.unwrap_or_default();
        let mut state = self.state.lock();
        let mut found = Vec::with_capacity(rows.len() / 3);
        let mut rows = rows.into_iter();
        while let (Some(field), Some(size), Some(body)) = (rows.next(), rows.next(), rows.next()) {
            let (Value::BulkString(field), Value::Int(size), Value::BulkString(body)) =
                (field, size, body)
            else {
                continue;
            };
            let field = String::from_utf8_lossy(&field).into_owned();
            // A field that is not ours to read stays where it is.
            let Some(receipt) = receipt(&field) else {
                continue;
            };
            state.held.insert(field);
            found.push(Delivery {
                receipt,
                body: Bytes::from(body),
                size: usize::try_from(size).unwrap_or(usize::MAX),
                key: None,
            });
        }
        found
    }

    fn ended(&self, field: &str, ended: i64) -> Acked {
        self.state.lock().held.remove(field);
        if ended == 1 {
            Acked::Done
        } else {
            Acked::Stale
        }
    }
}

fn receipt(field: &str) -> Option<Receipt> {
    let (sequence, deliveries) = field.split_once(':')?;
    Some(Receipt {
        sequence: sequence.parse().ok()?,
        deliveries: deliveries.parse().ok()?,
    })
}

fn field(receipt: &Receipt) -> String {
    format!("{}:{}", receipt.sequence, receipt.deliveries)
}

#[async_trait::async_trait]
impl WorkQueue for RedisQueue {
    fn lease(&self) -> Duration {
        self.settings.lease
    }

    async fn take(&self, max: usize, wait: Duration) -> Result<Vec<Delivery>, Error> {
        let deadline = Instant::now() + wait;
        let mut pause = MIN_PAUSE;
        loop {
            let found = self.look(max).await;
            match found {
                Ok(found) if found.is_empty() && Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
                Ok(found) => return Ok(found),
                Err(error) => {
                    // The answer may have been lost after Redis had done what was asked.
                    self.state.lock().looked = None;
                    return Err(error);
                }
            }
        }
    }

    async fn part(&self, result: &str, number: u32, body: Bytes) -> Result<(), Error> {
        let mut command = redis::cmd("SET");
        command
            .arg(self.key(&format!("results:{result}:{number}")))
            .arg(&body[..])
            .arg("NX")
            .arg("EX")
            .arg(RESULT_TTL.as_secs());
        self.connection.query::<Value>(&command).await.map(drop)
    }

    async fn ack(&self, receipt: &Receipt, done: &Done) -> Result<Acked, Error> {
        let field = field(receipt);
        let mut call = self.scripts.ack.prepare_invoke();
        call.key(self.processing(&self.consumer))
            .key(self.key(&format!("results:{}", done.result)))
            .key(self.key("metrics"))
            .arg(&field)
            .arg(&done.body[..])
            .arg(RESULT_TTL.as_secs())
            .arg(done.measure.as_deref().unwrap_or_default())
            .arg(MAX_MEASURES);
        let ended = self.connection.invoke(&call).await?;
        Ok(self.ended(&field, ended))
    }

    async fn reject(&self, receipt: &Receipt, letter: &DeadLetter) -> Result<Acked, Error> {
        let field = field(receipt);
        let mut call = self.scripts.reject.prepare_invoke();
        call.key(self.processing(&self.consumer))
            .key(self.key("jobs:dead"))
            .arg(&field)
            .arg(&letter.to_json()[..])
            .arg(MAX_DEAD_LETTERS);
        let ended = self.connection.invoke(&call).await?;
        Ok(self.ended(&field, ended))
    }

    async fn renew(&self) -> Result<(), Error> {
        let mut command = redis::cmd("SET");
        command
            .arg(self.heartbeat(&self.consumer))
            .arg("1")
            .arg("PX")
            .arg(self.lease_ms());
        self.connection.query::<Value>(&command).await.map(drop)
    }

    async fn close(&self) -> Result<(), Error> {
        let mut command = redis::cmd("DEL");
        command.arg(self.heartbeat(&self.consumer));
        self.connection.query::<Value>(&command).await.map(drop)
    }

    async fn depth(&self) -> Result<Depth, Error> {
        let mut waiting = redis::cmd("LLEN");
        waiting.arg(self.key("jobs:queue"));
        let mut held = redis::cmd("HLEN");
        held.arg(self.processing(&self.consumer));
        Ok(Depth {
            waiting: self.connection.query(&waiting).await?,
            held: self.connection.query(&held).await?,
        })
    }
}

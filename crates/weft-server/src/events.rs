//! What happened: numbered, kept in the store, followed by clients.
//!
//! Events are told in memory first and written behind, so that nothing waits for the store. The
//! newest [`KEPT_EVENTS`] are kept; older ones are dropped from memory and store alike.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use weft_api::{EventView, rfc3339};
use weft_types::Timestamp;

use crate::Error;
use crate::records::Records;

/// How many events are kept.
pub const KEPT_EVENTS: usize = 10_000;
/// The most events that are written to the store at once.
const MAX_WRITTEN_AT_ONCE: usize = 256;

/// The event log.
#[derive(Clone)]
pub struct Events {
    shared: Arc<Shared>,
}

struct Shared {
    source: String,
    ring: Mutex<Ring>,
    newest: watch::Sender<u64>,
    to_write: Notify,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<EventView>,
    next_seq: u64,
    written_seq: u64,
}

impl Events {
    /// Reads the kept events back.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(cluster: &str, records: &Records) -> Result<Self, Error> {
        let mut stored: Vec<EventView> = records
            .list("events/")
            .await?
            .into_iter()
            .map(|(_, event)| event)
            .collect();
        stored.sort_by_key(|event: &EventView| event.seq);
        let last = stored.last().map_or(0, |event| event.seq);
        let ring = Ring {
            events: stored.into(),
            next_seq: last + 1,
            written_seq: last,
        };
        let shared = Shared {
            source: format!("weft://{cluster}"),
            ring: Mutex::new(ring),
            newest: watch::channel(last).0,
            to_write: Notify::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Tells an event. Never waits.
    pub fn emit(&self, now: Timestamp, kind: &str, subject: &str, data: Value) {
        let mut ring = self.shared.ring.lock();
        let seq = ring.next_seq;
        ring.next_seq += 1;
        ring.events.push_back(EventView {
            specversion: "1.0".to_owned(),
            id: seq.to_string(),
            source: self.shared.source.clone(),
            kind: format!("weft.{kind}"),
            subject: subject.to_owned(),
            time: rfc3339(now),
            seq,
            data,
        });
        if ring.events.len() > KEPT_EVENTS {
            ring.events.pop_front();
        }
        drop(ring);
        self.shared.newest.send_replace(seq);
        self.shared.to_write.notify_one();
    }

    /// Events after `since`, at most `limit`.
    pub fn after(&self, since: u64, limit: usize) -> Vec<EventView> {
        let ring = self.shared.ring.lock();
        let start = ring.events.partition_point(|event| event.seq <= since);
        ring.events
            .iter()
            .skip(start)
            .take(limit)
            .cloned()
            .collect()
    }

    /// Resolves to the newest number whenever there is a newer event.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.newest.subscribe()
    }

    /// Writes events to the store as they come; never returns.
    pub async fn write_behind(self, records: Records) {
        loop {
            let batch = self.unwritten();
            let Some(last) = batch.last().map(|event| event.seq) else {
                self.shared.to_write.notified().await;
                continue;
            };
            if let Err(error) = write(&records, &batch).await {
                tracing::warn!(%error, "events could not be written and are kept in memory only");
            }
            self.shared.ring.lock().written_seq = last;
        }
    }

    /// Writes what is not written yet, at the end of the server.
    pub async fn flush(&self, records: &Records) {
        let batch = self.unwritten();
        if !batch.is_empty() && write(records, &batch).await.is_ok() {
            self.shared.ring.lock().written_seq = batch.last().map_or(0, |event| event.seq);
        }
    }

    fn unwritten(&self) -> Vec<EventView> {
        let ring = self.shared.ring.lock();
        let start = ring
            .events
            .partition_point(|event| event.seq <= ring.written_seq);
        ring.events
            .iter()
            .skip(start)
            .take(MAX_WRITTEN_AT_ONCE)
            .cloned()
            .collect()
    }
}

/// Twenty digits keep the keys in the order of the numbers.
fn key(seq: u64) -> String {
    format!("events/{seq:020}")
}

async fn write(records: &Records, batch: &[EventView]) -> Result<(), Error> {
    let puts = batch.iter().map(|event| (key(event.seq), json!(event)));
    let drops = batch
        .iter()
        .filter_map(|event| event.seq.checked_sub(KEPT_EVENTS as u64))
        .map(key);
    records.write_all(puts.collect(), drops.collect()).await
}

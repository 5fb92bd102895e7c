//! What happened: numbered, kept in the store, followed by clients.
//!
//! Events are told in memory first and written behind, so that nothing waits for the store. The
//! newest [`KEPT_EVENTS`] are kept; older ones are dropped from memory and store alike.
//!
//! Numbers only grow, and none is given twice: a client that goes on after the last number it was
//! told misses nothing that is told later. A server that is killed may have told events that it had
//! not written, and knows nothing of them when it is back; so each start leaves out as many numbers
//! as there may be of those, which are at most [`KEPT_EVENTS`] unless the store has refused more
//! than that in a row.

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
/// The most events that are written to the store at once, and the most that are dropped with them.
const MAX_WRITTEN_AT_ONCE: usize = 256;
/// The number that the last start began with.
const FIRST_SEQ: &str = "meta/first-event";

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
    /// Numbers that are kept no longer and may still be in the store.
    gone: VecDeque<u64>,
}

/// What is to be done in the store.
struct Batch {
    put: Vec<EventView>,
    drop: Vec<u64>,
}

impl Events {
    /// Reads the kept events back. New ones get greater numbers than any that was told before.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn load(cluster: &str, records: &Records) -> Result<Self, Error> {
        let mut stored: Vec<EventView> = records
            .list("events/")
            .await?
            .into_iter()
            .map(|(_, event)| event)
            .collect();
        stored.sort_by_key(|event: &EventView| event.seq);
        let last = stored.last().map_or(0, |event| event.seq);
        let surplus = stored.len().saturating_sub(KEPT_EVENTS);
        let ring = Ring {
            gone: stored.drain(..surplus).map(|event| event.seq).collect(),
            events: stored.into(),
            next_seq: first_seq(records, last).await?,
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
        ring.forget_oldest();
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
            let Some(last) = batch.last() else {
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
        if let Some(last) = batch.last()
            && write(records, &batch).await.is_ok()
        {
            self.shared.ring.lock().written_seq = last;
        }
    }

    fn unwritten(&self) -> Batch {
        let mut ring = self.shared.ring.lock();
        let start = ring
            .events
            .partition_point(|event| event.seq <= ring.written_seq);
        let events = ring.events.iter().skip(start);
        let put: Vec<EventView> = events.take(MAX_WRITTEN_AT_ONCE).cloned().collect();
        let dropped = match put.len() {
            0 => 0,
            _ => ring.gone.len().min(MAX_WRITTEN_AT_ONCE),
        };
        let drop = ring.gone.drain(..dropped).collect();
        Batch { put, drop }
    }
}

impl Ring {
    fn forget_oldest(&mut self) {
        if self.events.len() <= KEPT_EVENTS {
            return;
        }
        let oldest = self.events.pop_front();
        self.gone.extend(oldest.map(|event| event.seq));
        // Of what a store that hangs does not drop, the next start knows.
        if self.gone.len() > KEPT_EVENTS {
            self.gone.pop_front();
        }
    }
}

impl Batch {
    fn last(&self) -> Option<u64> {
        self.put.last().map(|event| event.seq)
    }
}

/// The number to go on with; `last` is that of the newest stored event. It is written before
/// anything is told under it, so that of two starts in a row the second one knows of the first,
/// whose events may all be lost.
async fn first_seq(records: &Records, last: u64) -> Result<u64, Error> {
    let before: Option<(u64, _)> = records.get(FIRST_SEQ).await?;
    let newest = last.max(before.map_or(0, |(first, _)| first));
    let first = match newest {
        0 => 1,
        _ => newest + KEPT_EVENTS as u64 + 1,
    };
    records.put(FIRST_SEQ, &first).await?;
    Ok(first)
}

/// Twenty digits keep the keys in the order of the numbers.
fn key(seq: u64) -> String {
    format!("events/{seq:020}")
}

async fn write(records: &Records, batch: &Batch) -> Result<(), Error> {
    let puts = batch.put.iter().map(|event| (key(event.seq), json!(event)));
    let drops = batch.drop.iter().copied().map(key);
    records.write_all(puts.collect(), drops.collect()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store in a directory of its own, and what has to live as long.
    async fn records() -> (tempfile::TempDir, Records) {
        let dir = tempfile::tempdir().expect("a directory");
        let records = Records::open(dir.path()).await.expect("it opens");
        (dir, records)
    }

    async fn start(records: &Records) -> Events {
        Events::load("test", records).await.expect("it loads")
    }

    fn tell(events: &Events, count: usize) {
        for _ in 0..count {
            events.emit(Timestamp(0), "test.told", "it", Value::Null);
        }
    }

    fn told(events: &Events) -> Vec<u64> {
        let all = events.after(0, usize::MAX);
        all.iter().map(|event| event.seq).collect()
    }

    async fn write_all(events: &Events, records: &Records) {
        while events.unwritten_is_some() {
            events.flush(records).await;
        }
    }

    impl Events {
        fn unwritten_is_some(&self) -> bool {
            let ring = self.shared.ring.lock();
            let last = ring.events.back();
            last.is_some_and(|event| event.seq > ring.written_seq)
        }
    }

    #[tokio::test]
    async fn numbers_that_were_told_and_not_written_are_not_given_again() {
        let (_dir, records) = records().await;
        let events = start(&records).await;
        tell(&events, 3);
        events.flush(&records).await;
        tell(&events, KEPT_EVENTS);
        let mut newest = *told(&events).last().expect("an event");
        assert_eq!(
            newest,
            KEPT_EVENTS as u64 + 3,
            "the first start leaves none out"
        );
        // Each is killed before it has written anything.
        for _ in 0..3 {
            let events = start(&records).await;
            assert_eq!(told(&events), [1, 2, 3]);
            tell(&events, 2);
            let [first, second] = events.after(newest, usize::MAX).try_into().expect("two");
            assert!(first.seq > newest && second.seq == first.seq + 1);
            newest = second.seq;
        }
    }

    #[tokio::test]
    async fn the_store_keeps_as_many_as_memory_also_across_starts() {
        let (_dir, records) = records().await;
        for _ in 0..2 {
            let events = start(&records).await;
            tell(&events, KEPT_EVENTS / 2 + 300);
            write_all(&events, &records).await;
        }
        let events = start(&records).await;
        let kept = told(&events);
        assert_eq!(kept.len(), KEPT_EVENTS);
        let stored: Vec<(String, Value)> = records.list("events/").await.expect("a list");
        assert_eq!(stored.len(), KEPT_EVENTS);
    }
}

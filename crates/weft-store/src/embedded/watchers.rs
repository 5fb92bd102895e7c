//! Who watches which prefix.

use tokio::sync::mpsc;

use crate::{Event, EventBatch, Watch};

/// Batches that wait for one watcher; one that is slower is cut off and told so.
const MAX_WAITING_BATCHES: usize = 1_024;

/// All watchers.
#[derive(Default)]
pub(super) struct Watchers {
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: String,
    batches: mpsc::Sender<EventBatch>,
}

impl Watchers {
    /// Adds a watcher that first gets what has happened already.
    pub(super) fn add(&mut self, prefix: String, past: Vec<EventBatch>) -> Watch {
        let (batches, receiver) = mpsc::channel(MAX_WAITING_BATCHES.max(past.len() + 1));
        let watcher = Watcher { prefix, batches };
        if past.iter().all(|batch| watcher.send(batch)) {
            self.watchers.push(watcher);
        }
        Watch { batches: receiver }
    }

    /// Tells everybody who watches one of the keys; forgets who is gone or too slow.
    pub(super) fn tell(&mut self, batch: &EventBatch) {
        self.watchers.retain(|watcher| watcher.send(batch));
    }
}

impl Watcher {
    fn send(&self, batch: &EventBatch) -> bool {
        let mine = |event: &&Event| event.key().starts_with(&self.prefix);
        let events: Vec<Event> = batch.events.iter().filter(mine).cloned().collect();
        if events.is_empty() {
            return !self.batches.is_closed();
        }
        self.batches
            .try_send(EventBatch {
                revision: batch.revision,
                events,
            })
            .is_ok()
    }
}

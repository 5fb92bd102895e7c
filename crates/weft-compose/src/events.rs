//! Changes, as the engine tells of them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;
use weft_unit::Step;

use crate::engine::Engine;

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Listens once somebody asks, until it is dropped.
pub(crate) struct Events {
    engine: Arc<Engine>,
    count: watch::Sender<u64>,
    /// What the caller has been told already.
    seen: Mutex<watch::Receiver<u64>>,
    listener: OnceLock<AbortHandle>,
}

impl Events {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let (count, seen) = watch::channel(0);
        Self {
            engine,
            count,
            seen: Mutex::new(seen),
            listener: OnceLock::new(),
        }
    }

    /// Resolves when something has changed since it last did.
    pub(crate) async fn next(&self) {
        self.listener.get_or_init(|| {
            let listening = listen(Arc::clone(&self.engine), self.count.clone());
            tokio::spawn(listening).abort_handle()
        });
        if self.seen.lock().await.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            listener.abort();
        }
    }
}

async fn listen(engine: Arc<Engine>, count: watch::Sender<u64>) {
    let mut wait = FIRST_WAIT;
    loop {
        if let Ok(docker) = engine.docker(Step::Run).await {
            let mut filter = engine.filter(None);
            filter.insert("type".to_owned(), vec!["container".to_owned()]);
            let options = EventsOptionsBuilder::new()
                .since(&weft_engine::events_since())
                .filters(&filter)
                .build();
            let mut events = Box::pin(docker.events(Some(options)));
            // What happened while nobody listened is not told.
            count.send_modify(|count| *count += 1);
            while let Some(Ok(_)) = events.next().await {
                wait = FIRST_WAIT;
                count.send_modify(|count| *count += 1);
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

//! Being told that something has changed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::EventsOptionsBuilder;
use futures::StreamExt;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use weft_types::NodeId;
use weft_unit::labels;

use crate::connection::Connection;

const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Follows the engine's events for as long as it is there.
#[derive(Debug)]
pub(crate) struct Events {
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Events {
    pub fn follow(connection: Arc<Connection>, node: NodeId) -> Self {
        let changed = Arc::new(Notify::new());
        let task = tokio::spawn(follow(connection, node, changed.clone()));
        Self { changed, task }
    }

    /// Resolves after the next change; one that came while nobody waited counts.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(connection: Arc<Connection>, node: NodeId, changed: Arc<Notify>) {
    let mut wait = FIRST_WAIT;
    loop {
        if let Ok(there) = connection.get().await {
            let mark = format!("{}={node}", labels::NODE);
            let filters = HashMap::from([("type", vec!["container"]), ("label", vec![&mark])]);
            let options = EventsOptionsBuilder::new()
                .since(&events_since())
                .filters(&filters)
                .build();
            let mut events = std::pin::pin!(there.docker.events(Some(options)));
            // What happened while nobody listened is found by looking.
            changed.notify_one();
            while let Some(Ok(event)) = events.next().await {
                wait = FIRST_WAIT;
                // A health check is a command inside: it changes nothing.
                let action = event.action.unwrap_or_default();
                if !action.starts_with("exec") {
                    changed.notify_one();
                }
            }
            tracing::debug!(socket = %connection.socket().display(), "the engine's events ended");
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

/// From when on a stream of events tells, as engines take times: a second ago. The stream asks the
/// engine only when it is first read; what changes between the look that it is announced with and
/// that is told as well.
pub fn events_since() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |now| now.as_secs());
    seconds.saturating_sub(1).to_string()
}

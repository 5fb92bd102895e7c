//! Writes down what an instance prints, from where it was left off.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use weft_types::UnitId;
use weft_unit::{LogLine, LogStream, LogsWanted, UnitRuntime};

use super::Book;

/// Lines that are written at once.
const MAX_BATCH: usize = 512;
/// How long an engine may take to open a log.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two tries to follow a log.
const PAUSE: Duration = Duration::from_millis(500);

/// A task that follows one instance; ends when it is dropped.
pub(in crate::units) struct Follower {
    end: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Follower {
    pub(in crate::units) fn start(
        runtime: Arc<dyn UnitRuntime>,
        unit: UnitId,
        book: Arc<Book>,
    ) -> Self {
        let end = CancellationToken::new();
        let task = tokio::spawn(follow(runtime, unit, book, end.clone()));
        Self {
            end,
            task: Some(task),
        }
    }

    /// The instance has ended: waits until its last lines are written, for this long at most.
    pub(in crate::units) async fn finish(mut self, timeout: Duration) {
        self.end.cancel();
        if let Some(task) = &mut self.task {
            let _ = tokio::time::timeout(timeout, task).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn follow(
    runtime: Arc<dyn UnitRuntime>,
    unit: UnitId,
    book: Arc<Book>,
    end: CancellationToken,
) {
    loop {
        // What is printed after the end was called is in the last round.
        let is_last = end.is_cancelled();
        let wanted = LogsWanted {
            since_ms: book.left_off(),
            tail: None,
            follow: !is_last,
        };
        let seen = book.seen();
        match tokio::time::timeout(OPEN_TIMEOUT, runtime.logs(unit, wanted)).await {
            Ok(Ok(lines)) => write(lines, seen, &book).await,
            Ok(Err(error)) => tracing::debug!(%unit, %error, "no logs"),
            Err(_) => tracing::debug!(%unit, "the engine does not tell its logs"),
        }
        if is_last {
            return;
        }
        let _ = tokio::time::timeout(PAUSE, end.cancelled()).await;
    }
}

/// Writes lines until there are no more. Those of `seen` are known from before, once each.
async fn write(mut lines: LogStream, mut seen: Vec<LogLine>, book: &Arc<Book>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while lines.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let mut fresh = std::mem::take(&mut batch);
        if !seen.is_empty() {
            fresh.retain(|line| {
                let known = seen.iter().position(|seen| seen == line);
                known.map(|known| seen.swap_remove(known)).is_none()
            });
        }
        let book = Arc::clone(book);
        let written = tokio::task::spawn_blocking(move || book.append(fresh)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "what a unit prints cannot be kept");
        }
    }
}

//! What is told to a WebSocket as it happens.

use std::sync::Arc;

use axum::extract::ws::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;
use weft_api::{ResultView, Text, WsAnswer, WsResults};

use super::connection::text;
use crate::metrics::Door;
use crate::rest::page::{job_id, wait};
use crate::rest::problem::ApiError;
use crate::rest::results::{Cursor, End, Next, Wanted, is_in_order};
use crate::state::Server;
use crate::watch::JobWatch;

/// How many results, and about how many bytes of them, are in one message.
const BATCH_RESULTS: usize = 256;
const BATCH_BYTES: usize = 64 << 10;
/// About what a result needs beside what its task printed.
const RESULT_BYTES: usize = 256;

/// The way to the client for one subscription.
pub struct Outlet {
    /// The id of its request.
    pub id: String,
    /// The connection's messages; waits while the client is slow.
    pub outgoing: mpsc::Sender<Message>,
}

impl Outlet {
    /// Whether the client is still there.
    async fn tell(&self, answer: WsAnswer) -> bool {
        let message = text(Some(self.id.clone()), answer);
        self.outgoing.send(message).await.is_ok()
    }
}

/// Tells a job as it changes; resolves to the last answer.
pub async fn watch(server: Arc<Server>, job: String, outlet: Outlet) -> Result<WsAnswer, ApiError> {
    let mut watch = JobWatch::new(server, job_id(&job)?, Door::WebSocket);
    while let Some(job) = watch.next().await? {
        if !outlet.tell(WsAnswer::Job { job }).await {
            return Ok(WsAnswer::End { complete: false });
        }
    }
    Ok(WsAnswer::End { complete: true })
}

/// Tells results; resolves to the last answer.
pub async fn results(
    server: Arc<Server>,
    wanted: WsResults,
    outlet: Outlet,
) -> Result<WsAnswer, ApiError> {
    let mut cursor = open(server, wanted).await?;
    let mut batch = Batch::default();
    loop {
        let next = cursor.next().await;
        if batch.is_due(&next) {
            let results = std::mem::take(&mut batch).results;
            if !outlet.tell(WsAnswer::Results { results }).await {
                return Ok(WsAnswer::End { complete: false });
            }
        }
        match next {
            Next::Result(view) => batch.push(*view),
            Next::Idle => cursor.wait().await,
            Next::End(End::Complete) => return Ok(WsAnswer::End { complete: true }),
            Next::End(End::WaitOver) => return Ok(WsAnswer::End { complete: false }),
            Next::End(End::Gone) => return Err(cursor.gone()),
            Next::End(End::Stopping) => return Err(ApiError::stopping()),
        }
    }
}

async fn open(server: Arc<Server>, wanted: WsResults) -> Result<Cursor, ApiError> {
    let patience = wanted.wait.as_deref();
    let deadline = patience.map(|text| Ok::<_, ApiError>(Instant::now() + wait(Some(text))?));
    let job = job_id(&wanted.job)?;
    let wanted = Wanted {
        in_order: is_in_order(wanted.order.as_deref())?,
        deadline: deadline.transpose()?,
        seen: wanted.seen,
    };
    Cursor::open(server, job, wanted, Door::WebSocket).await
}

/// Results on their way into one message.
#[derive(Default)]
struct Batch {
    results: Vec<ResultView>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, view: ResultView) {
        self.bytes += about_bytes(&view);
        self.results.push(view);
    }

    /// Whether it must go out before what comes next: it is full, or nothing joins it now.
    fn is_due(&self, next: &Next) -> bool {
        let is_full = self.results.len() >= BATCH_RESULTS || self.bytes >= BATCH_BYTES;
        let joins = matches!(next, Next::Result(_));
        !self.results.is_empty() && (is_full || !joins)
    }
}

fn about_bytes(view: &ResultView) -> usize {
    let printed = |text: &Option<Text>| text.as_ref().and_then(Text::bytes).map_or(0, <[u8]>::len);
    let found = view.result.as_ref().map_or(0, |json| json.get().len());
    RESULT_BYTES + found + printed(&view.stdout) + printed(&view.stderr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::result_view;
    use weft_types::TaskState;

    fn view() -> ResultView {
        result_view(0, TaskState::Completed, None, 1, None, &[])
    }

    #[test]
    fn a_batch_goes_out_when_it_is_full_or_nothing_joins_it() {
        let mut batch = Batch::default();
        let more = Next::Result(Box::new(view()));
        assert!(!batch.is_due(&Next::Idle), "there is nothing in it");
        batch.push(view());
        assert!(!batch.is_due(&more));
        assert!(batch.is_due(&Next::Idle) && batch.is_due(&Next::End(End::Complete)));
        let mut large = view();
        large.stdout = Some(Text::Inline {
            bytes: vec![0; BATCH_BYTES],
            truncated: false,
        });
        batch.push(large);
        assert!(batch.is_due(&more));
    }
}

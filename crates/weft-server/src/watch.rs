//! A job as it changes, for the doors that push.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use weft_api::JobView;
use weft_types::JobId;

use crate::dispatch::JobNews;
use crate::metrics::{Counted, Door};
use crate::rest::jobs;
use crate::rest::problem::ApiError;
use crate::state::Server;

/// The least time between two views: what changes meanwhile is told in one.
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// How often is looked without news; those come for ends of tasks, not for their starts.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Follows a job until it is final.
pub(crate) struct JobWatch {
    server: Arc<Server>,
    job: JobId,
    news: JobNews,
    last: Option<JobView>,
    told: Instant,
    _counted: Counted,
}

impl JobWatch {
    /// Begins to follow a job; the first view comes at once.
    pub fn new(server: Arc<Server>, job: JobId, door: Door) -> Self {
        let news = server.dispatcher.watch(job);
        let counted = server.metrics.subscription(door);
        Self {
            server,
            job,
            news,
            last: None,
            told: Instant::now(),
            _counted: counted,
        }
    }

    /// The job once it looks different from what was told before; `None` after it was final.
    ///
    /// # Errors
    /// When the job is not known, or not any more, or the server stops.
    pub async fn next(&mut self) -> Result<Option<JobView>, ApiError> {
        if self.last.as_ref().is_some_and(|view| view.state.is_final()) {
            return Ok(None);
        }
        if self.last.is_some() {
            self.pause().await?;
        }
        loop {
            let view = self.look().await?;
            if self.last.as_ref().is_none_or(|last| differs(last, &view)) {
                self.told = Instant::now();
                self.last = Some(view.clone());
                return Ok(Some(view));
            }
            self.pause().await?;
        }
    }

    async fn look(&self) -> Result<JobView, ApiError> {
        let mut view = jobs::view(&self.server, self.job).await?;
        // Of a job that moves, nobody asks why.
        if view.state.is_final() || view.tasks.running + view.tasks.assigned == 0 {
            view.why = jobs::job_why(&self.server, &view).await;
        }
        Ok(view)
    }

    async fn pause(&mut self) -> Result<(), ApiError> {
        let stopping = self.server.stopping.clone();
        let pause = async {
            tokio::select! {
                () = self.news.changed() => {}
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            tokio::time::sleep_until(self.told + MIN_INTERVAL).await;
        };
        tokio::select! {
            () = pause => Ok(()),
            () = stopping.cancelled() => Err(ApiError::stopping()),
        }
    }
}

fn differs(last: &JobView, view: &JobView) -> bool {
    last.state != view.state || last.tasks != view.tasks || last.why != view.why
}

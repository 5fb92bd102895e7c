//! Dead letters, and the history of attempts.

use reqwest::Method;
use weft_api::{Changed, DeadLetterView, Page, RequeueRequest, ResultView, TaskHistoryView};
use weft_types::Reason;

use crate::client::CALL_TIMEOUT;
use crate::{Client, Error};

/// The most that is asked for at once.
const PAGE_ENTRIES: usize = 1_000;
/// How long a change of many tasks may take.
const CHANGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(600);

/// Which dead letters.
#[derive(Clone, Debug, Default)]
pub struct DeadLetters {
    /// Only of this job.
    pub job: Option<String>,
    /// Only those that died for this reason.
    pub reason: Option<Reason>,
    /// Only of this namespace.
    pub namespace: Option<String>,
}

impl DeadLetters {
    fn query(&self) -> Vec<(&'static str, String)> {
        let reason = self.reason.map(|reason| reason.to_string());
        let pairs = [
            ("job", self.job.clone()),
            ("reason", reason),
            ("namespace", self.namespace.clone()),
        ];
        pairs
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

impl Client {
    /// Dead letters, newest job first, at most `limit`.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn dead_letters(
        &self,
        which: &DeadLetters,
        limit: usize,
    ) -> Result<Vec<DeadLetterView>, Error> {
        let mut items = Vec::new();
        let mut cursor: Option<String> = None;
        while items.len() < limit {
            let wanted = PAGE_ENTRIES.min(limit - items.len());
            let request = self
                .request(Method::GET, "/v1/dlq")
                .timeout(CALL_TIMEOUT)
                .query(&which.query())
                .query(&[("limit", wanted)]);
            let cursor_pair = cursor.iter().map(|cursor| ("cursor", cursor));
            let request = request.query(&cursor_pair.collect::<Vec<_>>());
            let page: Page<DeadLetterView> = self.json(request).await?;
            items.extend(page.items);
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        Ok(items)
    }

    /// A dead letter, with the end of what its attempts printed.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn dead_letter(&self, job: &str, task: u32) -> Result<DeadLetterView, Error> {
        self.get(&format!("/v1/dlq/{job}/{task}")).await
    }

    /// Gives dead letters all their attempts again.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn requeue(&self, request: &RequeueRequest) -> Result<Changed, Error> {
        let request = self
            .request(Method::POST, "/v1/dlq/requeue")
            .timeout(CHANGE_TIMEOUT)
            .json(request);
        self.json(request).await
    }

    /// Takes dead letters of a job off the list: one task's, or all, or those with a reason.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn drop_dead(
        &self,
        job: &str,
        task: Option<u32>,
        reason: Option<Reason>,
    ) -> Result<Changed, Error> {
        let path = match task {
            Some(task) => format!("/v1/dlq/{job}/{task}"),
            None => format!("/v1/dlq/{job}"),
        };
        let reason = reason.map(|reason| ("reason", reason.to_string()));
        let request = self
            .request(Method::DELETE, &path)
            .timeout(CHANGE_TIMEOUT)
            .query(&reason.into_iter().collect::<Vec<_>>());
        self.json(request).await
    }

    /// A task with the history of its attempts.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn task(&self, job: &str, task: u32) -> Result<TaskHistoryView, Error> {
        self.get(&format!("/v1/jobs/{job}/tasks/{task}")).await
    }

    /// The result of one task; `None` when it has none yet.
    ///
    /// # Errors
    /// Those of any call.
    pub async fn result(&self, job: &str, task: u32) -> Result<Option<ResultView>, Error> {
        let path = format!("/v1/results/{job}?cursor={task}&limit=1");
        let page: Page<ResultView> = self.get(&path).await?;
        Ok(page.items.into_iter().find(|result| result.task == task))
    }
}

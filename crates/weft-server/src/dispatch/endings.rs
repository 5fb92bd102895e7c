//! Who waits for the end of which job.
//!
//! One answer when the job ends, instead of news at every step of it: a client that waits for a
//! job of one task would otherwise be woken, ask and be told "not yet" several times.

use std::collections::HashMap;

use tokio::sync::oneshot;
use weft_types::JobId;

use super::job::JobStats;

/// Where the answer goes.
pub(super) type Reply = oneshot::Sender<Option<JobStats>>;

/// Who waits for the end of which job.
#[derive(Default)]
pub(super) struct Endings {
    waiting: HashMap<JobId, Vec<Reply>>,
}

impl Endings {
    /// Somebody waits for a job that has not ended. Those who gave up make room, so that there are
    /// about as many as there are requests.
    pub(super) fn wait(&mut self, job: JobId, reply: Reply) {
        let waiting = self.waiting.entry(job).or_default();
        waiting.retain(|reply| !reply.is_closed());
        waiting.push(reply);
    }

    /// Those who waited for a job that has ended now.
    pub(super) fn take(&mut self, job: JobId) -> Vec<Reply> {
        self.waiting.remove(&job).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_gave_up_does_not_stay() {
        let mut endings = Endings::default();
        for _ in 0..1_000 {
            let (reply, _) = oneshot::channel();
            endings.wait(JobId(1), reply);
        }
        let (reply, _waits) = oneshot::channel();
        endings.wait(JobId(1), reply);
        assert_eq!(endings.take(JobId(1)).len(), 1);
        assert!(endings.take(JobId(1)).is_empty());
    }
}

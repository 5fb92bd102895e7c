//! Live output of running tasks: from the agents that capture it to the clients that follow it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use weft_proto::v1;
use weft_types::{JobId, NodeId};

/// Pieces of output that wait for one follower; one that is slower is cut off and reads the rest
/// from the result.
const MAX_WAITING_PIECES: usize = 1_024;

/// Which task.
type Key = (JobId, u32);

/// Who follows the output of which task.
#[derive(Clone, Default)]
pub struct Follows {
    followers: Arc<Mutex<HashMap<Key, Vec<mpsc::Sender<v1::LogChunk>>>>>,
}

impl Follows {
    /// Follows a task's output from now on.
    pub fn follow(&self, job: JobId, task: u32) -> mpsc::Receiver<v1::LogChunk> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING_PIECES);
        self.followers
            .lock()
            .entry((job, task))
            .or_default()
            .push(sender);
        receiver
    }

    /// An agent sent a piece of output. Whether anybody still follows.
    pub fn chunk(&self, node: &NodeId, chunk: v1::LogChunk) -> bool {
        let key = (JobId(chunk.job), chunk.task);
        let mut followers = self.followers.lock();
        let Some(waiting) = followers.get_mut(&key) else {
            return false;
        };
        waiting.retain(|sender| sender.try_send(chunk.clone()).is_ok());
        if waiting.is_empty() {
            tracing::debug!(%node, job = %key.0, task = key.1, "nobody follows any more");
            followers.remove(&key);
            return false;
        }
        true
    }
}

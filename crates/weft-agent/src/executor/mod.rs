//! The work on this node: what waits, what runs, what is done and not acknowledged.
//!
//! ```text
//!  dispatch ─▶ ops ─────▶ op threads, in batches ──┐
//!           └▶ waiting ─▶ fits? ─▶ a runtime ──────┴▶ done ─▶ outbox ─▶ server ─▶ ack ─▶ forgotten
//! ```
//!
//! Every decision is in [`Table`], which does nothing itself; this shell feeds it from the session
//! and carries out what it says.

mod claims;
mod ops;
mod outgoing;
mod run;
mod table;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_runtime::{Control, Runtimes};
use weft_types::{JobId, NodeCapacity};

use crate::artifacts::Artifacts;
use crate::task::{Job, inline_op};
pub(crate) use claims::Claim;
use table::{Payload, Table};

/// The most tasks that are held, running or not.
pub(crate) const MAX_HELD_TASKS: u32 = 8_192;

/// Which task of which job.
pub(crate) type TaskId = (u64, u32);

/// The work on this node; cloning shares it.
#[derive(Clone)]
pub(crate) struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    node: String,
    runtimes: Runtimes,
    artifacts: Artifacts,
    table: Mutex<Table>,
    op_threads: usize,
    op_ready: Condvar,
    outgoing: Notify,
    /// Tasks or units gave room back.
    room: Notify,
    tokio: tokio::runtime::Handle,
}

impl Executor {
    /// Starts `op_threads` threads for byte programs.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        node: String,
        capacity: NodeCapacity,
        runtimes: Runtimes,
        artifacts: Artifacts,
        op_threads: usize,
    ) -> std::io::Result<Self> {
        let op_threads = op_threads.max(1);
        let shared = Arc::new(Shared {
            node,
            runtimes,
            artifacts,
            table: Mutex::new(Table::new(capacity)),
            op_threads,
            op_ready: Condvar::new(),
            outgoing: Notify::new(),
            room: Notify::new(),
            tokio: tokio::runtime::Handle::current(),
        });
        for _ in 0..op_threads {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("weft-op".to_owned())
                .spawn(move || shared.run_ops())?;
        }
        Ok(Self { shared })
    }

    /// Takes work over.
    pub(crate) fn dispatch(&self, message: v1::Dispatch) {
        let specs: HashMap<u64, Bytes> = message
            .jobs
            .into_iter()
            .map(|header| (header.job, header.spec))
            .collect();
        for group in message.groups {
            let known = self.shared.table.lock().job(group.job);
            let job = known.unwrap_or_else(|| {
                let spec = specs.get(&group.job).cloned().unwrap_or_default();
                Arc::new(Job::parse(JobId(group.job), &spec))
            });
            // Decoded without the lock: op threads and heartbeats do not wait for it.
            let tasks: Vec<(u32, u32, Payload)> = group
                .tasks
                .into_iter()
                .map(|item| {
                    let payload = match inline_op(&job, &item.payload) {
                        Some(inline) => Payload::Inline(inline),
                        None => Payload::Raw(item.payload),
                    };
                    (item.task, item.attempt, payload)
                })
                .collect();
            let mut table = self.shared.table.lock();
            for (task, attempt, payload) in tasks {
                table.hold(&job, task, attempt, payload);
            }
        }
        self.shared.op_ready.notify_all();
        self.shared.start_what_fits();
    }

    /// Stops tasks and forgets them; no tasks named means all of the job.
    pub(crate) fn stop(&self, tasks: &[v1::HeldTasks]) {
        self.shared.table.lock().stop(tasks);
        self.shared.room_was_made();
    }

    /// Forgets results that the server has on disk.
    pub(crate) fn acknowledged(&self, tasks: &[v1::HeldTasks]) {
        // Rarely so: op threads are not to be woken for each acknowledgement.
        if self.shared.table.lock().acknowledged(tasks) {
            self.shared.room_was_made();
        }
    }

    /// Gives back what has not started.
    pub(crate) fn recall(&self, tasks: &[v1::HeldTasks]) {
        self.shared.table.lock().recall(tasks);
        self.shared.outgoing.notify_one();
    }

    /// Everything that is held, for the greeting of a session.
    pub(crate) fn held(&self) -> Vec<v1::HeldTasks> {
        self.shared.table.lock().all_held()
    }

    /// A new session: what is done has to be sent again.
    pub(crate) fn resend_all(&self) {
        self.shared.table.lock().resend_all();
        self.shared.outgoing.notify_one();
    }

    /// To be called at an even pace: sends again what was sent before the last call and is not
    /// acknowledged, as happens when the server's disk was full.
    pub(crate) fn resend_unacknowledged(&self) {
        if self.shared.table.lock().resend_unacknowledged() {
            self.shared.outgoing.notify_one();
        }
    }

    /// Resolves when there may be something to send.
    pub(crate) async fn outgoing(&self) {
        self.shared.outgoing.notified().await;
    }

    /// The next message to send; `None` when there is nothing.
    pub(crate) fn next_message(&self) -> Option<Message> {
        self.shared.table.lock().next_message()
    }

    /// The control of a task that runs.
    pub(crate) fn control(&self, id: TaskId) -> Option<Control> {
        self.shared.table.lock().control(id)
    }

    /// Whether a task is held and has not ended.
    pub(crate) fn holds(&self, id: TaskId) -> bool {
        self.shared.table.lock().is_unfinished(id)
    }

    /// Tasks that run, and tasks that are held.
    pub(crate) fn load(&self) -> (u32, u32) {
        self.shared.table.lock().load()
    }

    /// Stops everything, for good.
    pub(crate) fn shutdown(&self) {
        self.shared.table.lock().shutdown();
        self.shared.op_ready.notify_all();
    }
}

impl Shared {
    /// Results are gone or tasks were dropped: what waited for that may go on.
    fn room_was_made(self: &Arc<Self>) {
        self.op_ready.notify_all();
        self.start_what_fits();
    }
}

#[cfg(test)]
mod tests;

//! From the dispatcher's work to messages for the agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use weft_core::dispatch::{TaskRef, TaskRun};
use weft_proto::v1;
use weft_proto::v1::server_message::Message;
use weft_types::{JobId, NodeId};

use crate::dispatch::Work;
use crate::services::sessions::Ready;
use crate::state::Server;

/// Messages that are encoded and wait for the network.
pub(super) const MAX_READY_MESSAGES: usize = 64;
/// About how many bytes of payload one message carries, so that a batch of large tasks stays
/// within the limits of a message.
const MAX_DISPATCH_BYTES: usize = 8 << 20;
/// About how many bytes a task takes beside its payload.
const ITEM_BYTES: usize = 16;

/// Writes what the dispatcher sends until it ends the session or the agent is gone.
pub(super) struct Writer {
    pub(super) server: Arc<Server>,
    pub(super) node: NodeId,
    pub(super) epoch: u64,
    pub(super) ready: Ready,
    /// Told once the agent was welcomed.
    pub(super) welcomed: Option<oneshot::Sender<()>>,
}

impl Writer {
    pub(super) async fn run(mut self, mut work: mpsc::Receiver<Work>) {
        while let Some(item) = work.recv().await {
            let last = matches!(item, Work::End(_));
            let first = matches!(item, Work::Attached { .. });
            if self.write(item).await.is_err() || last {
                break;
            }
            if let Some(welcomed) = self.welcomed.take_if(|_| first) {
                let _ = welcomed.send(());
            }
        }
    }

    async fn write(&self, work: Work) -> Result<(), ()> {
        let message = match work {
            Work::Assign(runs) => return self.dispatch(runs).await,
            Work::Attached { stop } => Message::Welcome(self.welcome(&stop)),
            Work::Stop { tasks, reason } => Message::Cancel(v1::Cancel {
                tasks: held_tasks(&tasks),
                reason: reason.as_str().to_owned(),
            }),
            Work::Recall(tasks) => Message::Recall(v1::Recall {
                tasks: held_tasks(&tasks),
            }),
            Work::Ack(tasks) => Message::Ack(v1::ResultAck {
                tasks: held_tasks(&tasks),
            }),
            Work::Follow {
                job,
                task,
                stdout_offset,
                stderr_offset,
            } => Message::Follow(v1::FollowLog {
                job: job.0,
                task,
                stdout_offset,
                stderr_offset,
                stop: false,
            }),
            Work::End(end) => Message::Goodbye(v1::Goodbye {
                code: end.code().to_owned(),
                detail: String::new(),
            }),
        };
        self.send(message).await
    }

    fn welcome(&self, stop: &[TaskRef]) -> v1::Welcome {
        let leases = self.server.liveness.config();
        v1::Welcome {
            epoch: self.epoch,
            heartbeat_ms: leases.heartbeat_ms(),
            lease_ttl_ms: leases.ttl_ms,
            server_id: self.server.id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            stop: held_tasks(stop),
        }
    }

    async fn dispatch(&self, runs: Vec<(TaskRun, Bytes)>) -> Result<(), ()> {
        let mut message = v1::Dispatch::default();
        let mut size = 0;
        for (run, spec) in runs {
            let Some(payloads) = self.server.log.payloads(run.job, run.first, run.len).await else {
                // The job was forgotten between the decision and now: nobody waits for it.
                continue;
            };
            let mut group = begin_group(&mut message, run.job, &spec);
            for (task, payload) in (run.first..).zip(payloads) {
                size += payload.len() + ITEM_BYTES;
                group.tasks.push(v1::TaskItem {
                    task,
                    attempt: run.attempt,
                    payload,
                });
                if size >= MAX_DISPATCH_BYTES {
                    message.groups.push(std::mem::take(&mut group));
                    self.send(Message::Dispatch(std::mem::take(&mut message)))
                        .await?;
                    size = 0;
                    group = begin_group(&mut message, run.job, &spec);
                }
            }
            message.groups.push(group);
        }
        if message.groups.is_empty() {
            Ok(())
        } else {
            self.send(Message::Dispatch(message)).await
        }
    }

    async fn send(&self, message: Message) -> Result<(), ()> {
        let message = v1::ServerMessage {
            message: Some(message),
        };
        self.ready.send(Ok(message)).await.map_err(|_| {
            tracing::debug!(node = %self.node, "the session's connection is gone");
        })
    }
}

/// An empty group; the header of its job goes into the message once.
fn begin_group(message: &mut v1::Dispatch, job: JobId, spec: &Bytes) -> v1::TaskGroup {
    if message.jobs.last().is_none_or(|header| header.job != job.0) {
        message.jobs.push(v1::JobHeader {
            job: job.0,
            spec: spec.clone(),
        });
    }
    v1::TaskGroup {
        job: job.0,
        tasks: Vec::new(),
    }
}

/// Task attempts by job, as the wire has them.
pub(super) fn held_tasks(tasks: &[TaskRef]) -> Vec<v1::HeldTasks> {
    let mut by_job: BTreeMap<JobId, v1::HeldTasks> = BTreeMap::new();
    for at in tasks {
        let held = by_job.entry(at.job).or_insert_with(|| v1::HeldTasks {
            job: at.job.0,
            ..Default::default()
        });
        held.tasks.push(at.task);
        held.attempts.push(at.attempt);
    }
    by_job.into_values().collect()
}

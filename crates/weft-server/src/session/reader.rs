//! From the agent's messages to the dispatcher.

use std::sync::Arc;

use tonic::{Status, Streaming};
use weft_core::dispatch::{Outcome, TaskRef, TaskResult};
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_proto::v1::server_message::Message as Answer;
use weft_types::{JobId, NodeId, Reason};

use super::service::offered;
use crate::dispatch::{NodeReport, Report};
use crate::liveness::Beat;
use crate::services::port_errors;
use crate::services::reports::{Reports, take_loads};
use crate::services::sessions::Ready;
use crate::state::Server;

/// The most task attempts one message may name.
const MAX_NAMED_TASKS: usize = 1_000_000;

/// Reads what an agent sends until it is gone or says something impossible.
pub(super) struct Reader {
    pub(super) server: Arc<Server>,
    pub(super) node: NodeId,
    pub(super) epoch: u64,
    pub(super) ready: Ready,
    pub(super) units: Arc<Reports>,
}

impl Reader {
    pub(super) async fn run(self, mut messages: Streaming<v1::AgentMessage>) {
        loop {
            let message = match messages.message().await {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(node = %self.node, %status, "a session broke off");
                    break;
                }
            };
            if let Err(status) = self.take(message).await {
                tracing::warn!(node = %self.node, %status, "a session was ended");
                let _ = self.ready.send(Err(status)).await;
                break;
            }
        }
        self.server.nodes.session_closed(&self.node, self.epoch);
        let services = &self.server.services;
        services.sessions.closed(&self.node, self.epoch);
        services.port_errors.closed(&self.node, self.epoch);
    }

    async fn take(&self, message: v1::AgentMessage) -> Result<(), Status> {
        match message.message {
            None => Ok(()),
            Some(Message::Heartbeat(beat)) => self.heartbeat(&beat),
            Some(Message::Results(batch)) => {
                self.report(NodeReport::Results(reports(batch)?)).await
            }
            Some(Message::Started(started)) => {
                self.report(NodeReport::Started(task_refs(&started.tasks)?))
                    .await
            }
            Some(Message::Handback(handback)) => {
                let tasks = task_refs(&handback.tasks)?;
                self.report(NodeReport::Handback {
                    tasks,
                    reason: reason(handback.reason),
                })
                .await
            }
            Some(Message::Log(chunk)) => {
                self.server.follows.chunk(&self.node, chunk);
                Ok(())
            }
            Some(Message::Renew(request)) => self.renew(&request).await,
            Some(Message::Units(reports)) => {
                self.not_fenced()?;
                self.units.take(&self.node, reports)
            }
            Some(Message::Loads(loads)) => {
                self.not_fenced()?;
                take_loads(&self.server, &self.node, loads)
            }
            Some(Message::Ports(errors)) => {
                self.not_fenced()?;
                port_errors::take(&self.server, &self.node, self.epoch, errors)
            }
            Some(Message::Offer(offer)) => {
                self.not_fenced()?;
                self.offers(offer).await
            }
            Some(Message::Hello(_)) => {
                Err(Status::invalid_argument("hello: a session has only one"))
            }
        }
    }

    fn heartbeat(&self, beat: &v1::Heartbeat) -> Result<(), Status> {
        match self.server.liveness.heartbeat(&self.node, self.epoch) {
            Beat::Renewed => {
                self.server.nodes.heartbeat(&self.node, beat);
                let answer = v1::Beat {
                    sent_ms: beat.sent_ms,
                };
                let message = v1::ServerMessage {
                    message: Some(Answer::Beat(answer)),
                };
                // Never waits: behind a slow connection the next heartbeat must still be read.
                let _ = self.ready.try_send(Ok(message));
                Ok(())
            }
            Beat::Fenced => Err(fenced()),
        }
    }

    /// Whether this session still speaks for its node.
    fn not_fenced(&self) -> Result<(), Status> {
        if self.server.liveness.epoch(&self.node) == Some(self.epoch) {
            Ok(())
        } else {
            Err(fenced())
        }
    }

    /// The node has found another backend, or lost one: whoever waits for that is placed.
    async fn offers(&self, offer: v1::Offer) -> Result<(), Status> {
        let (capacity, missing) = offered(&offer.capacity.unwrap_or_default())?;
        let nodes = &self.server.nodes;
        nodes.offers(&self.node, capacity.clone(), missing);
        self.report(NodeReport::Offers(Box::new(capacity))).await
    }

    async fn answer(&self, message: Answer) -> Result<(), Status> {
        let message = v1::ServerMessage {
            message: Some(message),
        };
        self.ready
            .send(Ok(message))
            .await
            .map_err(|_| Status::cancelled("the agent is gone"))
    }

    async fn report(&self, report: NodeReport) -> Result<(), Status> {
        let sent = self
            .server
            .dispatcher
            .node(&self.node, self.epoch, report)
            .await;
        sent.map_err(|error| Status::unavailable(error.to_string()))
    }

    async fn renew(&self, request: &v1::RenewRequest) -> Result<(), Status> {
        let answer = match self.server.nodes.renew(&self.node, &request.csr).await {
            Ok(certificate) => v1::RenewResponse {
                certificate: certificate.der().to_vec().into(),
                error: String::new(),
            },
            Err(error) => v1::RenewResponse {
                certificate: Default::default(),
                error: error.to_string(),
            },
        };
        self.answer(Answer::Renewed(answer)).await
    }
}

fn fenced() -> Status {
    Status::failed_precondition("the lease of this session has ended; open another")
}

fn reason(code: u32) -> Option<Reason> {
    u8::try_from(code).ok().and_then(Reason::from_code)
}

fn reports(batch: v1::ResultBatch) -> Result<Vec<Report>, Status> {
    let count = batch
        .groups
        .iter()
        .map(|group| group.results.len())
        .sum::<usize>();
    if count > MAX_NAMED_TASKS {
        return Err(Status::invalid_argument(format!(
            "results: {count} in one message"
        )));
    }
    let mut reports = Vec::with_capacity(count);
    for group in batch.groups {
        for item in group.results {
            let outcome = match item.reason {
                0 => Outcome::Completed,
                // A reason that a newer agent knows and this server does not.
                code => Outcome::Failed(reason(code).unwrap_or(Reason::RuntimeError)),
            };
            let at = TaskRef {
                job: JobId(group.job),
                task: item.task,
                attempt: item.attempt,
            };
            reports.push(Report {
                result: TaskResult {
                    at,
                    outcome,
                    run_us: item.run_us,
                },
                outcome: item.outcome,
            });
        }
    }
    Ok(reports)
}

/// Task attempts as the machine has them.
pub(super) fn task_refs(held: &[v1::HeldTasks]) -> Result<Vec<TaskRef>, Status> {
    let count = held.iter().map(|group| group.tasks.len()).sum::<usize>();
    if count > MAX_NAMED_TASKS {
        return Err(Status::invalid_argument(format!(
            "held tasks: {count} in one message"
        )));
    }
    let mut refs = Vec::with_capacity(count);
    for group in held {
        if group.tasks.len() != group.attempts.len() {
            return Err(Status::invalid_argument(
                "held tasks: as many attempts as tasks are needed",
            ));
        }
        let job = JobId(group.job);
        refs.extend(
            group
                .tasks
                .iter()
                .zip(&group.attempts)
                .map(|(&task, &attempt)| TaskRef { job, task, attempt }),
        );
    }
    Ok(refs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_unequal_length_are_refused() {
        let held = [v1::HeldTasks {
            job: 1,
            tasks: vec![1, 2],
            attempts: vec![1],
        }];
        assert_eq!(
            task_refs(&held).unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
    }

    #[test]
    fn an_unknown_reason_is_still_a_failure() {
        let item = v1::ResultItem {
            task: 0,
            attempt: 1,
            reason: 4_000,
            ..Default::default()
        };
        let batch = v1::ResultBatch {
            groups: vec![v1::ResultGroup {
                job: 1,
                results: vec![item],
            }],
        };
        let reports = reports(batch).unwrap();
        assert_eq!(
            reports[0].result.outcome,
            Outcome::Failed(Reason::RuntimeError)
        );
    }
}

//! What the server has to be told: results until it acknowledges them, starts, tasks given back.

use std::collections::{BTreeMap, VecDeque};

use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_types::Reason;

use super::TaskId;
use super::table::{Held, Phase, Table};

/// The most results, and about how many bytes of them, in one message.
const MAX_RESULTS_A_MESSAGE: usize = 2_048;
const MAX_RESULT_BYTES: usize = 4 << 20;

/// What waits to be sent over the session.
#[derive(Default)]
pub(super) struct Outgoing {
    /// Done and not sent over this session.
    results: VecDeque<TaskId>,
    /// Grows with each look for results that were not acknowledged.
    round: u64,
    started: Vec<(TaskId, u32)>,
    handbacks: Vec<(TaskId, u32, Option<Reason>)>,
}

impl Outgoing {
    pub(super) fn done(&mut self, id: TaskId) {
        self.results.push_back(id);
    }

    pub(super) fn started(&mut self, id: TaskId, attempt: u32) {
        self.started.push((id, attempt));
    }

    pub(super) fn hand_back(&mut self, id: TaskId, attempt: u32, reason: Option<Reason>) {
        self.handbacks.push((id, attempt, reason));
    }

    pub(super) fn is_urgent(&self) -> bool {
        !self.started.is_empty() || !self.handbacks.is_empty()
    }

    fn next_started(&mut self) -> Option<Message> {
        (!self.started.is_empty()).then(|| {
            let started = std::mem::take(&mut self.started);
            Message::Started(v1::Started {
                tasks: by_job(started.into_iter()),
            })
        })
    }

    fn next_handback(&mut self) -> Option<Message> {
        let reason = self.handbacks.first()?.2;
        let (same, others) = self
            .handbacks
            .drain(..)
            .partition::<Vec<_>, _>(|(_, _, why)| *why == reason);
        self.handbacks = others;
        let detail = match reason {
            Some(_) => "it needs more than this node offers in all",
            None => "",
        };
        Some(Message::Handback(v1::Handback {
            tasks: by_job(same.into_iter().map(|(id, attempt, _)| (id, attempt))),
            reason: reason.map_or(0, |reason| reason.code().into()),
            detail: detail.to_owned(),
        }))
    }
}

impl Table {
    pub(super) fn next_message(&mut self) -> Option<Message> {
        self.out
            .next_started()
            .or_else(|| self.out.next_handback())
            .or_else(|| self.results().map(Message::Results))
    }

    pub(super) fn all_held(&self) -> Vec<v1::HeldTasks> {
        by_job(self.held.iter().map(|(id, held)| (*id, held.attempt)))
    }

    /// The server asks for a task that is held already: if it is done, its result was lost.
    pub(super) fn resend(&mut self, id: TaskId) {
        if let Some(Held {
            phase: Phase::Done { sent, .. },
            ..
        }) = self.held.get_mut(&id)
            && sent.take().is_some()
        {
            self.out.results.push_back(id);
        }
    }

    /// Everything that is done. What a session that broke off was to be told besides does not
    /// matter to the next: the greeting says what is held.
    pub(super) fn resend_all(&mut self) {
        self.out = Outgoing::default();
        self.resend_sent_before(u64::MAX);
        let unsent = self
            .held
            .iter()
            .filter(|(_, held)| matches!(held.phase, Phase::Done { sent: None, .. }));
        let mut unsent: Vec<TaskId> = unsent.map(|(id, _)| *id).collect();
        unsent.sort_unstable();
        self.out.results = unsent.into();
    }

    /// What was sent before the round that ends now and is still not acknowledged; whether there
    /// is any.
    pub(super) fn resend_unacknowledged(&mut self) -> bool {
        let late = self.resend_sent_before(self.out.round);
        self.out.round += 1;
        let is_any = !late.is_empty();
        self.out.results.extend(late);
        is_any
    }

    fn resend_sent_before(&mut self, end: u64) -> Vec<TaskId> {
        let mut late = Vec::new();
        for (id, held) in &mut self.held {
            if let Phase::Done { sent, .. } = &mut held.phase
                && sent.is_some_and(|round| round < end)
            {
                *sent = None;
                late.push(*id);
            }
        }
        late.sort_unstable();
        late
    }

    fn results(&mut self) -> Option<v1::ResultBatch> {
        let mut groups: Vec<v1::ResultGroup> = Vec::new();
        let (mut count, mut size) = (0, 0);
        while count < MAX_RESULTS_A_MESSAGE
            && size < MAX_RESULT_BYTES
            && let Some(id) = self.out.results.pop_front()
        {
            let Some(Held {
                attempt,
                phase: Phase::Done { report, sent },
            }) = self.held.get_mut(&id)
            else {
                continue;
            };
            count += 1;
            size += report.outcome.len();
            *sent = Some(self.out.round);
            let item = v1::ResultItem {
                task: id.1,
                attempt: *attempt,
                reason: report.reason,
                run_us: report.run_us,
                outcome: report.outcome.clone(),
            };
            match groups.last_mut() {
                Some(group) if group.job == id.0 => group.results.push(item),
                _ => groups.push(v1::ResultGroup {
                    job: id.0,
                    results: vec![item],
                }),
            }
        }
        (count > 0).then_some(v1::ResultBatch { groups })
    }
}

fn by_job(tasks: impl Iterator<Item = (TaskId, u32)>) -> Vec<v1::HeldTasks> {
    let mut groups: BTreeMap<u64, v1::HeldTasks> = BTreeMap::new();
    for ((job, task), attempt) in tasks {
        let group = groups.entry(job).or_insert_with(|| v1::HeldTasks {
            job,
            ..Default::default()
        });
        group.tasks.push(task);
        group.attempts.push(attempt);
    }
    groups.into_values().collect()
}

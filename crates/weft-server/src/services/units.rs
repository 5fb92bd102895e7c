//! From assignments to the nodes that carry them out: one task a session.
//!
//! It compares what the store has for the node with what the node was sent, so that it matters
//! neither which changes it saw nor how many.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use weft_core::service::record::{Assignment, Intent, UnitStatus};
use weft_proto::v1;
use weft_proto::v1::server_message::Message;
use weft_types::{NodeId, Reason, UnitId, WorkloadState};

use super::cache::Kept;
use super::reports::Reports;
use super::resolve;
use super::sessions::Ready;
use crate::state::Server;

/// What of units a message has at most, unless one unit alone has more.
const MAX_UNITS_BYTES: usize = 8 << 20;
/// The most that one unit may have with its secrets: a message has room for twice that.
const MAX_UNIT_BYTES: usize = 32 << 20;

/// Keeps one node's units as they should be, as long as its session lasts.
pub struct Push {
    /// The server.
    pub server: Arc<Server>,
    /// Which node.
    pub node: NodeId,
    /// The way to it.
    pub ready: Ready,
    /// How its units are.
    pub reports: Arc<Reports>,
}

/// What a node is to be told.
#[derive(Default)]
struct News {
    apply: Vec<Kept<Assignment>>,
    remove: Vec<UnitId>,
}

impl Push {
    /// Runs until the session ends. The first message is complete.
    pub async fn run(self) {
        let services = &self.server.services;
        let mut records = services.workloads.subscribe();
        let mut table = services.endpoints.subscribe();
        let mut sent: BTreeMap<UnitId, u64> = BTreeMap::new();
        let mut is_first = true;
        if self.caught_up().await.is_err() {
            return;
        }
        loop {
            records.mark_unchanged();
            let news = self.news(&sent);
            // No request reaches a unit that was told to stop: its place in the table goes first.
            if news
                .apply
                .iter()
                .any(|kept| kept.value.intent == Intent::Stop)
            {
                services.endpoints.refresh(&self.server);
            }
            if is_first || table.has_changed().unwrap_or(false) {
                let current = Arc::clone(&table.borrow_and_update());
                if self
                    .send(Message::Endpoints((*current).clone()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            if self.send_units(news, &mut sent, is_first).await.is_err() {
                return;
            }
            is_first = false;
            tokio::select! {
                changed = records.changed() => if changed.is_err() { return },
                changed = table.changed() => {
                    if changed.is_err() { return }
                    table.mark_changed();
                }
                () = self.ready.closed() => return,
                () = self.server.stopping.cancelled() => return,
            }
        }
    }

    /// Waits until what was in the store when the node registered is known here: a unit that was to
    /// stop by then is not told to run.
    async fn caught_up(&self) -> Result<(), ()> {
        let server = &self.server;
        match server.records.list_raw("leader/").await {
            Ok((_, revision)) => {
                server.services.workloads.reached(revision).await;
                Ok(())
            }
            Err(error) => {
                tracing::warn!(node = %self.node, %error, "units could not be read");
                Err(())
            }
        }
    }

    /// How what the store has differs from what was sent.
    fn news(&self, sent: &BTreeMap<UnitId, u64>) -> News {
        self.server.services.workloads.read(|tables| {
            let mut news = News::default();
            for kept in tables.units_of_node(&self.node) {
                if sent.get(&kept.value.unit) != Some(&kept.revision) {
                    news.apply.push(kept.clone());
                }
            }
            let is_gone = |unit: &&UnitId| {
                tables
                    .assignment(**unit)
                    .is_none_or(|kept| kept.value.node != self.node)
            };
            news.remove = sent.keys().filter(is_gone).copied().collect();
            news
        })
    }

    /// Sends what is new, in messages of a bounded size; a complete list is complete with the last.
    async fn send_units(
        &self,
        news: News,
        sent: &mut BTreeMap<UnitId, u64>,
        complete: bool,
    ) -> Result<(), ()> {
        let mut message = v1::Units::default();
        let mut bytes = 0;
        let mut before = Vec::new();
        for kept in news.apply {
            let unit = kept.value.unit;
            let Some(assignment) = self.encode(&kept.value) else {
                continue;
            };
            let size = assignment.encoded_len();
            if bytes > 0 && bytes + size > MAX_UNITS_BYTES {
                bytes = 0;
                self.send(Message::Units(std::mem::take(&mut message)))
                    .await?;
            }
            bytes += size;
            message.apply.push(assignment);
            before.push(unit);
            sent.insert(unit, kept.revision);
        }
        for unit in news.remove {
            message.remove.push(unit.to_string());
            sent.remove(&unit);
        }
        if complete {
            message.complete = true;
            let earlier = before.len() - message.apply.len();
            message.kept = before[..earlier].iter().map(UnitId::to_string).collect();
        } else if message.apply.is_empty() && message.remove.is_empty() {
            return Ok(());
        }
        self.send(Message::Units(message)).await
    }

    /// An assignment with its secrets; `None` while they cannot be had, which is on record then.
    fn encode(&self, assignment: &Assignment) -> Option<v1::UnitAssignment> {
        let services = &self.server.services;
        let (secrets, status) = services.workloads.read(|tables| {
            let secrets = resolve::resolve(tables, &services.sealer, &assignment.spec);
            (secrets, tables.status(assignment.unit).cloned())
        });
        let secrets = match secrets {
            Ok(secrets) => Some(secrets),
            // What is there already goes on, or ends, without them.
            Err(_) if assignment.intent == Intent::Stop => None,
            Err(_) if status.is_some_and(|kept| kept.value.step != SECRETS_STEP) => None,
            Err(detail) => {
                self.reports
                    .note_own(lacks_secret(assignment, detail, &self.server));
                return None;
            }
        };
        let stored = Assignment {
            explanation: None,
            ..assignment.clone()
        };
        let json = serde_json::to_vec(&stored).ok()?;
        let encoded = v1::UnitAssignment {
            assignment: json.into(),
            secrets,
            may_be_privileged: services
                .allow_privileged
                .contains(&assignment.spec.namespace),
        };
        let bytes = encoded.encoded_len();
        if bytes > MAX_UNIT_BYTES {
            let detail = format!(
                "with its secrets it has {bytes} bytes, more than the {MAX_UNIT_BYTES} that a node is sent; name fewer secrets"
            );
            let status = lacks_secret(assignment, detail, &self.server);
            self.reports.note_own(status);
            return None;
        }
        Some(encoded)
    }

    async fn send(&self, message: Message) -> Result<(), ()> {
        let message = v1::ServerMessage {
            message: Some(message),
        };
        self.ready.send(Ok(message)).await.map_err(|_| ())
    }
}

/// The step of a unit that waits for a secret on the server.
const SECRETS_STEP: &str = "secrets";

fn lacks_secret(assignment: &Assignment, detail: String, server: &Server) -> UnitStatus {
    let now_ms = server.clock.wall().as_millis();
    let node = assignment.node.clone();
    UnitStatus {
        step: SECRETS_STEP.to_owned(),
        reason: Some(Reason::InvalidSpec),
        detail,
        ..UnitStatus::new(assignment.unit, node, WorkloadState::Pending, now_ms)
    }
}

//! All nodes in memory, their records in the store.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use weft_core::Epoch;
use weft_core::liveness::{Cause, Input};
use weft_pki::Authority;
use weft_placement::{Availability, ClosedReason};
use weft_proto::v1;
use weft_types::{NodeCapacity, NodeId, NodeState, Timestamp};

use super::record::NodeRecord;
use crate::Error;
use crate::clock::Clock;
use crate::dispatch::Dispatcher;
use crate::events::Events;
use crate::liveness::{Listener, Liveness};
use crate::records::Records;

/// Records of different nodes are written at the same time, nearly always.
const TURNS: usize = 64;

/// What a node says of itself when it opens a session.
#[derive(Debug, Clone)]
pub struct SessionFacts {
    /// What it offers.
    pub capacity: NodeCapacity,
    /// Its host name.
    pub hostname: String,
    /// The version of its agent.
    pub version: String,
    /// What was probed there and does not work.
    pub missing: Vec<String>,
}

/// What is known of a node beside its record.
#[derive(Debug, Clone, Default)]
pub(super) struct Live {
    pub(super) missing: Vec<String>,
    pub(super) last_beat: v1::Heartbeat,
    pub(super) last_seen: Option<Timestamp>,
    pub(super) detail: Option<String>,
    /// Whether somebody is about to write its record.
    is_save_due: bool,
}

/// A node that asks to come back after its certificate expired.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) code: String,
    pub(super) approved: bool,
    pub(super) asked_at: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) record: NodeRecord,
    pub(super) live: Live,
    pub(super) pending: Option<Pending>,
}

/// The nodes of the cluster; cloning shares them.
#[derive(Clone)]
pub struct Nodes {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) entries: Mutex<BTreeMap<NodeId, Entry>>,
    pub(super) records: Records,
    pub(super) events: Events,
    pub(super) authority: Arc<Authority>,
    pub(super) certificate_ttl: Duration,
    pub(super) clock: Clock,
    pub(super) dispatcher: Dispatcher,
    /// Told whenever a node came, went, or changed its state.
    pub(super) changed: watch::Sender<()>,
    /// Whose turn it is to write the record of a node: of two changes the later one has to stay,
    /// and what was removed must not come back.
    turns: [tokio::sync::Mutex<()>; TURNS],
}

impl Shared {
    /// What to hold while the record of a node is written or removed.
    pub(super) fn turn(&self, node: &NodeId) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        &self.turns[hasher.finish() as usize % TURNS]
    }
}

impl Nodes {
    /// Reads the records of all nodes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn load(
        records: Records,
        events: Events,
        authority: Arc<Authority>,
        certificate_ttl: Duration,
        clock: Clock,
        dispatcher: Dispatcher,
    ) -> Result<Self, Error> {
        let stored: Vec<(String, NodeRecord)> = records.list("nodes/").await?;
        let entries = stored
            .into_iter()
            .map(|(_, record)| {
                (
                    record.id.clone(),
                    Entry {
                        record,
                        live: Live::default(),
                        pending: None,
                    },
                )
            })
            .collect();
        let shared = Shared {
            entries: Mutex::new(entries),
            records,
            events,
            authority,
            certificate_ttl,
            clock,
            dispatcher,
            changed: watch::channel(()).0,
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// The records of all nodes, in the order of their ids.
    pub fn all(&self) -> Vec<NodeRecord> {
        self.shared
            .entries
            .lock()
            .values()
            .map(|entry| entry.record.clone())
            .collect()
    }

    /// Resolves whenever a node came, went, or changed its state.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// Whether a node is part of the cluster.
    pub fn is_member(&self, node: &NodeId) -> bool {
        self.shared.entries.lock().contains_key(node)
    }

    /// What a node offers, as it said last.
    pub fn capacity(&self, node: &NodeId) -> Option<NodeCapacity> {
        let entries = self.shared.entries.lock();
        entries.get(node).map(|entry| entry.record.capacity.clone())
    }

    /// The node that an id or a unique prefix of one means.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn resolve(&self, wanted: &str) -> Result<NodeId, Error> {
        let entries = self.shared.entries.lock();
        let mut matches = entries.keys().filter(|id| id.as_str().starts_with(wanted));
        if let Some(exact) = entries.keys().find(|id| id.as_str() == wanted) {
            return Ok(exact.clone());
        }
        match (matches.next(), matches.next()) {
            (Some(one), None) => Ok(one.clone()),
            (None, _) => Err(Error::NotFound {
                what: "node",
                id: wanted.to_owned(),
            }),
            (Some(_), Some(_)) => Err(Error::Ambiguous {
                what: "node",
                id: wanted.to_owned(),
            }),
        }
    }

    /// A node opened a session and says what it offers.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub async fn session_opened(&self, node: &NodeId, facts: SessionFacts) -> Result<(), Error> {
        let now = self.shared.clock.wall();
        let same = {
            let mut entries = self.shared.entries.lock();
            let Some(entry) = entries.get_mut(node) else {
                return Err(Error::NotFound {
                    what: "node",
                    id: node.to_string(),
                });
            };
            entry.live = Live {
                missing: facts.missing,
                last_seen: Some(now),
                ..Live::default()
            };
            entry.pending = None;
            let record = &mut entry.record;
            let same = record.capacity == facts.capacity
                && record.hostname == facts.hostname
                && record.version == facts.version;
            record.capacity = facts.capacity;
            record.hostname = facts.hostname;
            record.version = facts.version;
            same
        };
        self.shared.changed.send_replace(());
        if same {
            return Ok(());
        }
        self.save(node).await
    }

    /// A node offers something else than before. It is written behind: heartbeats come after it,
    /// and in its next session the node says it again.
    pub fn offers(&self, node: &NodeId, capacity: NodeCapacity, missing: Vec<String>) {
        let is_save_due = {
            let mut entries = self.shared.entries.lock();
            let Some(entry) = entries.get_mut(node) else {
                return;
            };
            entry.live.missing = missing;
            if entry.record.capacity == capacity {
                return;
            }
            entry.record.capacity = capacity;
            std::mem::replace(&mut entry.live.is_save_due, true)
        };
        self.shared.changed.send_replace(());
        if is_save_due {
            return;
        }
        let (nodes, node) = (self.clone(), node.clone());
        tokio::spawn(async move {
            if let Err(error) = nodes.save(&node).await {
                tracing::warn!(%node, %error, "what a node offers could not be written");
            }
        });
    }

    /// A session's connection is gone; the lease decides what follows.
    pub fn session_closed(&self, node: &NodeId, epoch: Epoch) {
        tracing::debug!(%node, epoch, "session closed");
    }

    /// Takes in what a heartbeat says.
    pub fn heartbeat(&self, node: &NodeId, beat: &v1::Heartbeat) {
        let now = self.shared.clock.wall();
        if let Some(entry) = self.shared.entries.lock().get_mut(node) {
            entry.live.last_beat = *beat;
            entry.live.last_seen = Some(now);
        }
    }

    /// Cordons, drains or reopens a node.
    ///
    /// # Errors
    /// When the node is not known or the store cannot be written.
    pub async fn set_mode(
        &self,
        liveness: &Liveness,
        node: &NodeId,
        cordoned: bool,
        draining: bool,
    ) -> Result<(), Error> {
        self.change(node, |record| {
            record.cordoned = cordoned;
            record.draining = draining;
        })?;
        self.save(node).await?;
        let node = node.clone();
        liveness.step(match (draining, cordoned) {
            (true, _) => Input::Drain { node },
            (false, true) => Input::Cordon { node },
            (false, false) => Input::Reopen { node },
        });
        Ok(())
    }

    /// Removes a node for good.
    ///
    /// # Errors
    /// When the node is not known or the store cannot be written.
    pub async fn remove(&self, liveness: &Liveness, node: &NodeId) -> Result<(), Error> {
        if !self.is_member(node) {
            return Err(Error::NotFound {
                what: "node",
                id: node.to_string(),
            });
        }
        let turn = self.shared.turn(node).lock().await;
        // The store first: a node that is still in it after a crash is still a member.
        self.shared.records.delete(&NodeRecord::key(node)).await?;
        self.shared.entries.lock().remove(node);
        drop(turn);
        liveness.step(Input::Remove { node: node.clone() });
        self.shared.changed.send_replace(());
        self.shared.dispatcher.removed(node);
        self.shared.events.emit(
            self.shared.clock.wall(),
            "node.removed",
            node.as_str(),
            json!({}),
        );
        Ok(())
    }

    pub(super) fn change(
        &self,
        node: &NodeId,
        change: impl FnOnce(&mut NodeRecord),
    ) -> Result<(), Error> {
        let mut entries = self.shared.entries.lock();
        let entry = entries.get_mut(node).ok_or_else(|| Error::NotFound {
            what: "node",
            id: node.to_string(),
        })?;
        change(&mut entry.record);
        Ok(())
    }

    /// Writes the record of a node as it is when its turn comes.
    ///
    /// # Errors
    /// When it was removed meanwhile, or the store cannot be written.
    pub(super) async fn save(&self, node: &NodeId) -> Result<(), Error> {
        let _turn = self.shared.turn(node).lock().await;
        let record = {
            let mut entries = self.shared.entries.lock();
            let entry = entries.get_mut(node).ok_or_else(|| Error::NotFound {
                what: "node",
                id: node.to_string(),
            })?;
            entry.live.is_save_due = false;
            entry.record.clone()
        };
        self.shared
            .records
            .put(&NodeRecord::key(node), &record)
            .await
    }
}

/// Whether a node in this state takes work.
pub fn availability(state: NodeState) -> Availability {
    match state {
        NodeState::Healthy => Availability::Open,
        NodeState::Suspect => Availability::Closed(ClosedReason::Suspect),
        NodeState::Offline => Availability::Closed(ClosedReason::Offline),
        NodeState::Cordoned => Availability::Closed(ClosedReason::Cordoned),
        NodeState::Draining => Availability::Closed(ClosedReason::Draining),
    }
}

impl Listener for Nodes {
    fn state_changed(&self, node: &NodeId, from: Option<NodeState>, to: NodeState, cause: Cause) {
        let now = self.shared.clock.wall();
        if let Some(entry) = self.shared.entries.lock().get_mut(node) {
            entry.live.detail = (to != NodeState::Healthy).then(|| cause.sentence().to_owned());
        }
        let data = json!({
            "from": from.map(NodeState::as_str), "to": to.as_str(), "detail": cause.sentence(),
        });
        self.shared
            .events
            .emit(now, &format!("node.{to}"), node.as_str(), data);
        self.shared.dispatcher.availability(node, availability(to));
        self.shared.changed.send_replace(());
    }

    fn lease_lost(&self, node: &NodeId, epoch: Epoch) {
        self.shared.dispatcher.lease_lost(node, epoch);
    }
}

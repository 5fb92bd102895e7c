//! From what nodes report of their units to statuses in the store: coalesced, and written only
//! when something changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;
use tonic::Status;
use weft_core::Epoch;
use weft_core::service::record::{Assignment, UnitLoad, UnitStatus};
use weft_proto::v1;
use weft_store::{Compare, Txn};
use weft_types::{NodeId, UnitId, WorkloadState};

use super::cache::Tables;
use crate::Error;
use crate::records::put_json;
use crate::state::Server;

/// The most units one report may name.
const MAX_REPORTED: usize = 20_000;
/// The most statuses of one transaction.
const MAX_WRITTEN_AT_ONCE: usize = 256;
/// How often a status is written of which only the words changed.
const TEXT_INTERVAL: Duration = Duration::from_secs(1);
/// After a failed write, the wait before the next.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// The most of what a node says that is kept.
const MAX_DETAIL_CHARS: usize = 4_096;
const MAX_EVIDENCE_LINES: usize = 50;
const MAX_EVIDENCE_CHARS: usize = 1_024;
const MAX_PARTS: usize = 256;

/// The reports of one session that wait to be written: one of each unit, the newest.
#[derive(Default)]
pub struct Reports {
    pending: Mutex<BTreeMap<UnitId, UnitStatus>>,
    news: Notify,
}

impl Reports {
    /// Takes in what a node reports.
    ///
    /// # Errors
    /// When it is not a report of a node's own units.
    pub fn take(&self, node: &NodeId, message: v1::UnitReports) -> Result<(), Status> {
        let count = message.statuses.len();
        if count > MAX_REPORTED {
            return Err(Status::invalid_argument(format!(
                "units: {count} in one message, more than {MAX_REPORTED}"
            )));
        }
        let mut statuses = Vec::with_capacity(count);
        for bytes in &message.statuses {
            let status: UnitStatus = serde_json::from_slice(bytes)
                .map_err(|error| Status::invalid_argument(format!("units: {error}")))?;
            if status.node != *node {
                return Err(Status::permission_denied(format!(
                    "units: {} is reported as being on {}, not on {node}",
                    status.unit, status.node
                )));
            }
            statuses.push(bounded(status));
        }
        let mut pending = self.pending.lock();
        pending.extend(statuses.into_iter().map(|status| (status.unit, status)));
        drop(pending);
        self.news.notify_one();
        Ok(())
    }

    /// A status that the server itself has found; what the node says beats it.
    pub fn note_own(&self, status: UnitStatus) {
        self.pending.lock().entry(status.unit).or_insert(status);
        self.news.notify_one();
    }

    /// Writes what comes in until the session ends.
    pub async fn write(self: Arc<Self>, server: Arc<Server>, node: NodeId, epoch: Epoch) {
        let mut texts: BTreeMap<UnitId, Instant> = BTreeMap::new();
        loop {
            let wait = match self.write_once(&server, &node, epoch, &mut texts).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(%node, %error, "how units are could not be written");
                    Some(RETRY_DELAY)
                }
            };
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
                () = server.stopping.cancelled() => return,
            }
        }
    }

    /// Writes what is due; tells how long the rest has to wait.
    async fn write_once(
        &self,
        server: &Server,
        node: &NodeId,
        epoch: Epoch,
        texts: &mut BTreeMap<UnitId, Instant>,
    ) -> Result<Option<Duration>, Error> {
        loop {
            // A session whose lease has ended has nothing to say any more.
            if server.liveness.epoch(node) != Some(epoch) {
                self.pending.lock().clear();
                return Ok(None);
            }
            let now = Instant::now();
            texts.retain(|_, at| now.duration_since(*at) < TEXT_INTERVAL);
            let batch = self.due(server, node, texts);
            if batch.is_empty() {
                let waits = !self.pending.lock().is_empty();
                return Ok(waits.then_some(TEXT_INTERVAL));
            }
            let mut txn = Txn::new();
            for (status, _) in &batch {
                txn = txn
                    .when(Compare::Exists(Assignment::key(status.unit)))
                    .then(put_json(&UnitStatus::key(status.unit), status)?);
            }
            let outcome = server.records.txn(txn).await;
            match &outcome {
                Ok(outcome) if outcome.succeeded => {
                    for (status, before) in &batch {
                        texts.insert(status.unit, now);
                        tell(server, status, before.as_deref());
                    }
                }
                // An assignment is gone, or the disk is full: all of it is looked at again.
                _ => self.put_back(batch),
            }
            let outcome = outcome?;
            server.services.workloads.reached(outcome.revision).await;
        }
    }

    /// What is worth writing now, with what was written before.
    fn due(&self, server: &Server, node: &NodeId, texts: &BTreeMap<UnitId, Instant>) -> Vec<Due> {
        let mut pending = self.pending.lock();
        server.services.workloads.read(|tables| {
            let mut due = Vec::new();
            pending.retain(|unit, status| {
                if due.len() >= MAX_WRITTEN_AT_ONCE {
                    return true;
                }
                match worth(tables, node, status) {
                    Worth::Nothing => false,
                    Worth::Text if texts.contains_key(unit) => true,
                    Worth::Text | Worth::News => {
                        let before = tables.status(*unit).map(|kept| Arc::clone(&kept.value));
                        due.push((status.clone(), before));
                        false
                    }
                }
            });
            due
        })
    }

    fn put_back(&self, batch: Vec<Due>) {
        let mut pending = self.pending.lock();
        for (status, _) in batch {
            pending.entry(status.unit).or_insert(status);
        }
    }
}

/// A status to write, and the one before.
type Due = (UnitStatus, Option<Arc<UnitStatus>>);

enum Worth {
    /// It is known, or nobody asked for the unit there.
    Nothing,
    /// Only the words changed.
    Text,
    /// Something changed.
    News,
}

fn worth(tables: &Tables, node: &NodeId, status: &UnitStatus) -> Worth {
    let assigned = tables.assignment(status.unit);
    if assigned.is_none_or(|kept| kept.value.node != *node) {
        return Worth::Nothing;
    }
    let Some(known) = tables.status(status.unit).map(|kept| &*kept.value) else {
        return Worth::News;
    };
    if known == status || (known.gone && !status.gone) {
        return Worth::Nothing;
    }
    let only_text = UnitStatus {
        detail: known.detail.clone(),
        evidence: known.evidence.clone(),
        ..status.clone()
    };
    if only_text == *known {
        Worth::Text
    } else {
        Worth::News
    }
}

fn bounded(mut status: UnitStatus) -> UnitStatus {
    shorten(&mut status.detail, MAX_DETAIL_CHARS);
    shorten(&mut status.step, MAX_EVIDENCE_CHARS);
    status.evidence.truncate(MAX_EVIDENCE_LINES);
    for line in &mut status.evidence {
        shorten(line, MAX_EVIDENCE_CHARS);
    }
    while status.parts.len() > MAX_PARTS {
        status.parts.pop_last();
    }
    status
}

fn shorten(text: &mut String, max_chars: usize) {
    if let Some((end, _)) = text.char_indices().nth(max_chars) {
        text.truncate(end);
    }
}

/// Tells people what became of a unit.
fn tell(server: &Server, status: &UnitStatus, before: Option<&UnitStatus>) {
    let was = |is: fn(&UnitStatus) -> bool| before.is_some_and(is);
    // What is given up is for the scheduler to tell, with what it does about it.
    let tries_again =
        |status: &UnitStatus| status.state == WorkloadState::Failed && !status.given_up;
    let kind = if status.ready && !was(|before| before.ready) {
        "service.unit-ready"
    } else if tries_again(status) && !before.is_some_and(tries_again) {
        "service.unit-restarting"
    } else if status.gone && !was(|before| before.gone) {
        "service.unit-gone"
    } else {
        return;
    };
    let data = json!({
        "workload": status.unit.workload, "node": status.node, "state": status.state,
        "reason": status.reason, "step": status.step, "detail": status.detail,
        "restarts": status.restarts,
    });
    let now = server.clock.wall();
    server
        .events
        .emit(now, kind, &status.unit.to_string(), data);
}

/// Takes in what a node measured.
///
/// # Errors
/// When a unit's id is malformed.
pub fn take_loads(server: &Server, node: &NodeId, loads: v1::UnitLoads) -> Result<(), Status> {
    if loads.loads.len() > MAX_REPORTED {
        return Err(Status::invalid_argument("loads: too many in one message"));
    }
    let mut measured = Vec::with_capacity(loads.loads.len());
    for load in loads.loads {
        let unit: UnitId = load
            .unit
            .parse()
            .map_err(|error| Status::invalid_argument(format!("loads.unit: {error}")))?;
        let of = UnitLoad {
            cpu_millicores: load.cpu_millicores,
            memory_bytes: load.memory_bytes,
            disk_bytes: load.disk_bytes,
            rx_bytes: load.rx_bytes,
            tx_bytes: load.tx_bytes,
            requests_per_1000s: load.requests_per_1000s,
        };
        measured.push((unit, of));
    }
    let services = &server.services;
    services.workloads.read(|tables| {
        measured.retain(|(unit, _)| {
            let kept = tables.assignment(*unit);
            kept.is_some_and(|kept| kept.value.node == *node)
        });
    });
    services
        .loads
        .note(measured.into_iter(), server.clock.steady());
    Ok(())
}

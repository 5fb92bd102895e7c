//! What the server is told of units: everything at a session's start, then what changes, the newest
//! only; and what they use.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;
use weft_core::service::record::UnitStatus;
use weft_proto::v1;
use weft_proto::v1::agent_message::Message;
use weft_types::UnitId;

/// The most statuses, and about how many bytes of them, in a message that is not the first.
const MAX_STATUSES: usize = 256;
/// Evidence is left out of a complete message beyond this size, in bytes.
const MAX_EVIDENCE_BYTES: usize = 4 << 20;

/// What waits to be sent.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Whether everything is known that a first message should say.
    is_settled: bool,
    /// The session has not been told everything yet.
    all: bool,
    units: BTreeSet<UnitId>,
    /// What was gone when it was forgotten, and has to be told all the same.
    last: Vec<UnitStatus>,
    loads: Option<v1::UnitLoads>,
    /// Published ports that are not served, and whether that has to be told.
    ports: v1::PortErrors,
    tell_ports: bool,
}

impl Outbox {
    /// A session began.
    pub(super) fn begin(&self) {
        let mut state = self.state.lock();
        state.all = true;
        state.units.clear();
        state.last.clear();
        state.loads = None;
        state.tell_ports = !state.ports.errors.is_empty();
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn settled(&self) {
        self.state.lock().is_settled = true;
        self.changed.notify_one();
    }

    pub(super) fn report(&self, unit: UnitId) {
        self.state.lock().units.insert(unit);
        self.changed.notify_one();
    }

    /// The last that is told of a unit, which is forgotten.
    pub(super) fn last_word(&self, status: UnitStatus) {
        let mut state = self.state.lock();
        // A complete message says that it is gone by leaving it out.
        if !state.all {
            state.last.push(status);
        }
        drop(state);
        self.changed.notify_one();
    }

    pub(super) fn loads(&self, loads: v1::UnitLoads) {
        self.state.lock().loads = Some(loads);
        self.changed.notify_one();
    }

    /// Published ports that are not served now, all of them.
    pub(super) fn ports(&self, ports: v1::PortErrors) {
        let mut state = self.state.lock();
        state.ports = ports;
        state.tell_ports = true;
        drop(state);
        self.changed.notify_one();
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn next(
        &self,
        status: impl Fn(&UnitId) -> Option<UnitStatus>,
        all: impl Fn() -> Vec<UnitStatus>,
    ) -> Option<Message> {
        let mut state = self.state.lock();
        if state.all {
            if !state.is_settled {
                return None;
            }
            state.all = false;
            state.units.clear();
            drop(state);
            return Some(reports(true, all()));
        }
        if std::mem::take(&mut state.tell_ports) {
            return Some(Message::Ports(state.ports.clone()));
        }
        if state.units.is_empty() && state.last.is_empty() {
            return state.loads.take().map(Message::Loads);
        }
        let mut statuses = std::mem::take(&mut state.last);
        while statuses.len() < MAX_STATUSES
            && let Some(unit) = state.units.pop_first()
        {
            statuses.extend(status(&unit));
        }
        drop(state);
        Some(reports(false, statuses))
    }
}

fn reports(complete: bool, mut statuses: Vec<UnitStatus>) -> Message {
    let mut evidence_bytes = 0;
    for status in &mut statuses {
        evidence_bytes += status.evidence.iter().map(String::len).sum::<usize>();
        if evidence_bytes > MAX_EVIDENCE_BYTES {
            status.evidence.clear();
        }
    }
    let statuses = statuses.iter().filter_map(|status| {
        let json = serde_json::to_vec(status);
        json.inspect_err(|error| tracing::error!(%error, "a status cannot be written"))
            .ok()
    });
    Message::Units(v1::UnitReports {
        complete,
        statuses: statuses.map(Into::into).collect(),
    })
}

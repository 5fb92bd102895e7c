//! Nodes as the API shows them.

use weft_api::{BreakerState, CertificateView, NodeView, UsageView, rfc3339};
use weft_pki::validity_at;
use weft_types::{NodeId, NodeState, Timestamp};

use super::registry::{Entry, Nodes};
use crate::liveness::Liveness;

impl Nodes {
    /// One node.
    pub fn view(&self, liveness: &Liveness, node: &NodeId) -> Option<NodeView> {
        let entry = self.shared.entries.lock().get(node).cloned()?;
        Some(self.entry_view(liveness, &entry))
    }

    /// All nodes in the order of their ids.
    pub fn views(&self, liveness: &Liveness) -> Vec<NodeView> {
        let entries: Vec<Entry> = self.shared.entries.lock().values().cloned().collect();
        entries
            .iter()
            .map(|entry| self.entry_view(liveness, entry))
            .collect()
    }

    fn entry_view(&self, liveness: &Liveness, entry: &Entry) -> NodeView {
        let Entry {
            record,
            live,
            pending,
        } = entry;
        let now = self.shared.clock.wall();
        let from = Timestamp(record.certificate_from_ms);
        let until = Timestamp(record.certificate_until_ms);
        let beat = &live.last_beat;
        NodeView {
            id: record.id.to_string(),
            state: liveness.state(&record.id).unwrap_or(NodeState::Offline),
            detail: live.detail.clone(),
            hostname: record.hostname.clone(),
            version: record.version.clone(),
            capacity: record.capacity.clone(),
            usage: UsageView {
                running: beat.running,
                held: beat.held,
                cpu_millicores: beat.used_cpu_millicores,
                memory_bytes: beat.used_memory_bytes,
                free_disk_bytes: beat.free_disk_bytes,
                ended: 0,
            },
            certificate: Some(CertificateView {
                expires_at: rfc3339(until),
                validity: validity_at(from, until, now),
            }),
            breaker: BreakerState::default(),
            epoch: liveness.epoch(&record.id).unwrap_or(0),
            joined_at: rfc3339(Timestamp(record.joined_at_ms)),
            last_seen_at: live.last_seen.map(rfc3339),
            missing: live.missing.clone(),
            approval_code: pending
                .as_ref()
                .filter(|pending| !pending.approved)
                .map(|pending| pending.code.clone()),
        }
    }
}

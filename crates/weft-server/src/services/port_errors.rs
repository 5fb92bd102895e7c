//! Published ports that nodes cannot serve: somebody else has the port there, most likely.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::json;
use tonic::Status;
use weft_core::Epoch;
use weft_proto::v1;
use weft_types::{NodeId, Reason, WorkloadId};

use super::apply::name_of;
use crate::state::Server;

/// The most ports that one node may complain of.
const MAX_ERRORS: usize = 65_536;
/// The most of what a node says that is kept.
const MAX_DETAIL_CHARS: usize = 1_024;

/// What nodes say of ports, by service and port.
type Complaints = BTreeMap<(WorkloadId, u32), String>;

/// The ports that nodes with open sessions do not serve now.
#[derive(Default)]
pub struct PortErrors {
    by_node: Mutex<BTreeMap<NodeId, (Epoch, Complaints)>>,
}

impl PortErrors {
    /// Why ports of a service are not served, each with the node that says so, in their order.
    pub fn of(&self, workload: WorkloadId) -> Vec<String> {
        let by_node = self.by_node.lock();
        let theirs = by_node.iter().flat_map(|(node, (_, complaints))| {
            let own = complaints.range((workload, 0)..=(workload, u32::MAX));
            own.map(move |(_, detail)| format!("on {node} {detail}"))
        });
        theirs.collect()
    }

    /// A session has ended: what its node said is not known any more.
    pub fn closed(&self, node: &NodeId, epoch: Epoch) {
        let mut by_node = self.by_node.lock();
        if by_node.get(node).is_some_and(|(of, _)| *of <= epoch) {
            by_node.remove(node);
        }
    }

    /// What a node says now; returns what it said before.
    fn replace(&self, node: &NodeId, epoch: Epoch, now: Complaints) -> Complaints {
        let before = self.by_node.lock().insert(node.clone(), (epoch, now));
        before.map(|(_, before)| before).unwrap_or_default()
    }
}

/// Takes in what a node says of its ports, and tells people what is new of it.
///
/// # Errors
/// When there are too many, or an id is malformed.
pub fn take(
    server: &Server,
    node: &NodeId,
    epoch: Epoch,
    message: v1::PortErrors,
) -> Result<(), Status> {
    if message.errors.len() > MAX_ERRORS {
        return Err(Status::invalid_argument("ports: too many in one message"));
    }
    let mut now = Complaints::new();
    for mut error in message.errors {
        let workload: WorkloadId = error
            .workload
            .parse()
            .map_err(|error| Status::invalid_argument(format!("ports.workload: {error}")))?;
        if let Some((end, _)) = error.detail.char_indices().nth(MAX_DETAIL_CHARS) {
            error.detail.truncate(end);
        }
        now.insert((workload, error.port), error.detail);
    }
    let before = server
        .services
        .port_errors
        .replace(node, epoch, now.clone());
    for ((workload, port), detail) in &now {
        if !before.contains_key(&(*workload, *port)) {
            tell(server, node, (*workload, *port), Some(detail));
        }
    }
    for key in before.keys().filter(|key| !now.contains_key(key)) {
        tell(server, node, *key, None);
    }
    Ok(())
}

/// Tells that a port is not served, and why, or is served again. Of a service that is gone there is
/// nothing to tell.
fn tell(
    server: &Server,
    node: &NodeId,
    (workload, port): (WorkloadId, u32),
    detail: Option<&String>,
) {
    let workloads = &server.services.workloads;
    let Some(record) = workloads.read(|tables| tables.by_id(workload).cloned()) else {
        return;
    };
    let spec = &record.value.spec;
    let mut data = json!({
        "name": name_of(spec), "namespace": spec.namespace, "node": node, "port": port,
    });
    let kind = match detail {
        Some(detail) => {
            data["reason"] = json!(Reason::NetworkError);
            data["detail"] = json!(detail);
            "service.port-refused"
        }
        None => "service.port-served",
    };
    let now = server.clock.wall();
    server.events.emit(now, kind, &workload.to_string(), data);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_says_counts_until_its_session_ends() {
        let errors = PortErrors::default();
        let node: NodeId = "n1".parse().expect("an id");
        let complaints = |port, detail: &str| {
            let detail = detail.to_owned();
            Complaints::from([((WorkloadId(1), port), detail)])
        };
        errors.replace(&node, 1, complaints(80, "port 80 is taken"));
        assert_eq!(errors.of(WorkloadId(1)), ["on n1 port 80 is taken"]);
        assert_eq!(errors.of(WorkloadId(2)), [""; 0]);
        errors.replace(&node, 2, complaints(81, "port 81 is taken"));
        errors.closed(&node, 1);
        assert_eq!(errors.of(WorkloadId(1)), ["on n1 port 81 is taken"]);
        errors.closed(&node, 2);
        assert_eq!(errors.of(WorkloadId(1)), [""; 0]);
    }
}

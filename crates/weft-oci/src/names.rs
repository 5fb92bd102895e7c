//! Names of what we make, from the node's id: several agents on a machine never meet.

use ring::digest::{SHA256, digest};
use weft_types::{NodeId, UnitId};

/// Eight hexadecimal digits that stand for a node.
pub(crate) fn node_hash(node: &NodeId) -> String {
    hex::encode(&digest(&SHA256, node.to_string().as_bytes()).as_ref()[..4])
}

/// The end of a unit's pair on the node; at most 15 characters.
pub(crate) fn veth(node_hash: &str, unit: UnitId) -> String {
    let hash = digest(&SHA256, format!("{node_hash}/{unit}").as_bytes());
    format!("wv{}", hex::encode(&hash.as_ref()[..6]))
}

/// The control group that all units of a node are below, from the root of each hierarchy.
pub(crate) fn node_cgroup(node_hash: &str) -> String {
    format!("/weft-{node_hash}")
}

/// The control group of a unit.
pub(crate) fn unit_cgroup(node_hash: &str, unit: UnitId) -> String {
    format!("/weft-{node_hash}/{unit}")
}

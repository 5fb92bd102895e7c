//! Which nodes are let in. A certificate says who a node is; whether it still belongs to the
//! cluster says the server, long before the certificate expires.
//!
//! Residual: a node that was removed is let in by those that the server has not been able to tell
//! yet, at most until its certificate expires.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use weft_types::NodeId;

/// The nodes of the cluster, as last told.
#[derive(Debug)]
pub(crate) struct Members {
    known: Mutex<Known>,
    /// Cancelled when the proxy stops, and all connections between nodes with it.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Known {
    /// The complete list, once there is one.
    told: Option<HashSet<NodeId>>,
    /// The nodes that the table names: who is let in until there is a list.
    in_table: HashSet<NodeId>,
    /// One a node with connections; cancelled when it is no member any more.
    connected: HashMap<NodeId, CancellationToken>,
}

impl Known {
    fn has(&self, node: &NodeId) -> bool {
        self.told.as_ref().unwrap_or(&self.in_table).contains(node)
    }

    fn cut_strangers(&mut self) {
        let connected = std::mem::take(&mut self.connected);
        for (node, connections) in connected {
            if self.has(&node) {
                self.connected.insert(node, connections);
            } else {
                tracing::info!(%node, "is no member of the cluster any more: its connections are cut");
                connections.cancel();
            }
        }
    }
}

impl Members {
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            known: Mutex::default(),
            stop,
        }
    }

    /// Lets a node in: what is cancelled when it is to be cut off. `None` for a stranger.
    pub(crate) fn admit(&self, node: &NodeId) -> Option<CancellationToken> {
        let mut known = self.known.lock();
        if !known.has(node) {
            return None;
        }
        let connections = known.connected.entry(node.clone());
        Some(
            connections
                .or_insert_with(|| self.stop.child_token())
                .clone(),
        )
    }

    /// The complete list of members.
    pub(crate) fn set(&self, members: HashSet<NodeId>) {
        let mut known = self.known.lock();
        known.told = Some(members);
        known.cut_strangers();
    }

    /// The nodes that the table names.
    pub(crate) fn set_in_table(&self, nodes: HashSet<NodeId>) {
        let mut known = self.known.lock();
        known.in_table = nodes;
        known.cut_strangers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> HashSet<NodeId> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn members() -> Members {
        Members::new(CancellationToken::new())
    }

    #[test]
    fn nobody_is_a_member_until_told() {
        assert!(members().admit(&"n1".parse().unwrap()).is_none());
    }

    #[test]
    fn a_removed_member_is_cut_off_and_the_others_are_not() {
        let members = members();
        members.set_in_table(nodes(&["n1", "n2"]));
        let one = members.admit(&"n1".parse().unwrap()).unwrap();
        let two = members.admit(&"n2".parse().unwrap()).unwrap();
        members.set(nodes(&["n2"]));
        assert!(one.is_cancelled() && !two.is_cancelled());
        assert!(members.admit(&"n1".parse().unwrap()).is_none());
        members.set_in_table(nodes(&["n1"]));
        assert!(members.admit(&"n1".parse().unwrap()).is_none());
    }
}

//! What nodes do, for people who watch: attempts they ended, and their circuit breakers.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use weft_api::{BreakerState, NodeView};
use weft_core::breaker::State;
use weft_types::NodeId;

/// One node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NodeActivity {
    ended: u64,
    breaker: BreakerState,
}

/// All nodes that did something since the server started.
#[derive(Default)]
pub struct Activity {
    nodes: Mutex<BTreeMap<NodeId, NodeActivity>>,
}

impl Activity {
    /// A node reported attempts.
    pub fn ended(&self, node: &NodeId, attempts: u64) {
        let mut nodes = self.nodes.lock();
        match nodes.get_mut(node) {
            Some(known) => known.ended += attempts,
            None => {
                let activity = NodeActivity {
                    ended: attempts,
                    ..NodeActivity::default()
                };
                nodes.insert(node.clone(), activity);
            }
        }
    }

    /// The breaker of a node changed.
    pub fn breaker(&self, node: &NodeId, state: State) {
        let mut nodes = self.nodes.lock();
        nodes.entry(node.clone()).or_default().breaker = match state {
            State::Closed => BreakerState::Closed,
            State::Open => BreakerState::Open,
            State::HalfOpen => BreakerState::HalfOpen,
        };
    }

    /// A node was removed.
    pub fn removed(&self, node: &NodeId) {
        self.nodes.lock().remove(node);
    }

    /// Adds what is known of nodes to their views.
    pub fn fill<'a>(&self, views: impl IntoIterator<Item = &'a mut NodeView>) {
        let nodes = self.nodes.lock();
        for view in views {
            let known = view.id.parse().ok().and_then(|id: NodeId| nodes.get(&id));
            let known = known.copied().unwrap_or_default();
            view.usage.ended = known.ended;
            view.breaker = known.breaker;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_node_leaves_nothing() {
        let activity = Activity::default();
        let node: NodeId = "n1".parse().unwrap();
        activity.ended(&node, 3);
        activity.ended(&node, 2);
        activity.breaker(&node, State::Open);
        let known = activity.nodes.lock().get(&node).copied();
        let expected = NodeActivity {
            ended: 5,
            breaker: BreakerState::Open,
        };
        assert_eq!(known, Some(expected));
        activity.removed(&node);
        assert!(activity.nodes.lock().is_empty());
    }
}

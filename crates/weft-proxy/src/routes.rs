//! Which replicas answer a port, and which of them is next.
//!
//! *HTTP requests*: the power of two choices (Mitzenmacher 2001). Two replicas are drawn at
//! random and the one with fewer requests in flight is taken; a replica of another node counts as
//! having one more, so that this node's own is taken unless it is busier, and yet every replica
//! gets a share also when nothing is busy. The counts are this node's own view for replicas of
//! other nodes, and complete for its own.
//!
//! *TCP connections* last, and bytes between nodes cost more than an uneven share: this node's
//! replicas come first, the one with the fewest connections at the front, then the others.
//!
//! Replicas that could not be reached lately come after all others.

use std::collections::HashMap;
use std::sync::Arc;

use weft_types::{Protocol, WorkloadId};

use crate::PortError;
use crate::backend::Backend;

/// One published port.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) workload: WorkloadId,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) backends: Vec<Arc<Backend>>,
}

/// All published ports.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    pub(crate) ports: HashMap<u16, Arc<Route>>,
    /// Ports that two services want.
    pub(crate) conflicts: Vec<PortError>,
}

/// What a replica of another node counts for beyond what it has in flight.
const REMOTE_PENALTY: usize = 1;

impl Route {
    /// The replica for the next request, none of `tried`.
    pub(crate) fn for_request(&self, tried: &[Arc<Backend>]) -> Option<Arc<Backend>> {
        self.draw(|backend| !backend.is_avoided() && !is_among(backend, tried))
            .or_else(|| self.draw(|backend| !is_among(backend, tried)))
    }

    fn draw(&self, wanted: impl Fn(&Backend) -> bool) -> Option<Arc<Backend>> {
        let mut drawn: [Option<&Arc<Backend>>; 2] = [None, None];
        let fitting = self.backends.iter().filter(|b| wanted(b) && b.takes());
        // Reservoir sampling (Vitter's algorithm R): two of them, each pair as likely.
        for (seen, backend) in fitting.enumerate() {
            match seen {
                0 | 1 => drawn[seen] = Some(backend),
                _ => {
                    if let Some(slot) = drawn.get_mut(fastrand::usize(..=seen)) {
                        *slot = Some(backend);
                    }
                }
            }
        }
        match drawn {
            [Some(one), Some(two)] => Some(Arc::clone(less_loaded(one, two))),
            [one, two] => one.or(two).map(Arc::clone),
        }
    }

    /// The replica for the next connection, none of `tried`.
    pub(crate) fn for_connection(&self, tried: &[Arc<Backend>]) -> Option<Arc<Backend>> {
        self.backends
            .iter()
            .filter(|backend| backend.takes() && !is_among(backend, tried))
            .min_by_key(|backend| {
                let order = (backend.is_avoided(), !backend.is_local(), backend.load());
                (order, fastrand::u32(..))
            })
            .map(Arc::clone)
    }
}

fn less_loaded<'a>(one: &'a Arc<Backend>, two: &'a Arc<Backend>) -> &'a Arc<Backend> {
    let cost = |backend: &Backend| {
        let penalty = if backend.is_local() {
            0
        } else {
            REMOTE_PENALTY
        };
        backend.load() + penalty
    };
    match cost(one).cmp(&cost(two)) {
        std::cmp::Ordering::Less => one,
        std::cmp::Ordering::Greater => two,
        std::cmp::Ordering::Equal if fastrand::bool() => one,
        std::cmp::Ordering::Equal => two,
    }
}

fn is_among(backend: &Backend, tried: &[Arc<Backend>]) -> bool {
    tried.iter().any(|other| std::ptr::eq(&**other, backend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Local;
    use crate::backend::{BackendKey, Place};
    use crate::unit::Unit;
    use weft_types::UnitId;

    fn unit_id(number: u32) -> UnitId {
        UnitId {
            workload: WorkloadId(1),
            number,
        }
    }

    fn remote(number: u32) -> Arc<Backend> {
        let key = BackendKey {
            unit: unit_id(number),
            target: 80,
            place: Place::Peer("n2".parse().unwrap(), ([127, 0, 0, 1], 1).into()),
        };
        Arc::new(Backend::new(key, None, 4))
    }

    fn local(number: u32) -> Arc<Backend> {
        let unit = Arc::new(Unit::new(unit_id(number), Default::default()));
        unit.set(Local {
            ready: true,
            draining: false,
            targets: [(80, ([127, 0, 0, 1], 1).into())].into(),
        });
        let key = BackendKey {
            unit: unit.id,
            target: 80,
            place: Place::Here,
        };
        Arc::new(Backend::new(key, Some(unit), 4))
    }

    fn route(backends: Vec<Arc<Backend>>) -> Route {
        Route {
            workload: WorkloadId(1),
            name: "web".to_owned(),
            protocol: Protocol::Http,
            backends,
        }
    }

    fn shares(route: &Route, draws: usize) -> HashMap<u32, usize> {
        let mut shares = HashMap::new();
        for _ in 0..draws {
            let taken = route.for_request(&[]).unwrap();
            *shares.entry(taken.key.unit.number).or_default() += 1;
        }
        shares
    }

    #[test]
    fn an_idle_cluster_prefers_its_own_replica_and_starves_none() {
        let shares = shares(&route(vec![remote(1), local(2), remote(3)]), 3_000);
        assert!(shares[&2] > 1_600, "{shares:?}");
        assert!(shares[&1] > 300 && shares[&3] > 300, "{shares:?}");
    }

    #[test]
    fn a_busier_replica_is_passed_over() {
        let (busy, free) = (remote(1), remote(2));
        let _held = busy.begin().unwrap();
        let shares = shares(&route(vec![busy, free]), 100);
        assert_eq!(shares.get(&1), None);
    }

    #[test]
    fn connections_stay_on_the_node_while_it_has_a_ready_replica() {
        let (near, far) = (local(1), remote(2));
        let route = route(vec![far, near.clone()]);
        let _held = near.begin().unwrap();
        assert_eq!(route.for_connection(&[]).unwrap().key.unit.number, 1);
        near.unit.as_ref().unwrap().seal();
        assert_eq!(route.for_connection(&[]).unwrap().key.unit.number, 2);
    }

    #[test]
    fn an_avoided_replica_is_the_last_resort_and_a_tried_one_is_none() {
        let (bad, good) = (remote(1), remote(2));
        bad.avoid();
        let route = route(vec![bad.clone(), good.clone()]);
        assert_eq!(route.for_request(&[]).unwrap().key.unit.number, 2);
        let tried = [good];
        assert_eq!(route.for_request(&tried).unwrap().key.unit.number, 1);
        assert!(route.for_request(&[tried[0].clone(), bad]).is_none());
    }
}

//! Which lease ends when. After a restart every lease begins anew: nobody could renew it meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Error, LeaseId};

/// The time that is left of each lease.
pub(super) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
}

struct Lease {
    ttl: Duration,
    ends_at: Duration,
}

impl Leases {
    pub(super) fn new(now: Duration, stored: BTreeMap<LeaseId, Duration>) -> Self {
        let leases = stored
            .into_iter()
            .map(|(id, ttl)| {
                (
                    id,
                    Lease {
                        ttl,
                        ends_at: now + ttl,
                    },
                )
            })
            .collect();
        Self { leases }
    }

    pub(super) fn insert(&mut self, now: Duration, id: LeaseId, ttl: Duration) {
        self.leases.insert(
            id,
            Lease {
                ttl,
                ends_at: now + ttl,
            },
        );
    }

    pub(super) fn keep_alive(&mut self, now: Duration, id: LeaseId) -> Result<(), Error> {
        let lease = self
            .leases
            .get_mut(&id)
            .filter(|lease| lease.ends_at > now)
            .ok_or(Error::LeaseGone)?;
        lease.ends_at = now + lease.ttl;
        Ok(())
    }

    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub(super) fn remove(&mut self, id: LeaseId) -> bool {
        self.leases.remove(&id).is_some()
    }

    /// Leases that have ended.
    pub(super) fn ended(&self, now: Duration) -> Vec<LeaseId> {
        self.leases
            .iter()
            .filter(|(_, lease)| lease.ends_at <= now)
            .map(|(id, _)| *id)
            .collect()
    }

    /// When the next lease ends.
    pub(super) fn next_end(&self) -> Option<Duration> {
        self.leases.values().map(|lease| lease.ends_at).min()
    }
}

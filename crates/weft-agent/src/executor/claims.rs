//! Room for units of services, out of the same table as that of tasks.
//!
//! A claim takes its room at once, also when tasks still use it: no task starts in room that a
//! unit waits for. It is granted when what is taken is there, in the order of the claims.

use std::collections::VecDeque;
use std::sync::Arc;

use weft_types::Resources;

use super::table::Table;
use super::{Executor, Shared};

/// The claims that wait.
#[derive(Default)]
pub(super) struct Claims {
    waiting: VecDeque<(u64, Resources)>,
    last: u64,
}

/// Room on the node, until this is dropped.
pub(crate) struct Claim {
    shared: Arc<Shared>,
    id: u64,
    need: Resources,
}

impl Executor {
    /// Claims room; `None` when the whole node has less than that.
    pub(crate) fn claim(&self, need: &Resources) -> Option<Claim> {
        let mut table = self.shared.table.lock();
        if !table.could_ever_fit(need) {
            return None;
        }
        let id = table.claim(need);
        drop(table);
        Some(self.claimed(id, need))
    }

    /// Claims room for what runs already, whether or not there is any.
    pub(crate) fn claim_anyway(&self, need: &Resources) -> Claim {
        let mut table = self.shared.table.lock();
        let id = table.claim(need);
        table.claims.waiting.retain(|(waiting, _)| *waiting != id);
        drop(table);
        self.claimed(id, need)
    }

    fn claimed(&self, id: u64, need: &Resources) -> Claim {
        Claim {
            shared: Arc::clone(&self.shared),
            id,
            need: need.clone(),
        }
    }
}

impl Claim {
    /// Whether the room is there.
    pub(crate) fn is_granted(&self) -> bool {
        self.shared.table.lock().grant(self.id)
    }

    /// Resolves when the room is there.
    pub(crate) async fn granted(&self) {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.is_granted() {
                return;
            }
            room.await;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.table.lock().release(self.id, &self.need);
        self.shared.room.notify_waiters();
        self.shared.start_what_fits();
    }
}

impl Table {
    fn claim(&mut self, need: &Resources) -> u64 {
        self.free.take_anyway(need);
        self.claims.last += 1;
        let id = self.claims.last;
        self.claims.waiting.push_back((id, need.clone()));
        id
    }

    /// Whether a claim is granted, now or before: those that came after it do not count.
    fn grant(&mut self, id: u64) -> bool {
        let waiting = &mut self.claims.waiting;
        let Some(position) = waiting.iter().position(|(waiting, _)| *waiting == id) else {
            return true;
        };
        let mut free = self.free;
        for (_, later) in waiting.iter().skip(position + 1) {
            free.give(later);
        }
        if free.is_overdrawn_for(&waiting[position].1) {
            return false;
        }
        waiting.remove(position);
        true
    }

    fn release(&mut self, id: u64, need: &Resources) {
        self.claims.waiting.retain(|(waiting, _)| *waiting != id);
        self.free.give(need);
    }
}

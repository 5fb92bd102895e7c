//! Which artifacts on this node are in use, and which were not for longest.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use weft_types::BlobHash;

/// The artifacts that are kept; cloning shares the list.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    list: Arc<Mutex<List>>,
}

#[derive(Default)]
struct List {
    uses: HashMap<BlobHash, Uses>,
    /// Grows with each use.
    clock: u64,
}

#[derive(Default)]
struct Uses {
    users: u32,
    last: u64,
}

/// Keeps an artifact on the node until this is dropped.
pub(crate) struct Pin {
    kept: Kept,
    hash: BlobHash,
}

impl Kept {
    /// An artifact that is here and that nobody uses.
    pub(crate) fn add(&self, hash: BlobHash) {
        self.list.lock().uses.entry(hash).or_default();
    }

    /// An artifact that is used, whether it is here yet or not.
    pub(crate) fn pin(&self, hash: BlobHash) -> Pin {
        let mut list = self.list.lock();
        list.clock += 1;
        let now = list.clock;
        let uses = list.uses.entry(hash).or_default();
        uses.users += 1;
        uses.last = now;
        drop(list);
        Pin {
            kept: self.clone(),
            hash,
        }
    }

    /// Whether a task uses it.
    pub(crate) fn is_used(&self, hash: &BlobHash) -> bool {
        let list = self.list.lock();
        list.uses.get(hash).is_some_and(|uses| uses.users > 0)
    }

    /// Takes the artifact off the list that was not used for longest; `None` when all are in use.
    pub(crate) fn remove_oldest(&self) -> Option<BlobHash> {
        let mut list = self.list.lock();
        let unused = list.uses.iter().filter(|(_, uses)| uses.users == 0);
        let oldest = *unused.min_by_key(|(_, uses)| uses.last)?.0;
        list.uses.remove(&oldest);
        Some(oldest)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(uses) = self.kept.list.lock().uses.get_mut(&self.hash) {
            uses.users -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first_and_what_is_in_use_stays() {
        let kept = Kept::default();
        let hash = |number| BlobHash([number; 32]);
        kept.add(hash(0));
        drop(kept.pin(hash(1)));
        let used = kept.pin(hash(2));
        drop(kept.pin(hash(3)));
        drop(kept.pin(hash(1)));
        let order: Vec<_> = std::iter::from_fn(|| kept.remove_oldest()).collect();
        assert_eq!(order, [hash(0), hash(3), hash(1)]);
        drop(used);
        assert_eq!(kept.remove_oldest(), Some(hash(2)));
    }
}

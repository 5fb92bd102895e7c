//! The backends that run units on this node: which serves each kind of work, and what is missing.
//!
//! | of a kind | then |
//! | --- | --- |
//! | nothing was tried yet | its units wait |
//! | it has units | the backend that has them serves it, whether or not it answers: another one would not see them |
//! | it has none | the first one works that is preferred, of those that work |
//!
//! Every backend is tried again now and then ([`pace`]): one that comes is offered, one that goes
//! for longer than a moment is told as missing.

mod backends;
mod pace;
mod probe;
mod remembered;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use weft_types::{NodeCapacity, RuntimeKind};
use weft_unit::{Probe, UnitRuntime};

pub use backends::MONITOR_ARGUMENT;
pub(crate) use backends::{Candidate, Setup, candidate, candidates};
pub(crate) use remembered::Remembered;

/// The backends of this node; cloning shares them.
#[derive(Clone)]
pub(crate) struct UnitRuntimes {
    shared: Arc<Shared>,
}

struct Shared {
    /// In the order in which they are preferred.
    candidates: Vec<Candidate>,
    kinds: Mutex<BTreeMap<RuntimeKind, Kind>>,
    remembered: Mutex<Remembered>,
    /// Grows whenever anything of this changes.
    changes: watch::Sender<u64>,
}

/// How a kind of work is served.
#[derive(Default)]
struct Kind {
    bound: Option<Candidate>,
    /// What the bound backend can do; `None` while it does not work.
    works: Option<Probe>,
    missing: Vec<String>,
    /// Whether backends have been tried.
    is_tried: bool,
    /// How often in a row the bound backend did not answer after it had worked.
    misses: u32,
    /// Units that are here.
    users: usize,
}

/// A backend, held for one unit: until this is dropped no other one takes its place.
pub(crate) struct Held {
    shared: Arc<Shared>,
    kind: RuntimeKind,
    candidate: Candidate,
}

impl Held {
    pub(crate) fn runtime(&self) -> &Arc<dyn UnitRuntime> {
        &self.candidate.runtime
    }

    /// The name by which the node remembers it.
    pub(crate) fn name(&self) -> &'static str {
        self.candidate.name
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(kind) = self.shared.kinds.lock().get_mut(&self.kind) {
            kind.users -= 1;
        }
    }
}

impl UnitRuntimes {
    /// Nothing is tried yet.
    pub(crate) fn new(candidates: Vec<Candidate>, remembered: Remembered) -> Self {
        let kinds = candidates
            .iter()
            .map(|it| (it.runtime.kind(), Kind::default()));
        Self {
            shared: Arc::new(Shared {
                kinds: Mutex::new(kinds.collect()),
                candidates,
                remembered: Mutex::new(remembered),
                changes: watch::Sender::new(0),
            }),
        }
    }

    /// Which backends have the units that were here before; to be called before any is looked at.
    pub(crate) fn recall(&self, kinds: &BTreeSet<RuntimeKind>) {
        let remembered = self.shared.remembered.lock();
        let mut states = self.shared.kinds.lock();
        for kind in kinds {
            let Some(name) = remembered.get(*kind) else {
                continue;
            };
            let mut candidates = self.shared.candidates.iter();
            let found = candidates.find(|it| it.runtime.kind() == *kind && it.name == name);
            if let (Some(candidate), Some(state)) = (found, states.get_mut(kind)) {
                state.bound = Some(candidate.clone());
            }
        }
    }

    /// The kinds that have a backend at all.
    pub(crate) fn kinds(&self) -> Vec<RuntimeKind> {
        self.shared.kinds.lock().keys().copied().collect()
    }

    /// The backend that has units of a kind from before.
    pub(crate) fn hold_recalled(&self, kind: RuntimeKind) -> Option<Held> {
        self.shared.hold(kind).ok().flatten()
    }

    /// The backend that serves a kind.
    pub(crate) fn get(&self, kind: RuntimeKind) -> Option<Arc<dyn UnitRuntime>> {
        let kinds = self.shared.kinds.lock();
        let bound = kinds.get(&kind)?.bound.as_ref()?;
        Some(Arc::clone(&bound.runtime))
    }

    /// The backend for a unit, once it is known which; `None` when there is none. It is written
    /// down before it is given.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) async fn hold(&self, kind: RuntimeKind) -> std::io::Result<Option<Held>> {
        let mut changes = self.subscribe();
        let held = loop {
            changes.mark_unchanged();
            match self.shared.hold(kind) {
                Ok(held) => break held,
                // Never so: the sender lives as long as this.
                Err(NotTried) if changes.changed().await.is_err() => break None,
                Err(NotTried) => {}
            }
        };
        let Some(held) = held else {
            return Ok(None);
        };
        let (shared, name) = (Arc::clone(&self.shared), held.name());
        let written =
            tokio::task::spawn_blocking(move || shared.remembered.lock().set(kind, name)).await;
        written.map_err(std::io::Error::other)??;
        Ok(Some(held))
    }

    /// The backends that serve a kind.
    pub(crate) fn all(&self) -> Vec<Arc<dyn UnitRuntime>> {
        let kinds = self.shared.kinds.lock();
        let bound = kinds.values().filter_map(|kind| kind.bound.as_ref());
        bound.map(|it| Arc::clone(&it.runtime)).collect()
    }

    /// Follows every change.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Adds to what the node offers, and to what it lacks.
    pub(crate) fn describe(&self, capacity: &mut NodeCapacity, missing: &mut Vec<String>) {
        for (kind, state) in self.shared.kinds.lock().iter() {
            if !state.is_tried {
                missing.push(format!(
                    "{kind}: what can run it is still being looked for; look again in a moment"
                ));
            }
            missing.extend(state.missing.iter().cloned());
            let is_offered = state.bound.as_ref().is_some_and(|it| it.is_configured);
            if let Some(probe) = state.works.as_ref().filter(|_| is_offered) {
                capacity.runtimes.push(*kind);
                capacity.capabilities.extend(probe.capabilities.clone());
            }
        }
        capacity.capabilities.sort();
        capacity.capabilities.dedup();
    }
}

/// It is not known yet which backend serves a kind.
struct NotTried;

impl Shared {
    fn hold(self: &Arc<Self>, kind: RuntimeKind) -> Result<Option<Held>, NotTried> {
        let mut kinds = self.kinds.lock();
        let Some(state) = kinds.get_mut(&kind) else {
            return Ok(None);
        };
        let Some(candidate) = state.bound.clone() else {
            return if state.is_tried {
                Ok(None)
            } else {
                Err(NotTried)
            };
        };
        state.users += 1;
        Ok(Some(Held {
            shared: Arc::clone(self),
            kind,
            candidate,
        }))
    }

    fn tell(&self) {
        self.changes.send_modify(|changes| *changes += 1);
    }
}

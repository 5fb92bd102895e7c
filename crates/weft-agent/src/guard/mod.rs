//! The guard of exclusive units: a process of its own that ends them in time when the agent cannot.
//!
//! ```text
//!  agent ── lease, guard/units.json ──▶ disk ──▶ guard ── stop ──▶ the same backends
//!     └──── "read again" ───────────────────────▶ │
//!     ◀──── "I know list N" ──────────────────────┘
//! ```
//!
//! The agent itself ends them when it loses its lease ([`crate::lease`]). One that was killed,
//! stopped or hangs cannot; its guard lives on in a session of its own and goes by the same count.
//! There is one while the node has exclusive units, and no exclusive unit is started before a guard
//! has said that it knows it. It ends what is on the list, through backends that leave alone what
//! does not carry this node's labels.

mod arm;
mod decide;
mod keeper;
mod list;
mod process;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use weft_types::UnitId;

use list::Place;

pub(crate) use keeper::keep;
pub(crate) use list::List;
pub use process::main;

/// The argument with which the agent's own program is a guard; the data directory follows.
pub const GUARD_ARGUMENT: &str = "exclusive-guard";

/// How long a start waits for the guard before it counts as failed.
const COVER_TIMEOUT: Duration = Duration::from_secs(10);

/// What of exclusive units the guard has to know; cloning shares it. By default there is none, and
/// nothing waits for it.
#[derive(Clone, Default)]
pub(crate) struct Guards {
    shared: Option<Arc<Shared>>,
}

struct Shared {
    place: Place,
    list: Mutex<Listed>,
    /// The number of the newest list.
    wanted: watch::Sender<u64>,
    /// The number of the list that a guard which lives knows; 0 for none.
    seen: watch::Sender<u64>,
}

struct Listed {
    list: List,
    /// The agent leaves: what is on the list stays there.
    is_frozen: bool,
}

/// A unit on the list, until this is dropped.
pub(crate) struct Guarded {
    guards: Guards,
    unit: UnitId,
    number: u64,
}

impl Guards {
    /// For the units of a node.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn open(data_dir: PathBuf, mut list: List) -> std::io::Result<Self> {
        let place = Place::open(data_dir)?;
        // What an earlier guard knows must not pass for a list of this agent.
        let number = place.read().map_or(0, |before| before.number);
        list.number = number;
        let shared = Shared {
            place,
            list: Mutex::new(Listed {
                list,
                is_frozen: false,
            }),
            wanted: watch::Sender::new(0),
            seen: watch::Sender::new(0),
        };
        Ok(Self {
            shared: Some(Arc::new(shared)),
        })
    }

    /// Puts a unit on the list, with the backend that has it.
    pub(crate) fn add(&self, unit: UnitId, backend: &'static str) -> Guarded {
        let number = self.change(|list| {
            list.units.insert(unit, backend.to_owned());
        });
        Guarded {
            guards: self.clone(),
            unit,
            number,
        }
    }

    /// Writes another list; returns its number.
    fn change(&self, change: impl FnOnce(&mut List)) -> u64 {
        let Some(shared) = &self.shared else {
            return 0;
        };
        let mut listed = shared.list.lock();
        if listed.is_frozen {
            return listed.list.number;
        }
        change(&mut listed.list);
        listed.list.number += 1;
        let number = listed.list.number;
        // What cannot be written is not known to the guard, and is not started.
        if let Err(error) = shared.place.write(&listed.list) {
            tracing::error!(%error, "the list of exclusive units cannot be written");
        }
        drop(listed);
        shared.wanted.send_replace(number);
        number
    }

    /// The unit is ended because the lease was lost.
    pub(crate) fn note_stop(&self, unit: UnitId) {
        if let Some(shared) = &self.shared {
            shared.place.note_stop(unit);
        }
    }

    /// Whether the lost lease, not the unit itself, ended it since it was started last.
    pub(crate) fn has_stopped(&self, unit: UnitId) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.place.has_stopped(unit))
    }

    /// The unit is started anew, or is gone.
    pub(crate) fn forget_stop(&self, unit: UnitId) {
        if let Some(shared) = &self.shared {
            shared.place.forget_stop(unit);
        }
    }

    /// The agent leaves. What may run stays on the list, so that the guard ends it; when `is_done`
    /// nothing runs any more, and the guard goes as well.
    pub(crate) fn leave(&self, is_done: bool) {
        if is_done {
            self.change(|list| list.units.clear());
        }
        if let Some(shared) = &self.shared {
            shared.list.lock().is_frozen = true;
        }
    }
}

impl Guarded {
    /// Resolves when a guard knows the unit.
    ///
    /// # Errors
    /// When there is none in time.
    pub(crate) fn covered(&self) -> impl Future<Output = Result<(), String>> + use<> {
        let (shared, number) = (self.guards.shared.clone(), self.number);
        async move {
            let Some(shared) = shared else {
                return Ok(());
            };
            let mut seen = shared.seen.subscribe();
            let covered = seen.wait_for(|seen| *seen >= number);
            match tokio::time::timeout(COVER_TIMEOUT, covered).await {
                Ok(Ok(_)) => Ok(()),
                _ => Err(format!(
                    "no guard of exclusive units answers, without which none is started; the agent's log says why, {} is its directory",
                    shared.place.dir().display()
                )),
            }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.guards.change(|list| {
            list.units.remove(&self.unit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::WorkloadId;

    fn unit(number: u32) -> UnitId {
        UnitId {
            workload: WorkloadId(7),
            number,
        }
    }

    #[tokio::test]
    async fn a_unit_is_covered_once_a_guard_knows_a_list_that_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let list = List::new("n1".parse().unwrap(), Default::default());
        let guards = Guards::open(dir.path().to_owned(), list).unwrap();
        let shared = guards.shared.clone().unwrap();
        let first = guards.add(unit(1), "oci");
        shared.seen.send_replace(first.number);
        first.covered().await.unwrap();
        let second = guards.add(unit(2), "oci");
        let waiting = tokio::time::timeout(Duration::from_millis(20), second.covered());
        assert!(waiting.await.is_err(), "the guard knows an older list");
        shared.seen.send_replace(second.number);
        second.covered().await.unwrap();
        drop(first);
        let kept = shared.place.read().unwrap();
        assert_eq!(kept.units.keys().copied().collect::<Vec<_>>(), [unit(2)]);
    }

    #[test]
    fn an_agent_that_leaves_keeps_on_the_list_what_may_run() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let list = List::new("n1".parse().unwrap(), Default::default());
            Guards::open(dir.path().to_owned(), list).unwrap()
        };
        let guards = open();
        let place = Place::open(dir.path().to_owned()).unwrap();
        let running = guards.add(unit(1), "oci");
        guards.leave(false);
        drop(running);
        assert_eq!(place.read().unwrap().units.len(), 1);
        let guards = open();
        let _ended = guards.add(unit(1), "oci");
        guards.leave(true);
        assert!(place.read().unwrap().units.is_empty());
    }
}

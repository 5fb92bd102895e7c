//! What ends units: the backends, in a runtime of one thread, made when they are needed.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinSet};
use weft_types::UnitId;
use weft_unit::{Phase, UnitRuntime};

use super::list::{List, Place};
use crate::runtimes::{Setup, candidate};

/// How long a backend may take to say how a unit is, before it is ended without having been asked.
const LOOK_TIMEOUT: Duration = Duration::from_millis(250);
/// How long an engine may take to end a unit beyond its grace, before it is told again.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Backends that were set up, by name; dropped when they are not needed any more.
pub(super) struct Arm {
    runtime: ManuallyDrop<tokio::runtime::Runtime>,
    backends: BTreeMap<String, Arc<dyn UnitRuntime>>,
    stops: JoinSet<()>,
    /// What is being killed.
    kills: BTreeMap<UnitId, AbortHandle>,
}

impl Arm {
    /// # Errors
    /// When there is no runtime to be had.
    pub(super) fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: ManuallyDrop::new(runtime),
            backends: BTreeMap::new(),
            stops: JoinSet::new(),
            kills: BTreeMap::new(),
        })
    }

    /// Sets up the backends that the list names. One that cannot be is tried again the next time.
    pub(super) fn prepare(&mut self, place: &Place, list: &List) {
        for name in list.units.values() {
            if self.backends.contains_key(name) {
                continue;
            }
            let setup = Setup {
                data_dir: place.data_dir().to_owned(),
                node: list.node.clone(),
                storage_pools: list.storage_pools.clone(),
                artifacts: None,
            };
            if let Ok(candidate) = self.runtime.block_on(candidate(name, &setup)) {
                self.backends.insert(name.clone(), candidate.runtime);
            }
        }
    }

    /// Begins to end what runs, or may run, of the list; returns whether all was looked at and
    /// nothing ran. What was begun before goes on beside it.
    pub(super) fn stop(&mut self, place: &Place, list: &List, grace: Duration) -> bool {
        self.prepare(place, list);
        let mut all_quiet = true;
        let looks = list.units.iter().map(|(unit, name)| {
            let backend = self.backends.get(name).cloned();
            async move { (*unit, look(backend.as_deref(), *unit).await, backend) }
        });
        let looks = self.runtime.block_on(futures::future::join_all(looks));
        for (unit, runs, backend) in looks {
            if runs == Some(false) {
                continue;
            }
            all_quiet = false;
            let Some(backend) = backend else {
                continue;
            };
            if runs == Some(true) {
                place.note_stop(unit);
            }
            self.begin(unit, backend, grace);
        }
        all_quiet
    }

    fn begin(&mut self, unit: UnitId, backend: Arc<dyn UnitRuntime>, grace: Duration) {
        let is_under_way = |kill: &AbortHandle| !kill.is_finished();
        if self.kills.get(&unit).is_some_and(is_under_way) {
            return;
        }
        let work = async move {
            let _ = tokio::time::timeout(grace + STOP_TIMEOUT, backend.stop(unit, grace)).await;
        };
        let stop = self.stops.spawn_on(work, self.runtime.handle());
        if grace.is_zero() {
            self.kills.insert(unit, stop);
        }
    }

    /// Whether anything that was begun is under way.
    pub(super) fn is_busy(&self) -> bool {
        !self.stops.is_empty()
    }

    /// Lets what was begun go on, for this long at most.
    pub(super) fn work(&mut self, time: Duration) {
        let stops = &mut self.stops;
        self.runtime.block_on(async {
            let all = async { while stops.join_next().await.is_some() {} };
            let _ = tokio::time::timeout(time, all).await;
        });
    }
}

impl Drop for Arm {
    fn drop(&mut self) {
        // SAFETY: nothing uses the runtime after this.
        let runtime = unsafe { ManuallyDrop::take(&mut self.runtime) };
        // A thread that hangs in an engine's files must not keep the guard from its work.
        runtime.shutdown_background();
    }
}

/// Whether a unit runs; `None` when that cannot be told.
async fn look(backend: Option<&dyn UnitRuntime>, unit: UnitId) -> Option<bool> {
    let observed = tokio::time::timeout(LOOK_TIMEOUT, backend?.observe(unit)).await;
    match observed.ok()?.ok()?.phase {
        Phase::Absent | Phase::Created | Phase::Exited { .. } => Some(false),
        Phase::Running { .. } | Phase::Paused => Some(true),
    }
}

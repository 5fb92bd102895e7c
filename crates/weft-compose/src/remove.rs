//! Stopping, removing and finding.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_types::{Reason, UnitId};
use weft_unit::{Error, Owned, Step, labels};

use crate::clean::remove_source;
use crate::compose::{Compose, storage};
use crate::engine::Part;
use crate::over::{SLOT, slot_label};
use crate::state::remove_tree;

/// How often what appears while it is removed is removed again: a call that was killed may still be
/// under way in the engine.
const ROUNDS: u32 = 3;
/// How long the kernel may take to let go of a group.
const GROUP_TIMEOUT: Duration = Duration::from_secs(5);
const GROUP_INTERVAL: Duration = Duration::from_millis(20);

impl Compose {
    /// Ends all parts, those first that others do not depend on, within `grace`.
    pub(crate) async fn bring_down(&self, id: UnitId, grace: Duration) -> Result<(), Error> {
        let end = Instant::now() + grace;
        let parts = self.engine.parts(Step::Stop, id, false).await?;
        let record = self.state.record(id).map_err(storage(Step::Stop))?;
        let stages: BTreeMap<_, _> = record
            .iter()
            .flat_map(|record| &record.services)
            .map(|service| (service.name.as_str(), service.stage))
            .collect();
        let mut by_stage: BTreeMap<u32, Vec<&Part>> = BTreeMap::new();
        for part in &parts {
            let stage = stages.get(part.service.as_str()).copied().unwrap_or(0);
            by_stage.entry(stage).or_default().push(part);
        }
        for (_, parts) in by_stage.into_iter().rev() {
            // What stands still hears no signal, and Podman sends it none.
            for part in parts.iter().filter(|part| part.is_paused) {
                self.engine.set_paused(Step::Stop, &part.id, false).await?;
            }
            let left = end.saturating_duration_since(Instant::now());
            let stops = parts
                .iter()
                .map(|part| self.engine.stop(Step::Stop, &part.id, left));
            futures::future::try_join_all(stops).await?;
        }
        Ok(())
    }

    /// Has every container of a unit that runs stand still, or go on.
    pub(crate) async fn hold(&self, id: UnitId, is_paused: bool) -> Result<(), Error> {
        let parts = self.engine.parts(Step::Run, id, false).await?;
        if !parts.iter().any(|part| part.is_running || part.is_paused) {
            let detail = format!("nothing of {id} runs");
            return Err(Error::new(Step::Run, Reason::RuntimeError, detail));
        }
        let changes = |part: &&Part| match is_paused {
            true => part.is_running,
            false => part.is_paused,
        };
        for part in parts.iter().filter(changes) {
            self.engine
                .set_paused(Step::Run, &part.id, is_paused)
                .await?;
        }
        Ok(())
    }

    /// Removes everything of a unit. What says that it is there goes last.
    pub(crate) async fn clear_away(&self, id: UnitId, keep_volumes: bool) -> Result<(), Error> {
        let step = Step::Remove;
        for _ in 0..ROUNDS {
            if self.remove_containers(id).await? == 0 {
                break;
            }
        }
        self.engine.remove_images(step, id).await?;
        // Without volumes there is nothing to leave to the next unit.
        let leaves = match self.state.slot_of(id).map_err(storage(step))? {
            Some(slot) => {
                let label = format!("{SLOT}={}", slot_label(id, slot));
                let volumes = self.engine.volumes(step, label).await?;
                for volume in volumes.iter().filter(|_| !keep_volumes) {
                    self.engine.remove_volume(step, volume).await?;
                }
                keep_volumes && !volumes.is_empty()
            }
            None => false,
        };
        let dir = self.state.unit_dir(id);
        if dir.exists() {
            self.remove_groups(id).await?;
        }
        match leaves {
            true => self.state.leave_slot(id).await,
            false => self.state.free_slot(id).await,
        }
        .map_err(storage(step))?;
        self.vetted.lock().remove(&id);
        self.bounded.lock().remove(&id);
        self.sizes.forget(id);
        let record = self.state.record(id).map_err(storage(step))?;
        remove_tree(&dir).map_err(storage(step))?;
        match record {
            // The next unit of the workload may be of the same commit.
            Some(record) if !leaves => {
                remove_source(&self.state, &record.root).map_err(storage(step))
            }
            _ => Ok(()),
        }
    }

    /// Removes containers and networks, and tells how many there were.
    async fn remove_containers(&self, id: UnitId) -> Result<usize, Error> {
        let step = Step::Remove;
        let containers = self.engine.containers(step, Some(id), false).await?;
        let ids: Vec<_> = containers
            .into_iter()
            .filter_map(|container| container.id)
            .collect();
        let removals = ids.iter().map(|id| self.engine.remove_container(step, id));
        futures::future::try_join_all(removals).await?;
        let networks = self.engine.networks(step, Some(id)).await?;
        for (network, _) in &networks {
            self.engine.remove_network(step, network).await?;
        }
        Ok(ids.len() + networks.len())
    }

    async fn remove_groups(&self, id: UnitId) -> Result<(), Error> {
        let Some(groups) = &self.groups else {
            return Ok(());
        };
        let end = Instant::now() + GROUP_TIMEOUT;
        loop {
            match groups.remove(id) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(storage(Step::Remove)(error)),
                Err(_) => tokio::time::sleep(GROUP_INTERVAL).await,
            }
        }
    }

    /// Everything that is there: in the engine, and as a directory.
    pub(crate) async fn owned(&self) -> Result<Vec<Owned>, Error> {
        let step = Step::Run;
        let mut found: BTreeMap<UnitId, u64> = BTreeMap::new();
        let containers = self.engine.containers(step, None, false).await?;
        let networks = self.engine.networks(step, None).await?;
        let all = containers
            .into_iter()
            .filter_map(|container| container.labels)
            .chain(networks.into_iter().map(|(_, labels)| labels));
        for labels in all {
            let text = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
            if let Ok(unit) = text(labels::UNIT).parse() {
                let revision = text(labels::REVISION).parse().unwrap_or(0);
                let known = found.entry(unit).or_default();
                *known = revision.max(*known);
            }
        }
        for unit in self.state.units().map_err(storage(step))? {
            let record = self.state.record(unit).map_err(storage(step))?;
            found
                .entry(unit)
                .or_insert(record.map_or(0, |record| record.revision));
        }
        let owned = found
            .into_iter()
            .map(|(unit, revision)| Owned { unit, revision });
        Ok(owned.collect())
    }
}

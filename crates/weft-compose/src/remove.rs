//! Stopping, removing, finding and cleaning.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use weft_types::UnitId;
use weft_unit::{CleanPolicy, Cleaned, Error, Owned, Step, labels};

use crate::compose::{Compose, storage};
use crate::engine::Part;
use crate::git::size_of;
use crate::over::{SLOT, slot_label};
use crate::state::{State, remove_tree};

/// How often what appears while it is removed is removed again: a call that was killed may still be
/// under way in the engine.
const ROUNDS: u32 = 3;
/// How long the kernel may take to let go of a group.
const GROUP_TIMEOUT: Duration = Duration::from_secs(5);
const GROUP_INTERVAL: Duration = Duration::from_millis(20);
/// What a fetch that was killed has left is older than any fetch lasts.
const ABANDONED: Duration = Duration::from_secs(3_600);

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
            let left = end.saturating_duration_since(Instant::now());
            let stops = parts
                .iter()
                .map(|part| self.engine.stop(Step::Stop, &part.id, left));
            futures::future::try_join_all(stops).await?;
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

/// A checkout that no unit refers to.
struct Unused {
    path: PathBuf,
    since: SystemTime,
}

/// Removes checkouts that no unit refers to: those that are old, and with little room on the disk
/// the others too, the oldest first.
pub(crate) fn clean_sources(state: &State, policy: CleanPolicy) -> io::Result<Cleaned> {
    let now = SystemTime::now();
    let mut cleaned = Cleaned::default();
    for source in unused(state)? {
        let age = now.duration_since(source.since).unwrap_or_default();
        if age < policy.unused_for && free_bytes(&state.sources())? >= policy.min_free_bytes {
            continue;
        }
        cleaned.bytes += size_of(&source.path);
        cleaned.items += 1;
        remove_tree(&source.path)?;
        if let Some(repository) = source.path.parent() {
            remove_if_empty(repository);
        }
    }
    Ok(cleaned)
}

/// A repository's directory stays as long as a checkout is in it.
fn remove_if_empty(repository: &Path) {
    let _ = std::fs::remove_dir(repository);
}

/// Removes the checkouts of the repository that a unit's root was in, but for those that other units
/// have. One that comes just now finds its own gone and fetches it again.
fn remove_source(state: &State, root: &Path) -> io::Result<()> {
    let sources = state.sources();
    let repository = root.parent().and_then(Path::parent);
    let Some(repository) = repository.filter(|it| it.parent() == Some(sources.as_path())) else {
        return Ok(());
    };
    let used = used(state)?;
    for entry in entries(repository)? {
        let path = entry?.path();
        if is_whole(&path) && !used.contains(&path) {
            remove_tree(&path)?;
        }
    }
    remove_if_empty(repository);
    Ok(())
}

/// What is in a directory; nothing when there is none.
fn entries(dir: &Path) -> io::Result<impl Iterator<Item = io::Result<std::fs::DirEntry>>> {
    match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
    .map(|entries| entries.into_iter().flatten())
}

/// Whether a checkout was fetched to its end.
fn is_whole(checkout: &Path) -> bool {
    checkout.join("facts.json").exists()
}

/// Checkouts that units refer to.
fn used(state: &State) -> io::Result<BTreeSet<PathBuf>> {
    let mut used = BTreeSet::new();
    for unit in state.units()? {
        let root = state.record(unit)?.map(|record| record.root);
        used.extend(root.and_then(|root| root.parent().map(Path::to_owned)));
    }
    Ok(used)
}

/// The oldest first.
fn unused(state: &State) -> io::Result<Vec<Unused>> {
    let used = used(state)?;
    let mut unused = Vec::new();
    for repository in std::fs::read_dir(state.sources())? {
        for entry in entries(&repository?.path())? {
            let path = entry?.path();
            let since = last_used(&path);
            let is_young = since.elapsed().is_ok_and(|age| age < ABANDONED);
            if !used.contains(&path) && (is_whole(&path) || !is_young) {
                unused.push(Unused { path, since });
            }
        }
    }
    unused.sort_by_key(|source| source.since);
    Ok(unused)
}

fn last_used(checkout: &Path) -> SystemTime {
    let marks = [checkout.join("used"), checkout.to_owned()];
    let times = marks
        .iter()
        .filter_map(|path| path.metadata().ok()?.modified().ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

fn free_bytes(path: &Path) -> io::Result<u64> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(fs.f_bavail.saturating_mul(fs.f_frsize))
}

//! Cleaning: checkouts that no unit refers to and images that were pulled for some.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use weft_types::Reason;
use weft_unit::{CleanPolicy, Cleaned, Error, Step};

use crate::compose::{Compose, storage};
use crate::engine::failed;
use crate::git::size_of;
use crate::state::{State, remove_tree};

/// What a fetch that was killed has left is older than any fetch lasts.
const ABANDONED: Duration = Duration::from_secs(3_600);

impl Compose {
    /// Lets go of checkouts and images.
    pub(crate) async fn clean_all(&self, policy: CleanPolicy) -> Result<Cleaned, Error> {
        let state = self.state.clone();
        let sources = tokio::task::spawn_blocking(move || clean_sources(&state, policy)).await;
        let broken = |_| Error::new(Step::Remove, Reason::Internal, "the work was interrupted");
        let sources = sources.map_err(broken)?.map_err(storage(Step::Remove))?;
        let images = self.clean_images(policy).await?;
        Ok(Cleaned {
            items: sources.items + images.items,
            bytes: sources.bytes + images.bytes,
        })
    }

    /// Those that were built go with their unit.
    async fn clean_images(&self, policy: CleanPolicy) -> Result<Cleaned, Error> {
        let docker = self.engine.docker(Step::Remove).await?;
        let info = docker.info().await;
        let info = info.map_err(|error| failed(Step::Remove, &error))?;
        let root_dir = PathBuf::from(info.docker_root_dir.unwrap_or_default());
        self.pulled.clean(docker, &root_dir, policy).await
    }
}

/// A checkout that no unit refers to.
struct Unused {
    path: PathBuf,
    since: SystemTime,
}

/// Removes checkouts that no unit refers to: those that are old, and with little room on the disk
/// the others too, the oldest first.
fn clean_sources(state: &State, policy: CleanPolicy) -> io::Result<Cleaned> {
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
pub(crate) fn remove_source(state: &State, root: &Path) -> io::Result<()> {
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

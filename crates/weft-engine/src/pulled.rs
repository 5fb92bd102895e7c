//! Which images we pulled, and when each was used last: others are never removed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::Docker;
use bollard::models::ImageInspect;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptionsBuilder};
use rustix::fs::{FlockOperation, flock, statvfs};
use serde::{Deserialize, Serialize};
use weft_types::Reason;
use weft_unit::{CleanPolicy, Cleaned, Error, Step};

use crate::error::{failed, status};
use crate::image::find;
use crate::reference::Reference;

/// What is not there after this long is not being pulled any more, and what still has its name did
/// not lose it.
const LONGEST_PULL: Duration = Duration::from_secs(3_600);

#[derive(Default, Serialize, Deserialize)]
struct State {
    /// Version of this shape.
    v: u32,
    /// Reference, or id → when it was used last, in milliseconds since the Unix epoch.
    images: BTreeMap<String, u64>,
}

/// The file that remembers which images were pulled for us, and when each was used last. Several
/// processes may share it; backends that share an engine have one each.
#[derive(Clone, Debug)]
pub struct Pulled {
    path: PathBuf,
}

/// Ids of images that have lost their names begin so.
const ID: &str = "sha256:";

fn known_as(image: &str) -> String {
    if image.starts_with(ID) {
        return image.to_owned();
    }
    Reference::parse(image).canonical()
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

impl Pulled {
    /// The file, which need not be there yet; its directory must.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Notes that an image is about to be pulled.
    ///
    /// # Errors
    /// `storage-error`, here as below.
    pub async fn add(&self, image: &str) -> Result<(), Error> {
        let image = known_as(image);
        self.change(move |state| {
            state.images.insert(image, now_ms());
        })
        .await
        .map(drop)
    }

    /// Notes that an image is used, if we pulled it.
    ///
    /// # Errors
    /// As in [`Pulled::add`].
    pub async fn touch(&self, image: &str) -> Result<(), Error> {
        let image = known_as(image);
        self.change(move |state| {
            if let Some(used_ms) = state.images.get_mut(&image) {
                *used_ms = now_ms();
            }
        })
        .await
        .map(drop)
    }

    /// Notes that an image is about to be pulled whose name another one has. When we had pulled
    /// that, it goes by its id once it has no name any more.
    ///
    /// # Errors
    /// As in [`Pulled::add`].
    pub async fn may_lose_name(&self, image: &str, id: Option<String>) -> Result<(), Error> {
        let image = known_as(image);
        self.change(move |state| {
            if let Some(used_ms) = state.images.get_mut(&image) {
                *used_ms = now_ms();
                state.images.extend(id.map(|id| (id, now_ms())));
            }
        })
        .await
        .map(drop)
    }

    /// Forgets an image.
    ///
    /// # Errors
    /// As in [`Pulled::add`].
    pub async fn remove(&self, image: &str) -> Result<(), Error> {
        let image = known_as(image);
        self.change(move |state| {
            state.images.remove(&image);
        })
        .await
        .map(drop)
    }

    /// All, the one that was not used for longest first.
    async fn oldest_first(&self) -> Result<Vec<(String, u64)>, Error> {
        let state = self.change(|_| ()).await?;
        let mut all: Vec<_> = state.images.into_iter().collect();
        all.sort_by_key(|(_, used_ms)| *used_ms);
        Ok(all)
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut State) + Send + 'static,
    ) -> Result<State, Error> {
        let path = self.path.clone();
        let failed = |said: String| Error::new(Step::Prepare, Reason::StorageError, said);
        let at = self.path.display().to_string();
        tokio::task::spawn_blocking(move || change_file(&path, change))
            .await
            .map_err(|_| failed("the work was interrupted".to_owned()))?
            .map_err(|error| failed(format!("{at}: {error}")))
    }

    /// Removes images that no container has: those unused for long, and the oldest when the disk
    /// of `root_dir`, where the engine keeps them, has little room. What others named as well stays.
    ///
    /// # Errors
    /// When the engine does not answer, else as in [`Pulled::add`].
    pub async fn clean(
        &self,
        docker: &Docker,
        root_dir: &Path,
        policy: CleanPolicy,
    ) -> Result<Cleaned, Error> {
        let used = used_images(docker).await?;
        let mut cleaned = Cleaned::default();
        for (image, used_ms) in self.oldest_first().await? {
            let age = Duration::from_millis(now_ms().saturating_sub(used_ms));
            let found = find(docker, &image).await?;
            let Some(found) = found.filter(|found| !has_name_instead(&image, found)) else {
                if age > LONGEST_PULL {
                    self.remove(&image).await?;
                }
                continue;
            };
            let id = found.id.unwrap_or_default();
            if used.contains(&id) {
                // It is not old when its last container goes.
                self.touch(&image).await?;
                continue;
            }
            let is_pressed = free_bytes(root_dir).is_some_and(|free| free < policy.min_free_bytes);
            if age < policy.unused_for && !is_pressed {
                continue;
            }
            // By its reference and without force: what others named or run stays.
            let options = RemoveImageOptionsBuilder::new().force(false).build();
            match docker.remove_image(&image, Some(options), None).await {
                Ok(_) => {
                    cleaned.items += 1;
                    cleaned.bytes += found.size.unwrap_or(0).max(0) as u64;
                }
                Err(error) if matches!(status(&error), Some(404)) => {}
                Err(error) if matches!(status(&error), Some(409)) => continue,
                Err(error) => return Err(failed(Step::Remove, &error)),
            }
            self.remove(&image).await?;
        }
        Ok(cleaned)
    }
}

/// Whether an image that is known by its id has a name: it kept it, or somebody gave it one.
fn has_name_instead(image: &str, found: &ImageInspect) -> bool {
    let tags = found.repo_tags.as_deref().unwrap_or_default();
    image.starts_with(ID) && !tags.is_empty()
}

/// Ids of images of any container, ours or not.
async fn used_images(docker: &Docker) -> Result<BTreeSet<String>, Error> {
    let options = ListContainersOptionsBuilder::new().all(true).build();
    let containers = docker
        .list_containers(Some(options))
        .await
        .map_err(|error| failed(Step::Remove, &error))?;
    Ok(containers
        .into_iter()
        .filter_map(|one| one.image_id)
        .collect())
}

fn free_bytes(path: &Path) -> Option<u64> {
    let there = statvfs(path).ok()?;
    Some(there.f_bavail.saturating_mul(there.f_frsize))
}

fn change_file(path: &Path, change: impl FnOnce(&mut State)) -> std::io::Result<State> {
    let lock = File::create(path.with_extension("lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let mut state = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::default(),
        Err(error) => return Err(error),
    };
    let before = state.images.clone();
    change(&mut state);
    if state.images == before {
        return Ok(state);
    }
    state.v = 1;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec_pretty(&state)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_we_pulled_is_remembered_the_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let pulled = Pulled::new(dir.path().join("images.json"));
        pulled.touch("of-another:1").await.unwrap();
        assert!(pulled.oldest_first().await.unwrap().is_empty());
        for image in ["b:1", "a:1"] {
            pulled.add(image).await.unwrap();
            // Until the clock has gone on.
            let added_ms = now_ms();
            while now_ms() == added_ms {
                tokio::task::yield_now().await;
            }
        }
        pulled.touch("b:1").await.unwrap();
        let again = Pulled::new(dir.path().join("images.json"));
        let all = again.oldest_first().await.unwrap();
        let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a:1", "b:1"]);
        again.remove("a:1").await.unwrap();
        assert_eq!(pulled.oldest_first().await.unwrap().len(), 1);
    }
}

//! Files that machines boot from: fetched once, verified, kept under their hash, and let go of by
//! age and pressure. The time of the last use is the file's time of change.

mod fetch;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::RwLock;
use weft_fetch::Fetch;
use weft_types::{Reason, VmImage};
use weft_unit::{CleanPolicy, Cleaned, Error, Progress, Step};

use crate::disks::images_in_use;
use crate::fail;
use crate::options::{ArtifactSource, Options};
use crate::record::make_dir;

/// Beginning of the names of files that are not whole yet.
const PARTIAL: &str = "partial-";
/// A partial file that nobody has written to for so long is left over.
const STALE: Duration = Duration::from_secs(3_600);

/// The images of a node.
pub(crate) struct Images {
    dir: PathBuf,
    nodes: PathBuf,
    fetch: Fetch,
    artifacts: Option<Arc<dyn ArtifactSource>>,
    /// One fetch of each image at a time.
    fetching: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Cleaning excludes whoever begins to use an image.
    cleaning: RwLock<()>,
}

/// The name of an image's file, and for people: the hash with its algorithm.
pub(crate) fn name(image: &VmImage) -> Result<String, Error> {
    match (&image.sha256, image.blob) {
        (Some(sha256), None) => Ok(format!("sha256-{sha256}")),
        (None, Some(blob)) => Ok(format!("blake3-{blob}")),
        _ => Err(fail::refused("vm.image", "has no hash")),
    }
}

impl Images {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        Ok(Self {
            dir: options.data_dir.join("images"),
            nodes: options.data_dir.join("nodes"),
            fetch: fetch::images(options),
            artifacts: options.artifacts.clone(),
            fetching: Mutex::default(),
            cleaning: RwLock::new(()),
        })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Excludes cleaning while a unit writes down what it uses.
    pub(crate) async fn pin(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.cleaning.read().await
    }

    /// Where an image lies; fetches it unless it is there. The unit that needs it has written that
    /// down before.
    pub(crate) async fn get(&self, image: &VmImage, progress: &Progress) -> Result<PathBuf, Error> {
        let name = name(image)?;
        let path = self.path(&name);
        let lock = Arc::clone(self.fetching.lock().entry(name.clone()).or_default());
        let outcome = {
            let _one = lock.lock().await;
            self.get_alone(image, &path, progress).await
        };
        let mut fetching = self.fetching.lock();
        // Two are this one and that of the map.
        if Arc::strong_count(&lock) == 2 {
            fetching.remove(&name);
        }
        outcome.map(|()| path)
    }

    async fn get_alone(
        &self,
        image: &VmImage,
        path: &Path,
        progress: &Progress,
    ) -> Result<(), Error> {
        let failed = |e: io::Error| fail::file(Step::Prepare, "keeping image", path, &e);
        if path.exists() {
            return touch(path).map_err(failed);
        }
        make_dir(&self.dir).map_err(failed)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|e| failed(io::Error::other(e.to_string())))?;
        let partial = Partial(self.dir.join(format!("{PARTIAL}{}", hex::encode(random))));
        match (&image.url, &image.sha256, image.blob) {
            (Some(url), Some(sha256), _) => {
                fetch::to_file(&self.fetch, url, sha256, &partial.0, progress).await?;
            }
            (_, _, Some(blob)) => {
                let source = self.artifacts.as_ref().ok_or_else(|| {
                    let detail = "this node has no source of artifacts; give the image by `url`";
                    Error::new(Step::Prepare, Reason::ArtifactMissing, detail)
                })?;
                let _ = progress.send_replace(format!("fetching artifact {blob}"));
                let from = source.path(blob).await?;
                let to = partial.0.clone();
                let linked = tokio::task::spawn_blocking(move || link_or_copy(&from, &to)).await;
                linked.map_err(io::Error::other).flatten().map_err(failed)?;
            }
            _ => return Err(fail::refused("vm.image", "has neither `url` nor `blob`")),
        }
        let mode = std::fs::Permissions::from_mode(0o400);
        std::fs::set_permissions(&partial.0, mode).map_err(failed)?;
        touch(&partial.0).map_err(failed)?;
        std::fs::rename(&partial.0, path).map_err(failed)
    }

    /// Lets go of images.
    pub(crate) async fn clean(&self, policy: CleanPolicy) -> io::Result<Cleaned> {
        let _alone = self.cleaning.write().await;
        let used = images_in_use(&self.nodes);
        let mut unused = Vec::new();
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Cleaned::default()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let meta = entry.metadata()?;
            let age = SystemTime::now().duration_since(meta.modified()?);
            let age = age.unwrap_or_default();
            let is_partial = name.starts_with(PARTIAL);
            if !used.contains(&name) && (!is_partial || age > STALE) {
                unused.push((age, meta.len(), entry.path()));
            }
        }
        // The oldest first.
        unused.sort_by_key(|entry| std::cmp::Reverse(entry.0));
        let mut cleaned = Cleaned::default();
        for (age, bytes, path) in unused {
            if age < policy.unused_for && free_bytes(&self.dir)? >= policy.min_free_bytes {
                continue;
            }
            crate::record::remove_file(&path)?;
            cleaned.items += 1;
            cleaned.bytes += bytes;
        }
        Ok(cleaned)
    }
}

fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Notes the use of an image.
fn touch(path: &Path) -> io::Result<()> {
    let now = rustix::fs::Timespec {
        tv_sec: 0,
        tv_nsec: rustix::fs::UTIME_NOW,
    };
    let times = rustix::fs::Timestamps {
        last_access: now,
        last_modification: now,
    };
    let flags = rustix::fs::AtFlags::empty();
    Ok(rustix::fs::utimensat(rustix::fs::CWD, path, &times, flags)?)
}

/// A file of its own that shares its blocks where the file system can: permissions and times of a
/// hard link would be those of the artifact.
fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = std::fs::File::open(from)?;
    let target = std::fs::File::create_new(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    io::copy(&mut &source, &mut &target).map(drop)
}

/// A file that is removed unless it got its name.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        // It has another name by now, or nobody needs it.
        let _ = std::fs::remove_file(&self.0);
    }
}

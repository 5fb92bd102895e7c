//! Letting go of images that nobody uses.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use weft_unit::{CleanPolicy, Cleaned};

use super::reference::Digest;
use super::store::{Images, layer_name};
use crate::Error;
use crate::error::During;
use crate::files;
use crate::lock::{FileLock, Hold};

/// What was used so recently is about to be started: it stays even when the disk is full.
const JUST_USED: Duration = Duration::from_secs(60);
/// Parts of blobs that nobody has gone on with for so long are not wanted any more.
const PART_AGE: Duration = Duration::from_secs(24 * 3600);

impl Images {
    /// Removes images that are not in `used`, by age and by want of room. Does nothing while an
    /// image is fetched; there will be a next time.
    pub(crate) fn clean(
        &self,
        policy: CleanPolicy,
        used: &BTreeSet<Digest>,
    ) -> Result<Cleaned, Error> {
        let mut cleaned = Cleaned::default();
        let Some(_alone) = FileLock::try_take(&self.in_use_file(), Hold::Exclusive)? else {
            return Ok(cleaned);
        };
        let now = SystemTime::now();
        let mut idle: Vec<(Duration, Digest)> = self
            .all()?
            .into_iter()
            .filter(|(_, image)| !used.contains(&image.digest))
            .map(|(filed, _)| (age(&self.image_file(&filed), now), filed))
            .collect();
        idle.sort_unstable_by(|a, b| b.cmp(a));
        for (unused_for, digest) in idle {
            let is_old = unused_for >= policy.unused_for;
            let is_short = free_bytes(self.dir())? < policy.min_free_bytes;
            if is_old || (is_short && unused_for >= JUST_USED) {
                files::remove_file(&self.image_file(&digest))?;
                cleaned.items += 1;
                cleaned.bytes += self.drop_unused_layers()?;
            }
        }
        // Layers of a pull that was never finished have no image.
        cleaned.bytes += self.drop_unused_layers()?;
        self.drop_dangling_names()?;
        self.drop_old_parts(now)?;
        Ok(cleaned)
    }

    fn drop_unused_layers(&self) -> Result<u64, Error> {
        let kept: BTreeSet<String> = self
            .all()?
            .iter()
            .flat_map(|(_, image)| image.layers.iter().map(layer_name))
            .collect();
        let mut bytes = 0;
        for file in files::names(&self.layers_dir())? {
            if let Some(name) = file.strip_suffix(".json")
                && !kept.contains(name)
            {
                bytes += self.drop_layer(name)?;
            }
        }
        Ok(bytes)
    }

    fn drop_old_parts(&self, now: SystemTime) -> Result<(), Error> {
        let blobs = self.dir().join("blobs");
        for name in files::names(&blobs)? {
            let part = blobs.join(name);
            if age(&part, now) > PART_AGE {
                files::remove_file(&part)?;
            }
        }
        Ok(())
    }
}

fn age(path: &Path, now: SystemTime) -> Duration {
    std::fs::metadata(path)
        .and_then(|found| found.modified())
        .ok()
        .and_then(|modified| now.duration_since(modified).ok())
        .unwrap_or_default()
}

fn free_bytes(dir: &Path) -> Result<u64, Error> {
    let stat = rustix::fs::statvfs(dir).during(|| format!("look at {}", dir.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

//! Where images and layers lie.
//!
//! ```text
//!  images/<digest of the manifest>.json   what a finished image is made of; its time is its last use
//!  names/<hash of a reference>.json       which image a tag was when it was pulled
//!  layers/<24 digits>/                    a finished layer, as it is mounted
//!  layers/<24 digits>.json                its whole digest and size; without it the layer is not there
//!  blobs/<digest>.part                    what was fetched so far
//!  tmp/                                   what is being unpacked; emptied at each start
//! ```

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::manifest::ImageConfig;
use super::reference::{Digest, Reference};
use super::registry::Registry;
use crate::Error;
use crate::error::During;
use crate::files;
use crate::lock::{FileLock, Hold};
use crate::unpack::Limits;

/// So many digits of a layer's digest name its directory: 96 bits, and all names of an image fit
/// into the options of one mount.
const LAYER_NAME_DIGITS: usize = 24;

/// A finished image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Digest of its manifest.
    pub(crate) digest: Digest,
    /// How its program is run.
    pub(crate) config: ImageConfig,
    /// Its layers, the lowest first.
    pub(crate) layers: Vec<Digest>,
}

impl Image {
    /// Names of the layers' directories, the lowest first.
    pub(crate) fn layer_names(&self) -> Vec<String> {
        self.layers.iter().map(layer_name).collect()
    }
}

/// What is known of a finished layer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) digest: Digest,
    pub(super) diff_id: Digest,
    pub(super) bytes: u64,
}

#[derive(Serialize, Deserialize)]
struct NameRecord {
    reference: String,
    image: Digest,
}

pub(super) fn layer_name(digest: &Digest) -> String {
    digest.hex()[..LAYER_NAME_DIGITS].to_owned()
}

/// The images of one data directory.
pub(crate) struct Images {
    dir: PathBuf,
    pub(super) registry: Registry,
    pub(super) limits: Limits,
}

impl Images {
    /// Opens the store and removes what was left half made.
    pub(crate) fn open(dir: PathBuf, registry: Registry, limits: Limits) -> Result<Self, Error> {
        let images = Self {
            dir,
            registry,
            limits,
        };
        for part in ["images", "names", "layers", "blobs", "tmp"] {
            files::make_dir(&images.dir.join(part), 0o700)?;
        }
        images.drop_half_made()?;
        Ok(images)
    }

    /// Another instance may be at work on a layer: then its lock is held.
    fn drop_half_made(&self) -> Result<(), Error> {
        let mut begun = files::names(&self.layers_dir())?;
        begun.retain(|name| !name.ends_with(".json") && !self.layer_file(name).exists());
        begun.extend(files::names(&self.dir.join("tmp"))?);
        for name in begun {
            let lock = self.fetching_file(&name);
            if let Some(held) = FileLock::try_take(&lock, Hold::Exclusive)? {
                files::remove_tree(&self.dir.join("tmp").join(&name))?;
                if !self.layer_file(&name).exists() {
                    files::remove_tree(&self.layers_dir().join(&name))?;
                }
                held.remove(&lock)?;
            }
        }
        Ok(())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the layers' directories are.
    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.dir.join("layers")
    }

    fn layer_file(&self, name: &str) -> PathBuf {
        self.layers_dir().join(format!("{name}.json"))
    }

    pub(super) fn part_file(&self, digest: &Digest) -> PathBuf {
        self.dir
            .join("blobs")
            .join(format!("{}.part", digest.hex()))
    }

    pub(super) fn image_file(&self, digest: &Digest) -> PathBuf {
        self.dir
            .join("images")
            .join(format!("{}.json", digest.hex()))
    }

    fn name_file(&self, reference: &Reference) -> PathBuf {
        let hash = Digest::of(reference.to_string().as_bytes());
        self.dir.join("names").join(format!("{}.json", hash.hex()))
    }

    /// The image, when all of it is here.
    pub(crate) fn find(&self, reference: &Reference) -> Option<Image> {
        let digest = match &reference.digest {
            Some(digest) => digest.clone(),
            None => read::<NameRecord>(&self.name_file(reference))?.image,
        };
        self.by_digest(&digest)
    }

    /// The image of a manifest, or of an index when it was pulled by that.
    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<Image> {
        let image: Image = read(&self.image_file(digest))?;
        let is_whole = image.layers.iter().all(|layer| self.has_layer(layer));
        is_whole.then_some(image)
    }

    pub(super) fn layer(&self, digest: &Digest) -> Option<LayerRecord> {
        read::<LayerRecord>(&self.layer_file(&layer_name(digest)))
    }

    pub(super) fn has_layer(&self, digest: &Digest) -> bool {
        self.layer(digest)
            .is_some_and(|record| record.digest == *digest)
    }

    /// Every image, with the digest it is filed under.
    pub(super) fn all(&self) -> Result<Vec<(Digest, Image)>, Error> {
        let mut all = Vec::new();
        for name in files::names(&self.dir.join("images"))? {
            let digest = name
                .strip_suffix(".json")
                .and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if let Some(digest) = digest
                && let Some(image) = read(&self.image_file(&digest))
            {
                all.push((digest, image));
            }
        }
        Ok(all)
    }

    /// Notes that an image is used now.
    pub(crate) fn touch(&self, digest: &Digest) {
        if let Ok(file) = std::fs::File::options()
            .append(true)
            .open(self.image_file(digest))
        {
            let _ = file.set_modified(std::time::SystemTime::now());
        }
    }

    /// Files a finished image under its own digest and under that it was asked for by.
    pub(super) fn keep(&self, reference: &Reference, image: &Image) -> Result<(), Error> {
        files::write_json(&self.image_file(&image.digest), image)?;
        match &reference.digest {
            Some(asked) if *asked != image.digest => {
                files::write_json(&self.image_file(asked), image)
            }
            Some(_) => Ok(()),
            None => files::write_json(
                &self.name_file(reference),
                &NameRecord {
                    reference: reference.to_string(),
                    image: image.digest.clone(),
                },
            ),
        }
    }

    /// A place to unpack a layer in.
    pub(super) fn scratch(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let dir = self.dir.join("tmp").join(layer_name(digest));
        files::remove_tree(&dir)?;
        files::make_dir(&dir, 0o755)?;
        Ok(dir)
    }

    /// Takes an unpacked layer in. It is on the disk before it counts.
    pub(super) fn keep_layer(&self, scratch: &Path, record: &LayerRecord) -> Result<(), Error> {
        let name = layer_name(&record.digest);
        let dir = self.layers_dir().join(&name);
        if let Some(other) = self.layer(&record.digest)
            && other.digest != record.digest
        {
            return Err(Error::Corrupt(format!(
                "{} and {} begin alike; remove the image of one of them",
                record.digest, other.digest
            )));
        }
        let opened =
            std::fs::File::open(scratch).during(|| format!("open {}", scratch.display()))?;
        rustix::fs::syncfs(&opened).during(|| "write the layer to the disk".into())?;
        files::remove_tree(&dir)?;
        std::fs::rename(scratch, &dir).during(|| format!("make {}", dir.display()))?;
        files::write_json(&self.layer_file(&name), record)
    }

    /// Removes a layer; its record first, so that half of one never counts.
    pub(super) fn drop_layer(&self, name: &str) -> Result<u64, Error> {
        let record: Option<LayerRecord> = read(&self.layer_file(name));
        files::remove_file(&self.layer_file(name))?;
        files::remove_tree(&self.layers_dir().join(name))?;
        Ok(record.map_or(0, |record| record.bytes))
    }

    /// Names of tags that point to images that are no more.
    pub(super) fn drop_dangling_names(&self) -> Result<(), Error> {
        let dir = self.dir.join("names");
        for name in files::names(&dir)? {
            let file = dir.join(&name);
            let points_to = read::<NameRecord>(&file).map(|record| record.image);
            if !points_to.is_some_and(|image| self.image_file(&image).exists()) {
                files::remove_file(&file)?;
            }
        }
        Ok(())
    }

    /// Held shared by whoever brings an image or takes it into use, alone by cleaning.
    pub(crate) fn in_use_file(&self) -> PathBuf {
        self.dir.join("in-use")
    }

    /// Held while a layer is fetched.
    fn fetching_file(&self, name: &str) -> PathBuf {
        self.dir.join("blobs").join(format!("{name}.lock"))
    }

    pub(super) async fn fetching(&self, digest: &Digest) -> Result<Fetching, Error> {
        let path = self.fetching_file(&layer_name(digest));
        let lock = FileLock::take(&path, Hold::Exclusive).await?;
        Ok(Fetching { lock, path })
    }
}

/// The lock of a layer that is being fetched.
pub(super) struct Fetching {
    lock: FileLock,
    path: PathBuf,
}

impl Fetching {
    pub(super) fn done(self) -> Result<(), Error> {
        self.lock.remove(&self.path)
    }
}

/// A record that cannot be read is one that is not there: it is made again.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

//! Fetching an image: manifest, configuration, and several layers at once.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_types::PullPolicy;
use weft_unit::{Credentials, Progress};

use super::download::{download, retried};
use super::manifest::{Document, Layer, Manifest, parse_config, parse_document};
use super::progress::Pulled;
use super::reference::{Digest, Reference};
use super::registry::Session;
use super::store::{Image, Images, LayerRecord};
use crate::Error;
use crate::error::During;
use crate::files;
use crate::lock::{FileLock, Hold};
use crate::unpack::unpack_layer;

/// How many layers are fetched at once.
const PARALLEL_LAYERS: usize = 3;

impl Images {
    /// The image, fetched as `pull` says.
    pub(crate) async fn ensure(
        self: &Arc<Self>,
        reference: &Reference,
        pull: PullPolicy,
        credentials: Option<&Credentials>,
        progress: &Progress,
    ) -> Result<Image, Error> {
        let _in_use = FileLock::take(&self.in_use_file(), Hold::Shared).await?;
        let may_have_moved = pull == PullPolicy::Always && reference.digest.is_none();
        if let Some(image) = self.find(reference).filter(|_| !may_have_moved) {
            self.touch(&image.digest);
            return Ok(image);
        }
        if pull == PullPolicy::Never {
            return Err(Error::ImageNotFound(format!(
                "the node does not have {reference}, and `container.pull` is `never`"
            )));
        }
        progress.send_replace(format!("asking {} for the image", reference.registry));
        let session = self.registry.session(reference, credentials)?;
        let (digest, manifest) = manifest(&session, reference).await?;
        if let Some(image) = self.by_digest(&digest) {
            self.touch(&image.digest);
            self.keep(reference, &image)?;
            return Ok(image);
        }
        let bytes = manifest.layers.iter().map(|layer| layer.blob.size).sum();
        let pulled = Arc::new(Pulled::new(progress, manifest.layers.len() as u64, bytes));
        let fetching = self.fetching(&manifest.config.digest).await?;
        let config_part = self.part_file(&manifest.config.digest);
        download(&session, &manifest.config, &config_part, &pulled).await?;
        let config = std::fs::read(&config_part).during(|| "read the configuration".into())?;
        let config = parse_config(&config, manifest.layers.len())?;
        self.pull_layers(&session, &manifest, &config.rootfs.diff_ids, &pulled)
            .await?;
        files::remove_file(&config_part)?;
        fetching.done()?;
        let image = Image {
            digest,
            config,
            layers: manifest
                .layers
                .into_iter()
                .map(|layer| layer.blob.digest)
                .collect(),
        };
        self.keep(reference, &image)?;
        Ok(image)
    }

    async fn pull_layers(
        self: &Arc<Self>,
        session: &Session,
        manifest: &Manifest,
        diff_ids: &[Digest],
        pulled: &Arc<Pulled>,
    ) -> Result<(), Error> {
        let slots = Arc::new(Semaphore::new(PARALLEL_LAYERS));
        let mut pulls = JoinSet::new();
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let pull = Pull {
                images: Arc::clone(self),
                session: session.clone(),
                layer: layer.clone(),
                diff_id: diff_id.clone(),
                pulled: Arc::clone(pulled),
            };
            let slots = Arc::clone(&slots);
            pulls.spawn(async move {
                let _slot = slots.acquire().await;
                pull.run().await
            });
        }
        while let Some(done) = pulls.join_next().await {
            done.map_err(|e| Error::Pull(e.to_string()))??;
        }
        Ok(())
    }
}

/// The manifest for this machine, and the digest that it is verified against.
async fn manifest(session: &Session, reference: &Reference) -> Result<(Digest, Manifest), Error> {
    let version = reference.version();
    let bytes = fetch_document(session, &version, reference.digest.as_ref()).await?;
    match parse_document(&bytes)? {
        Document::Manifest(manifest) => Ok((Digest::of(&bytes), manifest)),
        Document::Index(chosen) => {
            let version = chosen.digest.to_string();
            let bytes = fetch_document(session, &version, Some(&chosen.digest)).await?;
            match parse_document(&bytes)? {
                Document::Manifest(manifest) => Ok((chosen.digest, manifest)),
                Document::Index(_) => Err(Error::Corrupt(format!(
                    "{reference}: an index that names an index"
                ))),
            }
        }
    }
}

async fn fetch_document(
    session: &Session,
    version: &str,
    expected: Option<&Digest>,
) -> Result<Vec<u8>, Error> {
    let bytes = retried(|| session.manifest(version)).await?;
    match expected {
        Some(expected) if Digest::of(&bytes) != *expected => Err(Error::Corrupt(format!(
            "the manifest has the digest {} instead of {expected}",
            Digest::of(&bytes)
        ))),
        _ => Ok(bytes),
    }
}

/// One layer on its way.
struct Pull {
    images: Arc<Images>,
    session: Session,
    layer: Layer,
    diff_id: Digest,
    pulled: Arc<Pulled>,
}

impl Pull {
    async fn run(self) -> Result<(), Error> {
        let digest = &self.layer.blob.digest;
        let fetching = self.images.fetching(digest).await?;
        if self.images.has_layer(digest) {
            self.pulled.add_bytes(self.layer.blob.size);
            self.pulled.add_layer();
            return fetching.done();
        }
        let part = self.images.part_file(digest);
        download(&self.session, &self.layer.blob, &part, &self.pulled).await?;
        // The lock goes along: the work goes on when this future is dropped.
        tokio::task::spawn_blocking(move || {
            self.unpack()?;
            fetching.done()
        })
        .await
        .map_err(|e| Error::Pull(e.to_string()))?
    }

    fn unpack(&self) -> Result<(), Error> {
        let digest = &self.layer.blob.digest;
        let part = self.images.part_file(digest);
        let scratch = self.images.scratch(digest)?;
        let unpacked = self.unpack_into(&part, &scratch);
        let kept = unpacked.and_then(|record| self.images.keep_layer(&scratch, &record));
        if kept.is_err() {
            files::remove_tree(&scratch)?;
        }
        files::remove_file(&part)?;
        kept?;
        self.pulled.add_layer();
        Ok(())
    }

    fn unpack_into(
        &self,
        part: &std::path::Path,
        scratch: &std::path::Path,
    ) -> Result<LayerRecord, Error> {
        let archive = std::fs::File::open(part).during(|| format!("open {}", part.display()))?;
        let unpacked = unpack_layer(archive, self.layer.compression, scratch, self.images.limits)?;
        if unpacked.diff_id != self.diff_id {
            return Err(Error::Corrupt(format!(
                "layer {} unpacks to {}, the configuration says {}",
                self.layer.blob.digest, unpacked.diff_id, self.diff_id
            )));
        }
        Ok(LayerRecord {
            digest: self.layer.blob.digest.clone(),
            diff_id: unpacked.diff_id,
            bytes: unpacked.bytes,
        })
    }
}

//! How the runtime is set up.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use weft_types::{BlobHash, NodeId};
use weft_unit::Error;

/// Where artifacts are fetched from.
#[async_trait]
pub trait ArtifactSource: Send + Sync + 'static {
    /// A local file with the bytes of an artifact, verified. It is linked or copied at once, and
    /// may go afterwards.
    ///
    /// # Errors
    /// `artifact-missing`, `artifact-corrupt`, …
    async fn path(&self, hash: BlobHash) -> Result<PathBuf, Error>;
}

/// How machines are run on this node.
#[derive(Clone)]
pub struct Options {
    /// Images, records and consoles; also the pool `default`, unless `pools` has one.
    pub data_dir: PathBuf,
    /// Whose machines these are.
    pub node: NodeId,
    /// Directories for disks, by the name of their pool.
    pub pools: BTreeMap<String, PathBuf>,
    /// Path of `qemu-system-x86_64`; looked for in `PATH` when absent.
    pub qemu: Option<PathBuf>,
    /// Path of `qemu-img`; looked for beside `qemu` and in `PATH` when absent.
    pub qemu_img: Option<PathBuf>,
    /// Where images by hash come from; without, they are refused.
    pub artifacts: Option<Arc<dyn ArtifactSource>>,
    /// Whether images may be fetched from loopback and private addresses. Link-local addresses and
    /// those of clouds' metadata services are refused in any case.
    pub allow_private_urls: bool,
    /// The largest image by URL, in bytes.
    pub max_image_bytes: u64,
    /// How long fetching one image may take.
    pub fetch_timeout: Duration,
    /// The most that is kept of a machine's console, in bytes.
    pub console_bytes: u64,
    /// Whether KVM is used when it works.
    pub use_kvm: bool,
}

impl Options {
    /// The defaults: pools and programs as found, images up to 64 GiB within an hour, 8 MiB of
    /// console.
    pub fn new(data_dir: PathBuf, node: NodeId) -> Self {
        Self {
            data_dir,
            node,
            pools: BTreeMap::new(),
            qemu: None,
            qemu_img: None,
            artifacts: None,
            allow_private_urls: true,
            max_image_bytes: 64 << 30,
            fetch_timeout: Duration::from_secs(3_600),
            console_bytes: 8 << 20,
            use_kvm: true,
        }
    }

    /// Directory of a pool.
    pub(crate) fn pool(&self, name: &str) -> Option<PathBuf> {
        match self.pools.get(name) {
            Some(dir) => Some(dir.clone()),
            None if name == DEFAULT_POOL => Some(self.data_dir.join("pool")),
            None => None,
        }
    }

    /// Names of the pools.
    pub(crate) fn pool_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.pools.keys().cloned().collect();
        if !self.pools.contains_key(DEFAULT_POOL) {
            names.push(DEFAULT_POOL.to_owned());
        }
        names
    }
}

/// The pool of disks that name none.
pub(crate) const DEFAULT_POOL: &str = "default";

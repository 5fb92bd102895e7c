//! What backends call.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_types::{AccessMode, Retain, UnitId, VolumeClass, VolumeSpec, WorkloadId};

use crate::beneath::{is_dir, open_beneath, open_resolved};
use crate::command::Tools;
use crate::error::At;
use crate::holding::{is_shared, unsupported};
use crate::lock::Lock;
use crate::name::fnv64;
use crate::slot::Slot;
use crate::{Error, HostPaths, file_system, holding, mounts, rbd};

const BINDS: &str = ".binds";
const LOCKS: &str = ".locks";

/// Where volumes lie and what containers may have.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory for volumes, ours alone: `<data-dir>/volumes`.
    pub dir: PathBuf,
    /// Paths of the node that containers do not get.
    pub host_paths: HostPaths,
}

/// Where a volume is on the node, ready to be bound into a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mounted {
    /// The path to bind, recursively.
    pub host_path: PathBuf,
    /// Whether the container may only read it.
    pub read_only: bool,
}

/// The volumes of a node. Clones share them.
#[derive(Clone, Debug)]
pub struct Volumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    host_paths: HostPaths,
    tools: Tools,
}

impl Volumes {
    /// The volumes in a directory, which is made.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(options: Options) -> Result<Self, Error> {
        Self::with_tools(options, Tools::default())
    }

    fn with_tools(options: Options, tools: Tools) -> Result<Self, Error> {
        for dir in [options.dir.join(BINDS), options.dir.join(LOCKS)] {
            fs::create_dir_all(&dir).at(&dir)?;
        }
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&options.dir, private).at(&options.dir)?;
        let dir = options.dir.canonicalize().at(&options.dir)?;
        Ok(Self {
            inner: Arc::new(Inner {
                dir,
                host_paths: options.host_paths,
                tools,
            }),
        })
    }

    /// Makes a volume there for a unit, which holds it from now on. Does nothing when it does
    /// already.
    ///
    /// # Errors
    /// That it is refused, held by another, or what the system said.
    pub async fn mount(
        &self,
        unit: UnitId,
        spec: &VolumeSpec,
        is_privileged: bool,
    ) -> Result<Mounted, Error> {
        let (inner, spec) = (self.inner.clone(), spec.clone());
        blocking(move || inner.mount(unit, &spec, is_privileged)).await
    }

    /// Lets go of everything that a unit holds: unmounts what no other holds, and deletes the data
    /// unless they are to be retained. With `keep` they stay for the next unit of the workload.
    ///
    /// # Errors
    /// What the system said; the next call goes on.
    pub async fn release(&self, unit: UnitId, keep: bool) -> Result<(), Error> {
        let inner = self.inner.clone();
        blocking(move || inner.release(unit, keep)).await
    }

    /// Deletes what units of a workload left for others that never came. What is to be retained
    /// stays, and so does what is held.
    ///
    /// # Errors
    /// What the system said; the next call goes on.
    pub async fn forget(&self, workload: WorkloadId) -> Result<(), Error> {
        let inner = self.inner.clone();
        blocking(move || {
            inner.locked(workload, |inner| {
                inner.delete_free(workload)?;
                inner.prune(workload)
            })
        })
        .await
    }

    /// Units that hold anything.
    ///
    /// # Errors
    /// What the system said.
    pub async fn list(&self) -> Result<Vec<UnitId>, Error> {
        let inner = self.inner.clone();
        blocking(move || inner.list()).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted)?
}

/// The names in a directory; none when it is not there.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at(dir)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.at(dir)?.file_name().into_string());
    }
    Ok(names)
}

impl Inner {
    fn locked<T>(
        &self,
        workload: WorkloadId,
        work: impl FnOnce(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let path = self.dir.join(LOCKS).join(workload.to_string());
        let lock = Lock::take(&path)?;
        let outcome = work(self);
        if !self.dir.join(workload.to_string()).exists() {
            lock.remove(&path)?;
        }
        outcome
    }

    fn binds(&self, unit: UnitId) -> PathBuf {
        self.dir.join(BINDS).join(unit.to_string())
    }

    fn mount(
        &self,
        unit: UnitId,
        spec: &VolumeSpec,
        is_privileged: bool,
    ) -> Result<Mounted, Error> {
        let host_path = self.locked(unit.workload, |inner| match (&spec.host, spec.class) {
            (Some(host), None) => inner.mount_host(unit, spec, host, is_privileged),
            (None, Some(class)) => inner.mount_managed(unit, spec, class),
            _ => Err(unsupported(spec, "give either `host` or `class`")),
        })?;
        Ok(Mounted {
            host_path,
            read_only: spec.read_only || spec.access_mode == AccessMode::ReadOnlyMany,
        })
    }

    fn mount_host(
        &self,
        unit: UnitId,
        spec: &VolumeSpec,
        host: &str,
        is_privileged: bool,
    ) -> Result<PathBuf, Error> {
        let resolved = self.host_paths.resolve(host, is_privileged)?;
        if is_privileged && spec.sub_path.is_none() {
            // It may do anything: nothing is gained by a bind of what may be the whole tree.
            return Ok(resolved);
        }
        let opened = open_resolved(&resolved).at(&resolved)?;
        let opened = match &spec.sub_path {
            None => opened,
            Some(path) => {
                let opened = sub_path(opened, spec, path, false)?;
                // Beneath a path that is free there may be one that is not.
                self.host_paths
                    .resolve(&format!("{}/{path}", resolved.display()), is_privileged)?;
                opened
            }
        };
        self.bind(unit, spec, &opened)
    }

    fn mount_managed(
        &self,
        unit: UnitId,
        spec: &VolumeSpec,
        class: VolumeClass,
    ) -> Result<PathBuf, Error> {
        let dir = self.dir.join(unit.workload.to_string());
        let mut slot = holding::take(&dir, unit, spec, class)?;
        let root = self.attach(&mut slot, spec)?;
        match &spec.sub_path {
            None => Ok(root),
            Some(path) => {
                let opened = open_resolved(&root).at(&root)?;
                let opened = sub_path(opened, spec, path, true)?;
                self.bind(unit, spec, &opened)
            }
        }
    }

    /// Binds what was opened to a path that an engine can be told.
    fn bind(&self, unit: UnitId, spec: &VolumeSpec, opened: &OwnedFd) -> Result<PathBuf, Error> {
        let dir = self.binds(unit);
        fs::create_dir_all(&dir).at(&dir)?;
        let at = dir.join(format!("{:016x}", fnv64(spec.target.as_bytes())));
        if mounts::is_mounted(&at)? {
            let (wanted, there) = (rustix::fs::fstat(opened), rustix::fs::stat(&at));
            let (wanted, there) = (wanted.at(&at)?, there.at(&at)?);
            if (wanted.st_dev, wanted.st_ino) == (there.st_dev, there.st_ino) {
                return Ok(at);
            }
            mounts::unmount_all(&at)?;
        }
        remove_point(&at)?;
        mounts::bind(opened, &at)?;
        Ok(at)
    }

    /// Makes the data of a slot reachable and gives their directory.
    fn attach(&self, slot: &mut Slot, spec: &VolumeSpec) -> Result<PathBuf, Error> {
        let source = slot.record.source.clone().unwrap_or_default();
        match (slot.record.class, slot.record.size) {
            (VolumeClass::Local, None) => file_system::data_dir(slot.dir.join("data")),
            (VolumeClass::Local, Some(size)) => file_system::attach_image(&self.tools, slot, size),
            (VolumeClass::Nfs, None) => file_system::attach_nfs(&self.tools, slot, &source),
            (VolumeClass::Nfs, Some(_)) => Err(unsupported(
                spec,
                "an nfs volume cannot be held to a size; leave `size` out",
            )),
            (VolumeClass::CephRbd, _) => rbd::attach(&self.tools, slot, &source, !is_shared(spec)),
        }
    }

    /// Makes the data of a slot unreachable, before they are deleted or while nobody holds them.
    fn detach(&self, slot: &Slot, deletes: bool) -> Result<(), Error> {
        match (slot.record.class, &slot.record.source) {
            (VolumeClass::CephRbd, Some(source)) => rbd::detach(&self.tools, slot, source, deletes),
            _ => mounts::unmount_all(&slot.dir.join("mount")),
        }
    }

    fn slots(&self, workload: WorkloadId) -> Result<Vec<Slot>, Error> {
        let dir = self.dir.join(workload.to_string());
        let mut slots = Vec::new();
        for volume in names(&dir)? {
            for slot in names(&dir.join(&volume))? {
                slots.extend(Slot::read(&dir.join(&volume).join(slot))?);
            }
        }
        Ok(slots)
    }

    fn release(&self, unit: UnitId, keep: bool) -> Result<(), Error> {
        self.locked(unit.workload, |inner| {
            let binds = inner.binds(unit);
            mounts::unmount_all(&binds)?;
            mounts::remove_dir(&binds)?;
            for mut slot in inner.slots(unit.workload)? {
                if slot.is_held_by(unit) {
                    inner.release_slot(&mut slot, unit, keep)?;
                }
            }
            let is_last = inner.slots(unit.workload)?.iter().all(Slot::is_free);
            if is_last && !keep {
                inner.delete_free(unit.workload)?;
            }
            inner.prune(unit.workload)
        })
    }

    fn release_slot(&self, slot: &mut Slot, unit: UnitId, keep: bool) -> Result<(), Error> {
        let is_last = slot.record.holders.len() == 1;
        let deletes = is_last && !keep && slot.record.retain == Retain::Delete;
        if is_last {
            self.detach(slot, deletes)?;
        }
        if deletes {
            return slot.delete();
        }
        slot.record.holders.remove(&unit.to_string());
        slot.write()
    }

    fn delete_free(&self, workload: WorkloadId) -> Result<(), Error> {
        for slot in self.slots(workload)? {
            if slot.is_free() && slot.record.retain == Retain::Delete {
                self.detach(&slot, true)?;
                slot.delete()?;
            }
        }
        Ok(())
    }

    /// Removes the directories of a workload that hold nothing any more.
    fn prune(&self, workload: WorkloadId) -> Result<(), Error> {
        let dir = self.dir.join(workload.to_string());
        for volume in names(&dir)? {
            let volume = dir.join(volume);
            for slot in names(&volume)? {
                let slot = volume.join(slot);
                if Slot::read(&slot)?.is_none() {
                    mounts::unmount_all(&slot)?;
                    mounts::remove_dir(&slot)?;
                }
            }
            // Fails while it holds something.
            let _ = fs::remove_dir(&volume);
        }
        let _ = fs::remove_dir(&dir);
        Ok(())
    }

    fn list(&self) -> Result<Vec<UnitId>, Error> {
        let mut units: Vec<UnitId> = names(&self.dir.join(BINDS))?
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect();
        for name in names(&self.dir)? {
            let Ok(workload) = name.parse() else {
                continue;
            };
            for slot in self.slots(workload)? {
                units.extend(
                    slot.record
                        .holders
                        .iter()
                        .filter_map(|id| id.parse::<UnitId>().ok()),
                );
            }
        }
        units.sort_unstable();
        units.dedup();
        Ok(units)
    }
}

/// What a bind was mounted on is an empty directory or an empty file.
fn remove_point(at: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(at) {
        Err(_) => Ok(()),
        Ok(there) if there.is_dir() => fs::remove_dir(at).at(at),
        Ok(_) => fs::remove_file(at).at(at),
    }
}

fn sub_path(opened: OwnedFd, spec: &VolumeSpec, path: &str, makes: bool) -> Result<OwnedFd, Error> {
    let refused = |why: std::io::Error| Error::SubPathRefused {
        path: path.to_owned(),
        target: spec.target.clone(),
        why: why.to_string(),
    };
    if !is_dir(&opened).map_err(refused)? {
        return Err(refused(std::io::Error::other("the volume is a file")));
    }
    open_beneath(opened, Path::new(path), makes).map_err(refused)
}

#[cfg(test)]
mod tests;

//! What is kept on disk of each unit: its files, its revision, and which volumes it holds.
//!
//! ```text
//!  <data>/units/<unit>/unit.json            what was prepared
//!  <data>/units/<unit>/project/compose.yaml the inline file
//!  <data>/units/<unit>/weft.override.yaml   labels, names and limits
//!  <data>/slots/<workload>/<n>              who holds the volumes of slot n, or held them last
//!  <data>/sources/<repository>/<commit>/    checkouts
//!  <data>/locks/<unit>                      taken by whoever changes the unit
//!  <data>/images.json                       which images were pulled, and when each was used last
//! ```

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use weft_types::{UnitId, WorkloadId};

use crate::cgroup::Limits;

/// The most slots that a workload has on a node.
const MAX_SLOTS: u32 = 10_000;
/// How often is tried to take a lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// What is known of a unit beside its containers. Holds no secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Version of this format.
    pub(crate) v: u32,
    /// Revision of the workload.
    pub(crate) revision: u64,
    /// Which of the workload's sets of volumes it has.
    pub(crate) slot: u32,
    /// The commit that runs, when it is from a repository.
    pub(crate) commit: Option<String>,
    /// The directory that the checkout lies in, or the inline project.
    pub(crate) root: PathBuf,
    /// The Compose file.
    pub(crate) file: PathBuf,
    /// Its services; none before it was prepared to the end.
    pub(crate) services: Vec<ServiceRecord>,
    /// What it may use.
    pub(crate) limits: Limits,
}

/// A service of a unit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub(crate) name: String,
    /// How many containers it has.
    pub(crate) count: u64,
    /// It depends on services of lower stages alone.
    pub(crate) stage: u32,
}

/// Who holds a set of volumes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Slot {
    unit: UnitId,
    /// Whether the unit is there; it has left its volumes to the next one otherwise.
    held: bool,
}

/// The directories of one backend.
#[derive(Clone, Debug)]
pub(crate) struct State {
    root: PathBuf,
}

fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Removes a directory with all that is in it, or nothing when there is none.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Puts a file in place as a whole.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_data()?;
    file.persist(path)?;
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Nobody else changes the unit while it is held; the kernel lets go of it when its holder dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Lets go of it and removes its file, so that nothing is left of what is gone.
    pub(crate) fn retire(self) {
        // Whoever waits for it finds that the file is another one, and takes that.
        let _ = fs::remove_file(&self.path);
    }
}

impl State {
    pub(crate) fn open(root: PathBuf) -> io::Result<Self> {
        for dir in ["units", "slots", "sources", "locks"] {
            make_private(&root.join(dir))?;
        }
        Ok(Self { root })
    }

    pub(crate) fn unit_dir(&self, id: UnitId) -> PathBuf {
        self.root.join("units").join(id.to_string())
    }

    pub(crate) fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }

    /// Where `known_hosts` of Git servers is kept.
    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.root.join("known_hosts")
    }

    /// The units that have a directory.
    pub(crate) fn units(&self) -> io::Result<Vec<UnitId>> {
        let mut units = Vec::new();
        for entry in fs::read_dir(self.root.join("units"))? {
            if let Ok(id) = entry?.file_name().to_string_lossy().parse() {
                units.push(id);
            }
        }
        Ok(units)
    }

    pub(crate) fn make_unit_dir(&self, id: UnitId) -> io::Result<PathBuf> {
        let dir = self.unit_dir(id);
        make_private(&dir.join("project"))?;
        Ok(dir)
    }

    /// What is known of a unit; nothing when its record was not written to the end.
    pub(crate) fn record(&self, id: UnitId) -> io::Result<Option<Record>> {
        read_json(&self.unit_dir(id).join("unit.json"))
    }

    pub(crate) fn save(&self, id: UnitId, record: &Record) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(record)?;
        write_whole(&self.unit_dir(id).join("unit.json"), &bytes)
    }

    /// Waits until nobody else changes the unit.
    pub(crate) async fn lock(&self, id: UnitId) -> io::Result<Lock> {
        self.lock_file(self.root.join("locks").join(id.to_string()))
            .await
    }

    async fn lock_file(&self, path: PathBuf) -> io::Result<Lock> {
        loop {
            let file = fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) if is_still(&file, &path) => return Ok(Lock { _file: file, path }),
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_INTERVAL).await,
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// The slot of a unit: its own, else the lowest that nobody holds, first one with volumes that
    /// another unit has left.
    pub(crate) async fn take_slot(&self, id: UnitId) -> io::Result<u32> {
        let lock = self.lock_slots(id.workload).await?;
        make_private(&self.slots_of(id.workload))?;
        let taken = self.read_slots(id.workload)?;
        let own = taken.iter().find(|(_, slot)| slot.unit == id);
        let left = taken.iter().find(|(_, slot)| !slot.held);
        let number = match own.or(left) {
            Some((number, _)) => *number,
            None => (0..MAX_SLOTS)
                .find(|number| taken.iter().all(|(taken, _)| taken != number))
                .ok_or_else(|| io::Error::other("every slot of the workload is taken"))?,
        };
        self.write_slot(id, number, true)?;
        lock.retire();
        Ok(number)
    }

    fn write_slot(&self, id: UnitId, number: u32, held: bool) -> io::Result<()> {
        let bytes = serde_json::to_vec(&Slot { unit: id, held })?;
        let path = self.slots_of(id.workload).join(number.to_string());
        write_whole(&path, &bytes)
    }

    /// The slot that a unit holds or has left and that nobody has taken over.
    pub(crate) fn slot_of(&self, id: UnitId) -> io::Result<Option<u32>> {
        let slots = self.read_slots(id.workload)?;
        Ok(slots
            .into_iter()
            .find(|(_, slot)| slot.unit == id)
            .map(|(number, _)| number))
    }

    /// Leaves a slot and its volumes to the next unit.
    pub(crate) async fn leave_slot(&self, id: UnitId) -> io::Result<()> {
        let lock = self.lock_slots(id.workload).await?;
        if let Some(number) = self.slot_of(id)? {
            self.write_slot(id, number, false)?;
        }
        lock.retire();
        Ok(())
    }

    /// Forgets a slot whose volumes are gone.
    pub(crate) async fn free_slot(&self, id: UnitId) -> io::Result<()> {
        let lock = self.lock_slots(id.workload).await?;
        let dir = self.slots_of(id.workload);
        if let Some(number) = self.slot_of(id)? {
            fs::remove_file(dir.join(number.to_string()))?;
        }
        if self.read_slots(id.workload)?.is_empty() {
            remove_tree(&dir)?;
        }
        lock.retire();
        Ok(())
    }

    async fn lock_slots(&self, workload: WorkloadId) -> io::Result<Lock> {
        self.lock_file(self.root.join("locks").join(workload.to_string()))
            .await
    }

    fn slots_of(&self, workload: WorkloadId) -> PathBuf {
        self.root.join("slots").join(workload.to_string())
    }

    fn read_slots(&self, workload: WorkloadId) -> io::Result<Vec<(u32, Slot)>> {
        let mut slots = Vec::new();
        let dir = match fs::read_dir(self.slots_of(workload)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(slots),
            other => other?,
        };
        for entry in dir {
            let entry = entry?;
            let Ok(number) = entry.file_name().to_string_lossy().parse() else {
                continue;
            };
            if let Some(slot) = read_json(&entry.path())? {
                slots.push((number, slot));
            }
        }
        slots.sort_by_key(|(number, _)| *number);
        Ok(slots)
    }
}

/// Whether a file is still the one at its path.
fn is_still(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => open.ino() == there.ino() && open.dev() == there.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(number: u32) -> UnitId {
        UnitId {
            workload: WorkloadId(7),
            number,
        }
    }

    #[tokio::test]
    async fn volumes_are_taken_over_from_a_unit_that_left_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path().to_owned()).unwrap();
        assert_eq!(state.take_slot(unit(1)).await.unwrap(), 0);
        assert_eq!(state.take_slot(unit(2)).await.unwrap(), 1);
        assert_eq!(state.take_slot(unit(1)).await.unwrap(), 0);
        state.leave_slot(unit(1)).await.unwrap();
        assert_eq!(state.slot_of(unit(1)).unwrap(), Some(0));
        assert_eq!(state.take_slot(unit(3)).await.unwrap(), 0);
        assert_eq!(state.slot_of(unit(1)).unwrap(), None);
        for number in [2, 3, 1] {
            state.free_slot(unit(number)).await.unwrap();
        }
        assert!(!state.slots_of(WorkloadId(7)).exists());
        assert_eq!(fs::read_dir(dir.path().join("locks")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_lock_is_held_by_one_also_when_its_file_is_retired() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path().to_owned()).unwrap();
        let first = state.lock(unit(1)).await.unwrap();
        let waiting = state.lock(unit(1));
        tokio::pin!(waiting);
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, &mut waiting).await.is_err());
        first.retire();
        let second = waiting.await.unwrap();
        assert!(is_still(&second._file, &second.path));
    }
}

//! What the agent tells its guard, and the guard the next agent, in files beneath `guard/`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_types::{NodeId, UnitId};

use crate::small_file;

const VERSION: u32 = 1;

/// The exclusive units of a node, with what is needed to end them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct List {
    v: u32,
    /// Grows with every change within the life of an agent.
    pub(super) number: u64,
    pub(super) node: NodeId,
    pub(super) storage_pools: BTreeMap<String, PathBuf>,
    /// Each with the name of its backend.
    pub(super) units: BTreeMap<UnitId, String>,
}

impl List {
    pub(crate) fn new(node: NodeId, storage_pools: BTreeMap<String, PathBuf>) -> Self {
        Self {
            v: VERSION,
            number: 0,
            node,
            storage_pools,
            units: BTreeMap::new(),
        }
    }
}

/// The files of a data directory.
#[derive(Clone, Debug)]
pub(super) struct Place {
    data_dir: PathBuf,
    dir: PathBuf,
}

impl Place {
    /// # Errors
    /// When the directories cannot be made.
    pub(super) fn open(data_dir: PathBuf) -> io::Result<Self> {
        let data_dir = std::path::absolute(data_dir)?;
        let place = Self {
            dir: data_dir.join("guard"),
            data_dir,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(place.stops())?;
        Ok(place)
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Held by the guard that acts.
    pub(super) fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }

    fn file(&self) -> PathBuf {
        self.dir.join("units.json")
    }

    fn stops(&self) -> PathBuf {
        self.dir.join("stopped")
    }

    /// Whole whenever it is read. Not synced: after a loss of power nothing runs.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn write(&self, list: &List) -> io::Result<()> {
        small_file::write_unsynced(&self.file(), &serde_json::to_vec(list)?)
    }

    /// The list; `None` when there is none, or none that this program knows how to read.
    pub(super) fn read(&self) -> Option<List> {
        let list: List = serde_json::from_slice(&fs::read(self.file()).ok()?).ok()?;
        (list.v == VERSION).then_some(list)
    }

    /// The guard ends this unit now. A disk that takes no note keeps nobody from that.
    pub(super) fn note_stop(&self, unit: UnitId) {
        let _ = fs::write(self.stops().join(unit.to_string()), b"");
    }

    pub(super) fn has_stopped(&self, unit: UnitId) -> bool {
        self.stops().join(unit.to_string()).exists()
    }

    pub(super) fn forget_stop(&self, unit: UnitId) {
        let _ = fs::remove_file(self.stops().join(unit.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_types::WorkloadId;

    #[test]
    fn lists_and_notes_are_read_as_they_were_written() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::open(dir.path().to_owned()).unwrap();
        assert_eq!(place.read(), None);
        let unit = UnitId {
            workload: WorkloadId(3),
            number: 4,
        };
        let mut list = List::new("n1".parse().unwrap(), BTreeMap::new());
        list.units.insert(unit, "docker".to_owned());
        place.write(&list).unwrap();
        assert_eq!(place.read(), Some(list.clone()));
        list.v = 9;
        place.write(&list).unwrap();
        assert_eq!(place.read(), None);
        assert!(!place.has_stopped(unit));
        place.note_stop(unit);
        assert!(place.has_stopped(unit));
        place.forget_stop(unit);
        assert!(!place.has_stopped(unit));
    }
}

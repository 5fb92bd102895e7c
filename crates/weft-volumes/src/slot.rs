//! One piece of data that units hold, and what is written down of it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_types::{Retain, UnitId, VolumeClass};

use crate::error::At;
use crate::{Error, mounts};

const RECORD: &str = "volume.json";
const NEW_RECORD: &str = "volume.json.new";

/// What is written down of a slot: before its data are made, until after they are gone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Version of this shape.
    pub v: u32,
    /// Ids of the units that hold it.
    pub holders: BTreeSet<String>,
    pub class: VolumeClass,
    pub retain: Retain,
    /// In bytes; of a file or a device that was made for it.
    pub size: Option<u64>,
    pub fs_type: String,
    pub source: Option<String>,
    /// Whether the block device was made for it, and goes with it.
    pub made_device: bool,
}

/// A directory with a record.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub dir: PathBuf,
    pub record: Record,
}

impl Slot {
    /// What is there; a directory without a record is what is left of one that was being made or
    /// removed, and nobody's.
    pub fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(RECORD);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).at(&path),
        };
        let record = serde_json::from_slice(&bytes).at(&path)?;
        let dir = dir.to_owned();
        Ok(Some(Self { dir, record }))
    }

    /// A new one; whatever a former one left is gone.
    pub fn make(dir: &Path, record: Record) -> Result<Self, Error> {
        mounts::unmount_all(dir)?;
        mounts::remove_dir(dir)?;
        fs::create_dir_all(dir).at(dir)?;
        let dir = dir.to_owned();
        let slot = Self { dir, record };
        slot.write()?;
        Ok(slot)
    }

    /// Writes its record, so that it survives a loss of power.
    pub fn write(&self) -> Result<(), Error> {
        let (new, path) = (self.dir.join(NEW_RECORD), self.dir.join(RECORD));
        let bytes = serde_json::to_vec_pretty(&self.record).at(&path)?;
        let mut file = File::create(&new).at(&new)?;
        file.write_all(&bytes).at(&new)?;
        file.sync_all().at(&new)?;
        fs::rename(&new, &path).at(&path)?;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .at(&self.dir)
    }

    /// Whether a unit holds it.
    pub fn is_held_by(&self, unit: UnitId) -> bool {
        self.record.holders.contains(&unit.to_string())
    }

    /// Whether nobody holds it.
    pub fn is_free(&self) -> bool {
        self.record.holders.is_empty()
    }

    /// Removes its directory; the record goes last, so that half a removal is gone on with.
    pub fn delete(&self) -> Result<(), Error> {
        for entry in fs::read_dir(&self.dir).at(&self.dir)? {
            let entry = entry.at(&self.dir)?;
            let path = entry.path();
            if entry.file_type().at(&path)?.is_dir() {
                mounts::remove_dir(&path)?;
            } else if entry.file_name() != RECORD {
                fs::remove_file(&path).at(&path)?;
            }
        }
        mounts::remove_dir(&self.dir)
    }
}

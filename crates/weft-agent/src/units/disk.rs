//! What must survive the agent: one file a unit, so that an agent that starts again without a
//! server knows what is to run.
//!
//! Secrets are never written: a unit that has some and must be started again waits for the server
//! to send them.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_core::service::record::Assignment;
use weft_core::unit::Memory;
use weft_types::UnitId;

use super::desired::Desired;
use crate::small_file;

const VERSION: u32 = 1;

/// What is kept of a unit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) v: u32,
    /// What the server wants.
    pub(super) assignment: Assignment,
    /// Whether the server still lists it; what it does not list goes.
    pub(super) is_listed: bool,
    /// Whether it cannot be started without secrets.
    pub(super) has_secrets: bool,
    /// Whether its namespace may have what reaches the node.
    #[serde(default)]
    pub(super) may_be_privileged: bool,
    /// How far it was.
    pub(super) memory: Option<Memory>,
}

impl Record {
    pub(super) fn new(assignment: &Assignment, desired: &Desired) -> Self {
        Self {
            v: VERSION,
            assignment: Assignment {
                explanation: None,
                ..assignment.clone()
            },
            is_listed: desired.is_listed,
            has_secrets: desired.has_secrets,
            may_be_privileged: desired.may_be_privileged,
            memory: None,
        }
    }
}

/// The directory of the records. Its calls wait for the disk.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    dir: PathBuf,
}

impl Disk {
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        Ok(Self { dir })
    }

    /// Every record that can be read. One that cannot is left for people to look at, and what it
    /// describes is treated as nobody's.
    pub(super) fn load(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the record of a unit cannot be read");
                }
            }
        }
        Ok(records)
    }

    /// Durable when it returns.
    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        let path = self.path(record.assignment.unit);
        small_file::write(&path, &serde_json::to_vec_pretty(record)?)
    }

    pub(super) fn remove(&self, unit: UnitId) -> io::Result<()> {
        match fs::remove_file(self.path(unit)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, unit: UnitId) -> PathBuf {
        self.dir.join(format!("{unit}.json"))
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(&fs::read(path)?)?;
    if record.v != VERSION {
        let detail = format!("version {} is not known to this agent", record.v);
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    Ok(record)
}

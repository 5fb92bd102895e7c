//! The tables of the database and what reads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::codec::{decode_events, decode_record};
use crate::{Error, EventBatch, KeyValue, LeaseId, Page, Revision};

/// The format of the data; a newer one is refused.
const FORMAT: u64 = 1;

/// Keys and their records.
pub(super) const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
/// Revisions and their events.
pub(super) const HISTORY: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("history");
/// Leases and their TTLs in milliseconds.
pub(super) const LEASES: TableDefinition<'_, u64, u64> = TableDefinition::new("leases");
/// Format, revision, the oldest revision that is known, the last lease.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The database file.
pub(super) struct Database {
    path: PathBuf,
    /// `None` after a failure, until it is opened again.
    file: Option<redb::Database>,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let file = redb::Database::create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => Error::Locked(path.display().to_string()),
            redb::DatabaseError::UpgradeRequired(found) => Error::NewerFormat {
                found: u64::from(found),
                supported: FORMAT,
            },
            error => Error::Storage(format!("{}: {error}", path.display())),
        })?;
        let database = Self {
            path: path.to_path_buf(),
            file: Some(file),
        };
        database.prepare()?;
        Ok(database)
    }

    /// Makes the tables of a new database and checks the format of an old one.
    fn prepare(&self) -> Result<(), Error> {
        let write = self.file()?.begin_write().map_err(storage)?;
        {
            let mut meta = write.open_table(META).map_err(storage)?;
            let found = meta
                .get("format")
                .map_err(storage)?
                .map(|format| format.value());
            match found {
                Some(found) if found > FORMAT => {
                    return Err(Error::NewerFormat {
                        found,
                        supported: FORMAT,
                    });
                }
                Some(_) => {}
                None => {
                    meta.insert("format", FORMAT).map_err(storage)?;
                }
            }
            write.open_table(KEYS).map_err(storage)?;
            write.open_table(HISTORY).map_err(storage)?;
            write.open_table(LEASES).map_err(storage)?;
        }
        write.commit().map_err(storage)
    }

    pub(super) fn file(&self) -> Result<&redb::Database, Error> {
        self.file.as_ref().ok_or_else(|| {
            Error::Storage(format!("{} could not be opened again", self.path.display()))
        })
    }

    /// Opens the file again: the database refuses everything after a failed write.
    pub(super) fn reopen(&mut self) -> Result<(), Error> {
        self.file = None;
        *self = Self::open(&self.path)?;
        Ok(())
    }

    pub(super) fn meta(&self, name: &str) -> Result<u64, Error> {
        let read = self.file()?.begin_read().map_err(storage)?;
        let meta = read.open_table(META).map_err(storage)?;
        Ok(meta
            .get(name)
            .map_err(storage)?
            .map_or(0, |value| value.value()))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        let read = self.file()?.begin_read().map_err(storage)?;
        let keys = read.open_table(KEYS).map_err(storage)?;
        let record = keys.get(key).map_err(storage)?;
        record
            .map(|record| decode_record(key, record.value()))
            .transpose()
    }

    pub(super) fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, Error> {
        let read = self.file()?.begin_read().map_err(storage)?;
        let keys = read.open_table(KEYS).map_err(storage)?;
        let revision = {
            let meta = read.open_table(META).map_err(storage)?;
            meta.get("revision")
                .map_err(storage)?
                .map_or(0, |value| value.value())
        };
        let mut items = Vec::new();
        let start = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        for entry in keys.range(start..).map_err(storage)? {
            let (key, record) = entry.map_err(storage)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if Some(key.value()) == after {
                continue;
            }
            if items.len() == limit {
                return Ok(Page {
                    items,
                    more: true,
                    revision,
                });
            }
            items.push(decode_record(key.value(), record.value())?);
        }
        Ok(Page {
            items,
            more: false,
            revision,
        })
    }

    /// What happened from a revision on.
    pub(super) fn history(&self, from: Revision) -> Result<Vec<EventBatch>, Error> {
        let read = self.file()?.begin_read().map_err(storage)?;
        let history = read.open_table(HISTORY).map_err(storage)?;
        let entries = history.range(from..).map_err(storage)?;
        entries
            .map(|entry| {
                let (revision, events) = entry.map_err(storage)?;
                Ok(EventBatch {
                    revision: revision.value(),
                    events: decode_events(events.value())?,
                })
            })
            .collect()
    }

    pub(super) fn leases(&self) -> Result<BTreeMap<LeaseId, Duration>, Error> {
        let read = self.file()?.begin_read().map_err(storage)?;
        let leases = read.open_table(LEASES).map_err(storage)?;
        let entries = leases.iter().map_err(storage)?;
        entries
            .map(|entry| {
                let (lease, ttl_ms) = entry.map_err(storage)?;
                Ok((
                    LeaseId(lease.value()),
                    Duration::from_millis(ttl_ms.value()),
                ))
            })
            .collect()
    }
}

pub(super) fn storage(error: impl std::fmt::Display) -> Error {
    Error::Storage(error.to_string())
}

//! What is written down of each unit, so that a later life of the agent knows it.
//!
//! A unit has the directory `nodes/NODE/UNIT` from before anything else is made for it until
//! everything else is gone; `record.json` in it says what there is. While its files go it is called
//! `UNIT.gone`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use weft_types::{NodeId, Reason, UnitId};
use weft_unit::{Error, Step};

use crate::fail;
use crate::machine::{Exit, Machine};

const RECORD: &str = "record.json";
/// Held by whoever changes the unit as a whole.
const UNIT_LOCK: &str = "unit.lock";
/// Ends the name of a directory that goes.
const GONE: &str = ".gone";
/// How often a directory is removed while others remove it, too.
const MAX_REMOVALS: u32 = 100;
/// How often a lock is tried that somebody else has.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);
/// The largest record that is read, in bytes.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// A unit, as written down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Version of this shape.
    pub(crate) v: u32,
    pub(crate) unit: UnitId,
    pub(crate) node: NodeId,
    pub(crate) revision: u64,
    /// `NAMESPACE/NAME`, for people.
    pub(crate) workload: String,
    /// Names of the images it stands on, which are not cleaned.
    pub(crate) images: Vec<String>,
    /// What was really booted, for people.
    pub(crate) source: String,
    /// CPU that it may use, in thousandths.
    pub(crate) cpu_millicores: u64,
    /// How long booting may take.
    pub(crate) boot_timeout_ms: u64,
    /// Whether it is to print its address.
    pub(crate) prints_address: bool,
    /// Whether its agent answered once.
    pub(crate) has_agent: bool,
    /// Names of further disks that stay when the unit goes.
    pub(crate) retained: Vec<String>,
    /// The machine; absent while its files are still being made.
    pub(crate) machine: Option<Machine>,
    /// Its control groups.
    pub(crate) groups: Vec<PathBuf>,
    /// Its last run; absent before the first.
    pub(crate) run: Option<Run>,
}

/// One run of a machine, from its start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) started_ms: u64,
    /// Whether its process was seen to be controllable.
    pub(crate) is_up: bool,
    pub(crate) is_paused: bool,
    /// How long it stood still while it booted; that does not count.
    pub(crate) paused_ms: u64,
    pub(crate) has_booted: bool,
    pub(crate) address: Option<IpAddr>,
    pub(crate) published: BTreeMap<u16, SocketAddr>,
    /// Somebody ends it.
    pub(crate) is_stopping: bool,
    /// How its process ended, if an agent was there to see it.
    pub(crate) exit: Option<Exit>,
    pub(crate) ended: Option<Ended>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) signal: Option<i32>,
    pub(crate) reason: Option<Reason>,
    pub(crate) detail: String,
    pub(crate) at_ms: u64,
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// The directory of all units of a node.
pub(crate) fn node_dir(data_dir: &Path, node: &NodeId) -> PathBuf {
    data_dir.join("nodes").join(node.as_str())
}

/// Makes a directory that only its owner may enter.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)
}

/// Reads the record in a unit's directory; `None` when there is none, or none that can be read.
pub(crate) fn read(dir: &Path) -> Option<Record> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = File::open(dir.join(RECORD)).ok()?;
    file.take(MAX_RECORD_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Puts a file in place at once: readers see the old one or the new one.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    std::fs::rename(&temporary, path)
}

/// Writes a record down.
pub(crate) fn write(dir: &Path, record: &Record) -> Result<(), Error> {
    let failed = |e: &io::Error| fail::file(Step::Prepare, "writing", &dir.join(RECORD), e);
    let text = serde_json::to_vec_pretty(record).map_err(|e| failed(&e.into()))?;
    let _guard = Guard::wait(dir).map_err(|e| failed(&e))?;
    write_file(&dir.join(RECORD), &text).map_err(|e| failed(&e))
}

/// Changes the run in a record, unless unit or run are gone; whether it was changed.
pub(crate) fn change_run(dir: &Path, change: impl FnOnce(&mut Run)) -> Result<bool, Error> {
    change_record(dir, |record| match &mut record.run {
        Some(run) => {
            change(run);
            true
        }
        None => false,
    })
}

/// Changes a record unless it is gone, or `change` says that nothing is to be written.
pub(crate) fn change_record(
    dir: &Path,
    change: impl FnOnce(&mut Record) -> bool,
) -> Result<bool, Error> {
    let failed = |e: &io::Error| fail::file(Step::Run, "writing", &dir.join(RECORD), e);
    let _guard = match Guard::wait(dir) {
        Ok(guard) => guard,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(&error)),
    };
    let Some(mut record) = read(dir) else {
        return Ok(false);
    };
    if !change(&mut record) {
        return Ok(false);
    }
    let text = serde_json::to_vec_pretty(&record).map_err(|e| failed(&e.into()))?;
    write_file(&dir.join(RECORD), &text).map_err(|e| failed(&e))?;
    Ok(true)
}

/// A lock on a unit's record, held for as long as reading and writing it takes.
struct Guard(#[expect(dead_code, reason = "closing it unlocks")] File);

impl Guard {
    fn wait(dir: &Path) -> io::Result<Self> {
        let file = lock_file(dir, "record.lock")?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
        Ok(Self(file))
    }
}

fn lock_file(dir: &Path, name: &str) -> io::Result<File> {
    File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(name))
}

/// A lock in a unit's directory, held while something is done to the unit as a whole; it is gone
/// with the process that holds it.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it unlocks")] File);

impl Lock {
    /// Takes a lock if nobody has it.
    pub(crate) fn try_take(dir: &Path, name: &str) -> io::Result<Option<Self>> {
        let file = lock_file(dir, name)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        // The directory may have been removed, and made again, while the lock was waited for.
        let ours = file.metadata()?;
        match std::fs::metadata(dir.join(name)) {
            Ok(there) if there.ino() == ours.ino() => Ok(Some(Self(file))),
            _ => Ok(None),
        }
    }

    /// Waits for a lock, at most for `patience`; `None` says that the unit has no directory.
    pub(crate) async fn take(
        dir: &Path,
        step: Step,
        patience: Duration,
    ) -> Result<Option<Self>, Error> {
        let end = tokio::time::Instant::now() + patience;
        loop {
            match Self::try_take(dir, UNIT_LOCK) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(fail::file(step, "locking", dir, &error)),
            }
            if tokio::time::Instant::now() >= end {
                let detail = format!(
                    "something else has been done to the unit for {patience:?}; try again later"
                );
                return Err(Error::new(step, Reason::RuntimeError, detail));
            }
            tokio::time::sleep(LOCK_INTERVAL).await;
        }
    }
}

/// Removes a unit's directory, whose lock is held. It has another name before anything in it goes:
/// whoever waits for the lock finds none, and who makes the unit again, a new directory.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    let mut removals = 0;
    loop {
        clear_removed(dir)?;
        removals += 1;
        match std::fs::rename(dir, removed(dir)) {
            // Somebody else has removed what was made meanwhile, just now.
            Err(error)
                if error.kind() == io::ErrorKind::DirectoryNotEmpty && removals < MAX_REMOVALS => {}
            Err(error) => return Err(error),
            Ok(()) => return clear_removed(dir),
        }
    }
}

/// Removes what a removal of the unit has left that was cut off.
pub(crate) fn clear_removed(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(removed(dir)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What the directory of a unit is called while it goes.
fn removed(dir: &Path) -> PathBuf {
    let mut name = dir.as_os_str().to_owned();
    name.push(GONE);
    name.into()
}

/// The unit to which a directory belongs, by its name.
pub(crate) fn unit_of(name: &str) -> Option<UnitId> {
    name.strip_suffix(GONE).unwrap_or(name).parse().ok()
}

/// Removes a file that may be gone already.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_a_unit_that_is_removed_finds_nothing_of_it() {
        let parent = tempfile::tempdir().unwrap();
        for round in 0..200 {
            let dir = parent.path().join(round.to_string());
            make_dir(&dir).unwrap();
            let lock = Lock::try_take(&dir, UNIT_LOCK).unwrap().unwrap();
            for file in ["a", RECORD, "z"] {
                std::fs::write(dir.join(file), "").unwrap();
            }
            let waiting = dir.clone();
            let waiter = std::thread::spawn(move || {
                loop {
                    match Lock::try_take(&waiting, UNIT_LOCK) {
                        Ok(Some(_lock)) => return true,
                        Ok(None) => {}
                        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
                        Err(error) => panic!("{error}"),
                    }
                }
            });
            remove_dir(&dir).unwrap();
            drop(lock);
            assert!(!waiter.join().unwrap(), "round {round}");
        }
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_made_while_a_unit_is_removed_stays() {
        let parent = tempfile::tempdir().unwrap();
        for round in 0..200 {
            let dir = parent.path().join(round.to_string());
            make_dir(&dir).unwrap();
            let lock = Lock::try_take(&dir, UNIT_LOCK).unwrap().unwrap();
            std::fs::write(dir.join("old"), "").unwrap();
            let making = dir.clone();
            let maker = std::thread::spawn(move || {
                loop {
                    make_dir(&making).unwrap();
                    if let Ok(Some(lock)) = Lock::try_take(&making, UNIT_LOCK) {
                        std::fs::write(making.join(RECORD), "").unwrap();
                        return lock;
                    }
                }
            });
            remove_dir(&dir).unwrap();
            drop(lock);
            let _lock = maker.join().unwrap();
            assert!(dir.join(RECORD).exists(), "round {round}");
            assert!(!dir.join("old").exists(), "round {round}");
        }
    }
}

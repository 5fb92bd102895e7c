//! What is written down of units, by the agent and by monitors.
//!
//! ```text
//!  units/<unit>/unit.json      what it is and what was made for it; without it there is no unit
//!               monitor        locked by the monitor for as long as it lives
//!               started.json   written when the container runs
//!               log, log.1     what it printed
//!               layer/         what it wrote, anew at each start; above a copied image, and
//!                              not a mounted one, with the size of that in `base`
//!               run/           mount point of the monitor's own directory
//!  exits/<unit>.json           how it ended; written last
//!  locks/<unit>                held by whoever starts, stops or removes it
//! ```

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weft_types::{Reason, UnitId};

use crate::Error;
use crate::error::During;
use crate::files;
use crate::image::Digest;
use crate::network::Attachment;

/// What a unit is, and what was made for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct UnitRecord {
    pub(crate) node: String,
    pub(crate) unit: UnitId,
    pub(crate) revision: u64,
    pub(crate) workload: String,
    /// The manifest that it runs; it is not cleaned away.
    pub(crate) image: Option<Digest>,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) shares_host_network: bool,
    pub(crate) runtime: Option<String>,
    pub(crate) stop_signal: i32,
    pub(crate) has_volumes: bool,
}

/// That a container runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Started {
    /// Its first process.
    pub(crate) pid: i32,
    pub(crate) since_ms: u64,
}

/// How a container ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: Option<Reason>,
    pub(crate) detail: String,
    pub(crate) at_ms: u64,
}

/// Where the records of a node's units are.
#[derive(Clone, Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Error> {
        for part in ["units", "exits", "locks"] {
            files::make_dir(&dir.join(part), 0o700)?;
        }
        Ok(Self { dir })
    }

    pub(crate) fn exits_dir(&self) -> PathBuf {
        self.dir.join("exits")
    }

    pub(crate) fn lock_file(&self, unit: UnitId) -> PathBuf {
        self.dir.join("locks").join(unit.to_string())
    }

    /// Every unit that anything is there of.
    pub(crate) fn units(&self) -> Result<Vec<UnitId>, Error> {
        let names = files::names(&self.dir.join("units"))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    pub(crate) fn of(&self, unit: UnitId) -> UnitDir {
        UnitDir {
            dir: self.dir.join("units").join(unit.to_string()),
            exit: self.exits_dir().join(format!("{unit}.json")),
        }
    }
}

/// The files of one unit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct UnitDir {
    dir: PathBuf,
    exit: PathBuf,
}

impl UnitDir {
    /// The files of something that runs like a unit and is none.
    pub(crate) fn scratch(data_dir: &Path, name: &str) -> Result<Self, Error> {
        let unit = Self {
            dir: data_dir.join("units").join(name),
            exit: data_dir.join("units").join(format!("{name}.exit")),
        };
        unit.make_dir()?;
        Ok(unit)
    }

    fn make_dir(&self) -> Result<(), Error> {
        files::make_dir(&self.run(), 0o700)?;
        File::options()
            .create(true)
            .append(true)
            .open(self.monitor_lock())
            .map(drop)
            .during(|| format!("make {}", self.monitor_lock().display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// The monitor's own directory, seen only from where the monitor is.
    pub(crate) fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    pub(crate) fn layer(&self) -> PathBuf {
        self.dir.join("layer")
    }

    /// What the layer takes that the container has not written.
    pub(crate) fn base_bytes(&self) -> Result<u64, Error> {
        Ok(files::read_json(&self.layer().join("base"))?.unwrap_or(0))
    }

    pub(crate) fn write_base_bytes(&self, bytes: u64) -> Result<(), Error> {
        files::write_json(&self.layer().join("base"), &bytes)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    pub(crate) fn monitor_lock(&self) -> PathBuf {
        self.dir.join("monitor")
    }

    pub(crate) fn record(&self) -> Result<Option<UnitRecord>, Error> {
        files::read_json(&self.dir.join("unit.json"))
    }

    pub(crate) fn write(&self, record: &UnitRecord) -> Result<(), Error> {
        self.make_dir()?;
        files::write_json(&self.dir.join("unit.json"), record)
    }

    pub(crate) fn started(&self) -> Result<Option<Started>, Error> {
        files::read_json(&self.dir.join("started.json"))
    }

    pub(crate) fn write_started(&self, started: &Started) -> Result<(), Error> {
        files::write_json(&self.dir.join("started.json"), started)
    }

    pub(crate) fn exit(&self) -> Result<Option<Exit>, Error> {
        files::read_json(&self.exit)
    }

    pub(crate) fn write_exit(&self, exit: &Exit) -> Result<(), Error> {
        files::write_json(&self.exit, exit)
    }

    /// Forgets how it went the last time.
    pub(crate) fn forget_run(&self) -> Result<(), Error> {
        files::remove_file(&self.exit)?;
        files::remove_file(&self.dir.join("started.json"))
    }

    /// Removes everything; the record last, so that what is left is still found.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        files::remove_tree(&self.layer())?;
        files::remove_file(&self.exit)?;
        files::remove_tree(&self.dir)
    }

    /// The process that has the monitor's lock.
    pub(crate) fn monitor(&self) -> Result<Option<i32>, Error> {
        let Ok(file) = File::options().write(true).open(self.monitor_lock()) else {
            return Ok(None);
        };
        let mut lock = whole_file_lock();
        // SAFETY: the descriptor is open and the structure is whole and ours.
        let outcome = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) };
        if outcome < 0 {
            return Err(Error::io(
                "ask for the monitor",
                std::io::Error::last_os_error(),
            ));
        }
        let is_held = i32::from(lock.l_type) != libc::F_UNLCK;
        Ok(is_held.then_some(lock.l_pid))
    }

    /// Becomes the monitor; `None` when there is one, or the unit is being removed. The lock is
    /// held until the process ends.
    pub(crate) fn become_monitor(&self) -> Result<Option<File>, Error> {
        let path = self.monitor_lock();
        let Ok(file) = File::options().write(true).open(&path) else {
            return Ok(None);
        };
        if !set_lock(&file, libc::F_SETLK)? {
            return Ok(None);
        }
        Ok(is_still_at(&file, &path).then_some(file))
    }

    /// Keeps monitors away while the unit is removed; `None` when there is one.
    pub(crate) fn bar_monitors(&self) -> Result<Option<File>, Error> {
        let path = self.monitor_lock();
        let what = || format!("lock {}", path.display());
        let file = match File::options().write(true).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Without the file no monitor can begin; any file stands for the lock.
                return File::open("/dev/null").map(Some).during(what);
            }
            other => other.during(what)?,
        };
        Ok(set_lock(&file, libc::F_OFD_SETLK)?.then_some(file))
    }
}

fn is_still_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(mine), Ok(there)) => mine.ino() == there.ino(),
        _ => false,
    }
}

fn whole_file_lock() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn set_lock(file: &File, command: libc::c_int) -> Result<bool, Error> {
    let lock = whole_file_lock();
    // SAFETY: the descriptor is open and the structure is whole and ours.
    if unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) } == 0 {
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(Error::io("lock the monitor's file", error)),
    }
}

//! The books of all units.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use weft_types::UnitId;

use super::{Book, CURRENT, OLDER};

/// How long the logs of a unit that is gone are kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3_600);
/// How many bytes of them there may be in all.
const MAX_KEPT_BYTES: u64 = 512 << 20;

/// The directory with a book a unit.
pub(in crate::units) struct Shelf {
    dir: PathBuf,
    books: Mutex<BTreeMap<UnitId, Weak<Book>>>,
}

impl Shelf {
    pub(in crate::units) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)?;
        Ok(Self {
            dir,
            books: Mutex::default(),
        })
    }

    /// The book of a unit, one at a time however many use it.
    pub(in crate::units) fn book(&self, unit: UnitId) -> Arc<Book> {
        let mut books = self.books.lock();
        books.retain(|_, book| book.strong_count() > 0);
        if let Some(book) = books.get(&unit).and_then(Weak::upgrade) {
            return book;
        }
        let book = Arc::new(Book::open(self.dir.join(unit.to_string())));
        books.insert(unit, Arc::downgrade(&book));
        book
    }

    /// Whether there are logs of a unit, also of one that is gone.
    pub(in crate::units) fn has(&self, unit: UnitId) -> bool {
        self.dir.join(unit.to_string()).is_dir()
    }

    /// The unit is gone: an empty book goes with it, others are kept for a while.
    pub(in crate::units) fn retire(&self, unit: UnitId) {
        // A directory with something in it is not removed.
        let _ = fs::remove_dir(self.dir.join(unit.to_string()));
    }

    /// Removes logs of units that are gone, the oldest first.
    pub(in crate::units) fn clean(&self, there: &BTreeSet<UnitId>) {
        let mut gone = match self.gone(there) {
            Ok(gone) => gone,
            Err(error) => return tracing::warn!(%error, "logs cannot be cleaned"),
        };
        gone.sort();
        let mut kept_bytes: u64 = gone.iter().map(|(_, _, bytes)| bytes).sum();
        let now = SystemTime::now();
        for (written, dir, bytes) in gone {
            let age = now.duration_since(written).unwrap_or_default();
            if age < KEPT_FOR && kept_bytes <= MAX_KEPT_BYTES {
                continue;
            }
            kept_bytes -= bytes;
            if let Err(error) = fs::remove_dir_all(&dir) {
                tracing::warn!(dir = %dir.display(), %error, "logs cannot be removed");
            }
        }
    }

    /// When they were last written, and their bytes.
    fn gone(&self, there: &BTreeSet<UnitId>) -> io::Result<Vec<(SystemTime, PathBuf, u64)>> {
        let mut gone = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let unit = name.to_str().and_then(|name| name.parse::<UnitId>().ok());
            if unit.is_some_and(|unit| !there.contains(&unit)) {
                let (written, bytes) = size(&entry.path())?;
                gone.push((written, entry.path(), bytes));
            }
        }
        Ok(gone)
    }
}

fn size(dir: &Path) -> io::Result<(SystemTime, u64)> {
    let (mut written, mut bytes) = (fs::metadata(dir)?.modified()?, 0);
    for name in [OLDER, CURRENT] {
        if let Ok(file) = fs::metadata(dir.join(name)) {
            written = written.max(file.modified()?);
            bytes += file.len();
        }
    }
    Ok((written, bytes))
}

//! Segment files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// Begins every segment; the last two characters are the version of the format.
const MAGIC: &[u8; 8] = b"WEFTJR01";
/// Bytes before the first frame.
pub(crate) const START: u32 = 16;

/// The number of a segment; grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct SegmentNo(pub(crate) u32);

impl SegmentNo {
    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}.log", self.0))
    }
}

/// All segments of a directory, in order.
pub(crate) fn list(dir: &Path) -> Result<Vec<SegmentNo>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|error| Error::io(dir, &error))?;
    let mut segments: Vec<SegmentNo> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".log")?
                .parse()
                .ok()
                .map(SegmentNo)
        })
        .collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Makes a segment with its space, so that a sync of data need not sync the file's size.
pub(crate) fn create(dir: &Path, number: SegmentNo, size: u64) -> Result<File, Error> {
    let path = number.path(dir);
    let failed = |error: std::io::Error| Error::io(&path, &error);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .map_err(failed)?;
    let made = reserve(&file, size).and_then(|()| {
        let mut head = [0; START as usize];
        head[..8].copy_from_slice(MAGIC);
        head[8..12].copy_from_slice(&number.0.to_le_bytes());
        file.write_all_at(&head, 0)?;
        file.sync_all()?;
        File::open(dir)?.sync_all()
    });
    if let Err(error) = made {
        // Half a segment would be taken for a damaged one.
        let _ = std::fs::remove_file(&path);
        return Err(failed(error));
    }
    Ok(file)
}

fn reserve(file: &File, size: u64) -> std::io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        // Not every file system can; the size grows with the data then.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether bytes begin like a segment of this number.
pub(crate) fn is_segment(bytes: &[u8], number: SegmentNo) -> bool {
    bytes.get(..8) == Some(MAGIC) && bytes.get(8..12) == Some(&number.0.to_le_bytes())
}

//! Small files of the agent's own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Puts a file in place as a whole, readable by its owner alone, and durable when it returns. Waits
/// for the disk.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    place(path, bytes, true)
}

/// The same for what need not outlive a loss of power: without waiting for the disk.
pub(crate) fn write_unsynced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    place(path, bytes, false)
}

fn place(path: &Path, bytes: &[u8], is_durable: bool) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    if is_durable {
        file.sync_all()?;
    }
    fs::rename(&partial, path)?;
    match path.parent() {
        Some(dir) if is_durable => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_takes_the_place_of_the_one_before_and_leaves_nothing_beside_it() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("list.json");
        for (bytes, put) in [
            ("a longer one", write as fn(&Path, &[u8]) -> io::Result<()>),
            ("short", write_unsynced),
        ] {
            put(&path, bytes.as_bytes())?;
            assert_eq!(fs::read_to_string(&path)?, bytes);
            assert_eq!(fs::metadata(&path)?.permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::read_dir(dir.path())?.count(), 1);
        }
        Ok(())
    }
}

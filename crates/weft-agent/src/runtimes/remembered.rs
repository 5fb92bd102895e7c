//! Which backend has this node's units of a kind, beyond the life of the agent.
//!
//! Without it an agent that starts while an engine is down would take another one for its units,
//! and start there what still runs in the first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use weft_types::RuntimeKind;

use crate::small_file;

/// The backends that have units, in a file of the data directory.
#[derive(Debug)]
pub(crate) struct Remembered {
    file: PathBuf,
    names: BTreeMap<RuntimeKind, String>,
}

impl Remembered {
    /// Reads the file; nothing is remembered when there is none.
    ///
    /// # Errors
    /// When it cannot be read: to guess would run units twice.
    pub(crate) fn load(data_dir: &Path) -> io::Result<Self> {
        let file = data_dir.join("backends.json");
        let names = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, names })
    }

    /// Every name.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.values().map(String::as_str)
    }

    /// The backend that has units of a kind, or had.
    pub(crate) fn get(&self, kind: RuntimeKind) -> Option<&str> {
        self.names.get(&kind).map(String::as_str)
    }

    /// Durable when it returns; waits for the disk.
    ///
    /// # Errors
    /// When it cannot be written; then nothing has changed.
    pub(crate) fn set(&mut self, kind: RuntimeKind, name: &str) -> io::Result<()> {
        if self.get(kind) == Some(name) {
            return Ok(());
        }
        let mut names = self.names.clone();
        names.insert(kind, name.to_owned());
        small_file::write(&self.file, &serde_json::to_vec_pretty(&names)?)?;
        self.names = names;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_units_is_known_to_the_next_agent() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut remembered = Remembered::load(dir.path())?;
        assert_eq!(remembered.get(RuntimeKind::Container), None);
        remembered.set(RuntimeKind::Container, "docker")?;
        remembered.set(RuntimeKind::Vm, "qemu")?;
        remembered.set(RuntimeKind::Container, "oci")?;
        let again = Remembered::load(dir.path())?;
        assert_eq!(again.get(RuntimeKind::Container), Some("oci"));
        assert_eq!(again.names().collect::<Vec<_>>(), ["oci", "qemu"]);
        Ok(())
    }

    #[test]
    fn a_broken_file_is_an_error_and_no_guess() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("backends.json"), "{")?;
        assert!(Remembered::load(dir.path()).is_err());
        Ok(())
    }
}

//! Which paths of the node containers may have.

use std::path::{Path, PathBuf};

use crate::Error;

/// What is refused on every node, with all that is beneath.
const SYSTEM: [&str; 4] = ["/proc", "/sys", "/dev", "/etc"];

/// Paths of the node that only privileged containers may mount: themselves, what is beneath them,
/// and what they are beneath.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPaths {
    refused: Vec<PathBuf>,
}

impl HostPaths {
    /// The system's directories, and these: the directory of Weft's data, sockets of engines.
    pub fn refusing(more: impl IntoIterator<Item = PathBuf>) -> Self {
        let system = SYSTEM.iter().map(PathBuf::from);
        let refused = system
            .chain(more)
            // What a link leads to is refused as well as the link.
            .flat_map(|path| [path.canonicalize().ok(), Some(path)])
            .flatten()
            .collect();
        Self { refused }
    }

    /// Resolves a host path and says whether a container may have it.
    ///
    /// # Errors
    /// When it is not there, or refused.
    pub fn resolve(&self, path: &str, is_privileged: bool) -> Result<PathBuf, Error> {
        let resolved = Path::new(path)
            .canonicalize()
            .map_err(|error| Error::HostMissing {
                path: path.to_owned(),
                error,
            })?;
        if !is_privileged {
            self.check(&resolved)?;
        }
        Ok(resolved)
    }

    fn check(&self, path: &Path) -> Result<(), Error> {
        let refuse = |why: String| {
            Err(Error::HostRefused {
                path: path.to_owned(),
                why,
            })
        };
        for refused in &self.refused {
            if path.starts_with(refused) {
                return refuse(format!("lies in {}", refused.display()));
            }
            if refused.starts_with(path) {
                return refuse(format!("contains {}", refused.display()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_belongs_to_the_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("weft");
        let free = dir.path().join("free");
        fs::create_dir_all(&data).unwrap();
        fs::create_dir_all(&free).unwrap();
        fs::write(data.join("socket"), "").unwrap();
        symlink("/etc", free.join("link")).unwrap();
        symlink(&data, free.join("data")).unwrap();
        let paths = HostPaths::refusing([data.clone()]);
        let link = free.join("link");
        let refused = [
            Path::new("/"),
            Path::new("/proc"),
            Path::new("/proc/self"),
            Path::new("/sys/fs"),
            Path::new("/dev/null"),
            Path::new("/etc/passwd"),
            dir.path(),
            &data,
            &data.join("socket"),
            &link,
            &free.join("data"),
        ];
        for path in refused {
            let path = path.to_str().unwrap();
            let error = paths.resolve(path, false).unwrap_err();
            assert!(
                matches!(error, Error::HostRefused { .. }),
                "{path}: {error}"
            );
            assert!(paths.resolve(path, true).is_ok(), "{path}");
        }
        assert_eq!(
            paths.resolve(free.to_str().unwrap(), false).unwrap(),
            free.canonicalize().unwrap()
        );
        let missing = paths.resolve("/no/such/path", false).unwrap_err();
        assert!(matches!(missing, Error::HostMissing { .. }), "{missing}");
    }
}

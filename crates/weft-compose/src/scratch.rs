//! Private directories for what holds secrets while a program needs it.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rustix::fs::statfs;
use serde_json::json;
use tempfile::TempDir;
use weft_unit::Credentials;

/// `TMPFS_MAGIC` of Linux's `magic.h`.
const TMPFS: i128 = 0x0102_1994;

/// Where private directories are made: in memory when the machine has a `/dev/shm`, so that no
/// secret is written to a disk.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    parent: PathBuf,
    prefix: String,
}

impl Scratch {
    /// Removes what an agent that was killed left.
    pub(crate) fn open(data_dir: &Path, node: &str) -> io::Result<Self> {
        let shm = Path::new("/dev/shm");
        let in_memory = statfs(shm).is_ok_and(|fs| i128::from(fs.f_type) == TMPFS);
        let (parent, prefix) = if in_memory {
            (shm.to_owned(), format!("weft-compose-{node}-"))
        } else {
            (data_dir.join("tmp"), "private-".to_owned())
        };
        fs::create_dir_all(&parent)?;
        Ok(Self { parent, prefix })
    }

    /// Removes what an agent of this node that was killed left behind.
    pub(crate) fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.parent)? {
            let entry = entry?;
            let ours = entry
                .file_name()
                .to_string_lossy()
                .starts_with(&self.prefix);
            if ours && is_abandoned(&entry.path()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// A new directory that only we can read, gone when it is dropped.
    pub(crate) fn directory(&self) -> io::Result<TempDir> {
        let dir = tempfile::Builder::new()
            .prefix(&self.prefix)
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(&self.parent)?;
        write_private(
            &dir.path().join("pid"),
            std::process::id().to_string().as_bytes(),
        )?;
        Ok(dir)
    }
}

/// Whether the process that made it is gone.
fn is_abandoned(dir: &Path) -> bool {
    let pid = fs::read_to_string(dir.join("pid")).unwrap_or_default();
    pid.is_empty() || !Path::new("/proc").join(pid.trim()).exists()
}

/// Writes a file that only we can read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

/// Writes the `config.json` with which Compose logs in to the registries of these images.
pub(crate) fn write_docker_config<'a>(
    dir: &Path,
    credentials: Option<&Credentials>,
    images: impl Iterator<Item = &'a str>,
) -> io::Result<()> {
    let mut auths = serde_json::Map::new();
    if let Some(credentials) = credentials {
        let pair = format!("{}:{}", credentials.username, credentials.password);
        let auth = base64::engine::general_purpose::STANDARD.encode(pair);
        for image in images {
            auths.insert(registry(image).to_owned(), json!({"auth": auth}));
        }
    }
    let config = json!({"auths": auths}).to_string();
    write_private(&dir.join("config.json"), config.as_bytes())
}

/// The registry of an image as Docker's configuration names it.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "https://index.docker.io/v1/",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_to_the_images_registries() {
        let dir = tempfile::tempdir().unwrap();
        let credentials = Credentials {
            username: "u".into(),
            password: "p".into(),
        };
        let images = ["127.0.0.1:5000/a:1", "redis", "b/c"];
        write_docker_config(dir.path(), Some(&credentials), images.into_iter()).unwrap();
        let path = dir.path().join("config.json");
        let text = fs::read_to_string(&path).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let auth = json!({"auth": "dTpw"});
        let expected = json!({"127.0.0.1:5000": auth, "https://index.docker.io/v1/": auth});
        assert_eq!(read["auths"], expected);
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn what_a_killed_agent_left_is_cleared_and_what_is_in_use_is_not() {
        let data = tempfile::tempdir().unwrap();
        let node = format!("test{}", std::process::id());
        let scratch = Scratch::open(data.path(), &node).unwrap();
        let used = scratch.directory().unwrap();
        let left = scratch.directory().unwrap().keep();
        // The greatest process id of Linux is 4194304.
        fs::write(left.join("pid"), "4194305").unwrap();
        scratch.clear().unwrap();
        assert!(used.path().exists() && !left.exists());
    }
}

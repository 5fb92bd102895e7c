//! Keys and certificates on disk: whole or not at all, and secret where they are secret.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{Certificate, ClusterName, Error, Identity, PrivateKey, Result};

/// Permission bits of a secret file.
const SECRET_MODE: u32 = 0o600;
/// Permission bits of a certificate file.
const PUBLIC_MODE: u32 = 0o644;
/// Permission bits of a directory with secrets.
const DIR_MODE: u32 = 0o700;
/// Any of these bits on a key file means that others can reach it.
const OTHERS_MASK: u32 = 0o077;
/// Largest file of this kind that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

const CA_FILE: &str = "ca.pem";
const CERTIFICATE_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";

/// Writes a file that only its owner can read, replacing an older one in one step: after a crash
/// there is the old or the new content, on disk.
///
/// # Errors
/// [`Error::File`].
pub fn write_secret_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, SECRET_MODE)
}

pub(crate) fn write_public_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, PUBLIC_MODE)
}

/// Creates a secret file that must not exist yet; `Ok(false)` when it does.
pub(crate) fn create_secret_file(path: &Path, bytes: &[u8]) -> Result<bool> {
    create(path, bytes, SECRET_MODE)
}

/// Creates a certificate file that must not exist yet; `Ok(false)` when it does.
pub(crate) fn create_public_file(path: &Path, bytes: &[u8]) -> Result<bool> {
    create(path, bytes, PUBLIC_MODE)
}

/// Creates the directory, mode 0700, with its parents.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(dir)
        .map_err(Error::file(dir))
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = write_temporary(path, bytes, mode)?;
    fs::rename(&temporary, path).map_err(Error::file(path))?;
    sync_parent(path)
}

/// A hard link fails when its name is taken, so that the file appears complete or not at all and
/// never replaces another.
fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<bool> {
    let temporary = write_temporary(path, bytes, mode)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(Error::file(&temporary))?;
    match linked {
        Ok(()) => sync_parent(path).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(Error::file(path)(error)),
    }
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf> {
    let mut suffix = [0; 8];
    getrandom::fill(&mut suffix).map_err(Error::Random)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", hex::encode(suffix)));
    let temporary = path.with_file_name(name);
    let write = || {
        // The mode holds from the first moment: a key is never readable by others, however briefly.
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| {
        // What is left of a failed write is of no use; the first error is the one to report.
        let _ = fs::remove_file(&temporary);
        Error::file(&temporary)(error)
    })?;
    Ok(temporary)
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::file(parent))
}

/// The text of a file, `None` when there is no such file.
pub(crate) fn read_public_file(path: &Path) -> Result<Option<String>> {
    open(path)?.map(|file| read(path, file)).transpose()
}

/// The text of a secret file, `None` when there is no such file.
///
/// # Errors
/// [`Error::KeyExposed`] when others than its owner can reach it.
pub(crate) fn read_secret_file(path: &Path) -> Result<Option<String>> {
    let Some(file) = open(path)? else {
        return Ok(None);
    };
    let mode = file.metadata().map_err(Error::file(path))?.mode() & 0o7777;
    if mode & OTHERS_MASK != 0 {
        return Err(Error::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    read(path, file).map(Some)
}

fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file(path)(error)),
    }
}

fn read(path: &Path, file: File) -> Result<String> {
    let mut text = String::new();
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(Error::file(path))?;
    Ok(text)
}

pub(crate) fn missing(path: &Path) -> Error {
    Error::file(path)(io::ErrorKind::NotFound.into())
}

/// A certificate, its private key, and the CA that signed it.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Who the holder is.
    pub certificate: Certificate,
    /// The key of the certificate.
    pub key: PrivateKey,
    /// The cluster CA.
    pub ca: Certificate,
}

impl Credentials {
    /// The cluster they are for.
    ///
    /// # Errors
    /// As [`Certificate::cluster`].
    pub fn cluster(&self) -> Result<ClusterName> {
        self.ca.cluster()
    }

    /// Who they make the holder.
    ///
    /// # Errors
    /// As [`Certificate::identity`].
    pub fn identity(&self) -> Result<Identity> {
        self.certificate.identity(&self.cluster()?)
    }

    /// Whether key, certificate and CA belong together.
    fn check(&self) -> Result<()> {
        if self.certificate.public_key_der() != self.key.public_key_der() {
            return Err(Error::Certificate("it is for another private key"));
        }
        self.certificate.check_issued_by(&self.ca)
    }
}

/// The files of one party in one directory (mode 0700): `ca.pem`, `cert.pem` and `key.pem`
/// (mode 0600).
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    dir: PathBuf,
}

impl IdentityFiles {
    /// The files in `dir`, which need not exist.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// Path of the CA certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join(CA_FILE)
    }

    /// Path of the certificate.
    pub fn cert(&self) -> PathBuf {
        self.dir.join(CERTIFICATE_FILE)
    }

    /// Path of the private key.
    pub fn key(&self) -> PathBuf {
        self.dir.join(KEY_FILE)
    }

    /// Writes all three, the certificate last: it is what [`IdentityFiles::read`] looks for.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn write(&self, credentials: &Credentials) -> Result<()> {
        create_dir(&self.dir)?;
        write_secret_file(&self.key(), credentials.key.to_pem().as_bytes())?;
        self.write_certificates(&credentials.certificate, &credentials.ca)
    }

    fn write_certificates(&self, certificate: &Certificate, ca: &Certificate) -> Result<()> {
        write_public_file(&self.ca(), ca.to_pem().as_bytes())?;
        write_public_file(&self.cert(), certificate.to_pem().as_bytes())
    }

    /// Reads all three; `None` when there is no certificate yet.
    ///
    /// # Errors
    /// [`Error::File`] when one of the others is missing, [`Error::KeyExposed`], or when they are
    /// malformed or do not belong together.
    pub fn read(&self) -> Result<Option<Credentials>> {
        let Some(certificate) = read_public_file(&self.cert())? else {
            return Ok(None);
        };
        let ca = read_public_file(&self.ca())?.ok_or_else(|| missing(&self.ca()))?;
        let key = read_secret_file(&self.key())?.ok_or_else(|| missing(&self.key()))?;
        let credentials = Credentials {
            certificate: Certificate::from_pem(&certificate)?,
            key: PrivateKey::from_pem(&key)?,
            ca: Certificate::from_pem(&ca)?,
        };
        credentials.check()?;
        Ok(Some(credentials))
    }
}

/// A node's own key, and its certificate once it has one.
///
/// The key is made on the node, stays the same over all renewals and is what the server knows the
/// node by when it comes back after its certificate has expired.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    files: IdentityFiles,
    key: PrivateKey,
}

impl NodeIdentity {
    /// Reads the key in `dir`, or makes one.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::KeyExposed`] or [`Error::PrivateKey`].
    pub fn load_or_generate_key(dir: &Path) -> Result<Self> {
        let files = IdentityFiles::in_dir(dir);
        create_dir(dir)?;
        if read_secret_file(&files.key())?.is_none() {
            // Losing a race against another process is fine: its key is as good.
            create_secret_file(&files.key(), PrivateKey::generate()?.to_pem().as_bytes())?;
        }
        let pem = read_secret_file(&files.key())?.ok_or_else(|| missing(&files.key()))?;
        Ok(Self {
            key: PrivateKey::from_pem(&pem)?,
            files,
        })
    }

    /// The key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// A certificate signing request for the key; see [`PrivateKey::csr`].
    ///
    /// # Errors
    /// [`Error::Issue`] when signing fails.
    pub fn csr(&self) -> Result<Vec<u8>> {
        self.key.csr()
    }

    /// The code that people compare before an approval.
    pub fn short_code(&self) -> String {
        self.key.short_code()
    }

    /// The files.
    pub fn files(&self) -> &IdentityFiles {
        &self.files
    }

    /// The credentials, `None` when the node has no certificate yet.
    ///
    /// # Errors
    /// As [`IdentityFiles::read`].
    pub fn credentials(&self) -> Result<Option<Credentials>> {
        self.files.read()
    }

    /// Writes a new certificate after checking that it is for this node's key, signed by `ca`, and
    /// names a node.
    ///
    /// # Errors
    /// [`Error::Certificate`] when it is not, [`Error::File`].
    pub fn install(&self, certificate: &Certificate, ca: &Certificate) -> Result<Credentials> {
        let credentials = Credentials {
            certificate: certificate.clone(),
            key: self.key.clone(),
            ca: ca.clone(),
        };
        credentials.check()?;
        if !matches!(credentials.identity()?, Identity::Node(_)) {
            return Err(Error::Certificate("it does not name a node"));
        }
        self.files.write_certificates(certificate, ca)?;
        Ok(credentials)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_node_key_is_made_once_and_only_its_owner_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("identity");
        let first = NodeIdentity::load_or_generate_key(&dir).unwrap();
        let second = NodeIdentity::load_or_generate_key(&dir).unwrap();
        assert_eq!(first.key().public_key_der(), second.key().public_key_der());
        assert_eq!((mode(&dir), mode(&first.files().key())), (0o700, 0o600));
        assert!(first.credentials().unwrap().is_none());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let key = NodeIdentity::load_or_generate_key(dir.path())
            .unwrap()
            .files()
            .key();
        fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
        let error = NodeIdentity::load_or_generate_key(dir.path()).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }

    #[test]
    fn replacing_a_file_leaves_no_other_file_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.json");
        write_secret_file(&path, b"old").unwrap();
        write_secret_file(&path, b"new").unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), mode(&path)),
            (b"new".to_vec(), 0o600)
        );
        assert!(!create_secret_file(&path, b"other").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

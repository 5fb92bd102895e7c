//! The directory of artifacts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use tokio::fs::{self, File};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use weft_types::BlobHash;

use crate::Error;

/// How many bytes are read and hashed at a time.
const PIECE_BYTES: usize = 256 << 10;

/// An artifact that was written, or was there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its name.
    pub hash: BlobHash,
    /// Its size in bytes.
    pub len: u64,
}

/// Artifacts in a directory.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    limit: u64,
    used: AtomicU64,
    next_temporary: AtomicU64,
}

impl BlobStore {
    /// Opens or makes the directory and removes what an interrupted write left behind.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub async fn open(dir: &Path, limit_bytes: u64) -> Result<Self, Error> {
        let store = Self {
            dir: dir.to_path_buf(),
            limit: limit_bytes,
            used: AtomicU64::new(0),
            next_temporary: AtomicU64::new(0),
        };
        let incoming = store.incoming();
        match fs::remove_dir_all(&incoming).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(storage(&incoming, error));
            }
            _ => {}
        }
        fs::create_dir_all(&incoming)
            .await
            .map_err(|error| storage(&incoming, error))?;
        let used = store.all().await?.iter().map(|stored| stored.len).sum();
        store.used.store(used, Ordering::Relaxed);
        Ok(store)
    }

    /// Keeps bytes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub async fn put(&self, bytes: &[u8]) -> Result<Stored, Error> {
        self.put_stream(bytes, None).await
    }

    /// Keeps a file's bytes.
    ///
    /// # Errors
    /// When it cannot be read, or its bytes cannot be written.
    pub async fn put_file(&self, path: &Path) -> Result<Stored, Error> {
        let file = File::open(path)
            .await
            .map_err(|error| storage(path, error))?;
        self.put_stream(file, None).await
    }

    /// Keeps a stream's bytes; with `expected` only if that is their hash.
    ///
    /// # Errors
    /// When the stream breaks off, has another hash, or its bytes cannot be written.
    pub async fn put_stream(
        &self,
        source: impl AsyncRead,
        expected: Option<BlobHash>,
    ) -> Result<Stored, Error> {
        if let Some(hash) = expected
            && let Some(len) = self.touch(&hash).await?
        {
            return Ok(Stored { hash, len });
        }
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.incoming().join(number.to_string());
        let result = self.receive(source, expected, &temporary).await;
        if result.is_err() {
            let _ = fs::remove_file(&temporary).await;
        }
        result
    }

    async fn receive(
        &self,
        source: impl AsyncRead,
        expected: Option<BlobHash>,
        temporary: &Path,
    ) -> Result<Stored, Error> {
        let failed = |error| storage(temporary, error);
        let mut source = std::pin::pin!(source);
        let mut file = File::create(temporary).await.map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        let mut len = 0u64;
        loop {
            let count = source.read(&mut piece).await.map_err(Error::Source)?;
            if count == 0 {
                break;
            }
            len += count as u64;
            let used = self.used.load(Ordering::Relaxed);
            if used.saturating_add(len) > self.limit {
                return Err(Error::Full {
                    used,
                    limit: self.limit,
                });
            }
            hasher.update(&piece[..count]);
            file.write_all(&piece[..count]).await.map_err(failed)?;
        }
        let hash = BlobHash(*hasher.finalize().as_bytes());
        if let Some(expected) = expected
            && hash != expected
        {
            return Err(Error::Corrupt {
                expected,
                found: hash,
            });
        }
        file.flush().await.map_err(failed)?;
        file.sync_data().await.map_err(failed)?;
        self.keep(temporary, Stored { hash, len }).await
    }

    /// Gives complete bytes their name.
    async fn keep(&self, temporary: &Path, stored: Stored) -> Result<Stored, Error> {
        let path = self.path(&stored.hash);
        let dir = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(dir)
            .await
            .map_err(|error| storage(dir, error))?;
        let known = fs::try_exists(&path).await.unwrap_or(false);
        fs::rename(temporary, &path)
            .await
            .map_err(|error| storage(&path, error))?;
        if !known {
            self.used.fetch_add(stored.len, Ordering::Relaxed);
        }
        let dir = File::open(dir).await.map_err(|error| storage(dir, error))?;
        dir.sync_all()
            .await
            .map_err(|error| storage(&path, error))?;
        Ok(stored)
    }

    /// An artifact's bytes, checked against their hash, if there are not more than `limit_bytes`.
    ///
    /// # Errors
    /// When it is missing, too large or corrupt, or cannot be read.
    pub async fn get(&self, hash: &BlobHash, limit_bytes: u64) -> Result<Bytes, Error> {
        let length = self.len(hash).await?.ok_or(Error::Missing(*hash))?;
        if length > limit_bytes {
            return Err(Error::TooLarge {
                hash: *hash,
                length,
                limit: limit_bytes,
            });
        }
        let path = self.path(hash);
        let bytes = fs::read(&path)
            .await
            .map_err(|error| storage(&path, error))?;
        let found = BlobHash(*blake3::hash(&bytes).as_bytes());
        if found != *hash {
            return Err(Error::Corrupt {
                expected: *hash,
                found,
            });
        }
        Ok(bytes.into())
    }

    /// An artifact's file, for reading.
    ///
    /// # Errors
    /// When it is missing or cannot be read.
    pub async fn open_file(&self, hash: &BlobHash) -> Result<File, Error> {
        let path = self.path(hash);
        File::open(&path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing(*hash),
            _ => storage(&path, error),
        })
    }

    /// Copies an artifact's bytes to a path outside of the store, sharing them where the file
    /// system can.
    ///
    /// # Errors
    /// When it is missing, or the copy cannot be written.
    pub async fn materialise(&self, hash: &BlobHash, destination: &Path) -> Result<u64, Error> {
        // The kernel copies within a file system, and shares the blocks where it can.
        match fs::copy(self.path(hash), destination).await {
            Ok(len) => Ok(len),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && self.len(hash).await?.is_none() =>
            {
                Err(Error::Missing(*hash))
            }
            Err(error) => Err(storage(destination, error)),
        }
    }

    /// The size of an artifact in bytes; `None` when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn len(&self, hash: &BlobHash) -> Result<Option<u64>, Error> {
        let path = self.path(hash);
        match fs::metadata(&path).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(storage(&path, error)),
        }
    }

    /// The size of an artifact in bytes, which counts as a use of it; `None` when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be read or changed.
    pub async fn touch(&self, hash: &BlobHash) -> Result<Option<u64>, Error> {
        let file = match self.open_file(hash).await {
            Ok(file) => file.into_std().await,
            Err(Error::Missing(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let touched = file.set_modified(SystemTime::now()).and(file.metadata());
        let metadata = touched.map_err(|error| storage(&self.path(hash), error))?;
        Ok(Some(metadata.len()))
    }

    /// The artifacts that were neither written nor touched since.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn idle_since(&self, since: SystemTime) -> Result<Vec<BlobHash>, Error> {
        let mut idle = Vec::new();
        for stored in self.all().await? {
            if self.is_idle_since(&stored.hash, since).await {
                idle.push(stored.hash);
            }
        }
        Ok(idle)
    }

    async fn is_idle_since(&self, hash: &BlobHash, since: SystemTime) -> bool {
        let metadata = fs::metadata(self.path(hash)).await;
        metadata
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|modified| modified < since)
    }

    /// Removes an artifact unless it was written or touched since; whether it is gone.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove_idle(&self, hash: &BlobHash, since: SystemTime) -> Result<bool, Error> {
        if !self.is_idle_since(hash, since).await {
            return Ok(false);
        }
        self.remove(hash).await?;
        Ok(true)
    }

    /// Removes an artifact, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub async fn remove(&self, hash: &BlobHash) -> Result<(), Error> {
        let Some(len) = self.len(hash).await? else {
            return Ok(());
        };
        let path = self.path(hash);
        match fs::remove_file(&path).await {
            Ok(()) => {
                self.used.fetch_sub(len, Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(storage(&path, error)),
        }
    }

    /// Removes every artifact that is not to be kept; how many bytes that freed.
    ///
    /// # Errors
    /// When the directory cannot be read or changed.
    pub async fn gc(&self, keep: impl Fn(&BlobHash) -> bool) -> Result<u64, Error> {
        let mut freed = 0;
        for stored in self.all().await? {
            if !keep(&stored.hash) {
                self.remove(&stored.hash).await?;
                freed += stored.len;
            }
        }
        Ok(freed)
    }

    /// How many bytes the artifacts take.
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Where an artifact's bytes are, whether it is there or not. They must not be changed.
    pub fn path(&self, hash: &BlobHash) -> PathBuf {
        let name = hash.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    async fn all(&self) -> Result<Vec<Stored>, Error> {
        let mut all = Vec::new();
        let mut dirs = fs::read_dir(&self.dir)
            .await
            .map_err(|error| storage(&self.dir, error))?;
        while let Some(dir) = dirs
            .next_entry()
            .await
            .map_err(|error| storage(&self.dir, error))?
        {
            if dir.file_name().len() != 2 {
                continue;
            }
            let path = dir.path();
            let mut files = fs::read_dir(&path)
                .await
                .map_err(|error| storage(&path, error))?;
            while let Some(file) = files
                .next_entry()
                .await
                .map_err(|error| storage(&path, error))?
            {
                let hash = file.file_name().to_str().and_then(|name| name.parse().ok());
                if let (Some(hash), Ok(metadata)) = (hash, file.metadata().await) {
                    all.push(Stored {
                        hash,
                        len: metadata.len(),
                    });
                }
            }
        }
        Ok(all)
    }
}

fn storage(path: &Path, source: io::Error) -> Error {
    Error::Storage {
        path: path.to_path_buf(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn store(dir: &Path) -> BlobStore {
        BlobStore::open(dir, 1 << 20).await.expect("opened")
    }

    #[tokio::test]
    async fn bytes_come_back_under_their_hash_also_after_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let stored = store(dir.path()).await.put(b"hello").await.expect("put");
        assert_eq!(stored.hash, BlobHash(*blake3::hash(b"hello").as_bytes()));
        let store = store(dir.path()).await;
        assert_eq!(store.get(&stored.hash, 100).await.expect("get"), "hello");
        assert_eq!(store.used_bytes(), 5);
        store.put(b"hello").await.expect("put again");
        assert_eq!(store.used_bytes(), 5, "once per content");
        assert!(matches!(
            store.get(&stored.hash, 4).await,
            Err(Error::TooLarge { .. })
        ));
    }

    #[tokio::test]
    async fn a_stream_with_another_hash_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path()).await;
        let announced = BlobHash([7; 32]);
        let refused = store.put_stream(&b"other"[..], Some(announced)).await;
        assert!(matches!(refused, Err(Error::Corrupt { .. })), "{refused:?}");
        assert_eq!(store.len(&announced).await.expect("len"), None);
        let left = std::fs::read_dir(dir.path().join("incoming"))
            .expect("a directory")
            .count();
        assert_eq!((left, store.used_bytes()), (0, 0));
    }

    #[tokio::test]
    async fn changed_bytes_are_noticed() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path()).await;
        let stored = store.put(b"truth").await.expect("put");
        std::fs::write(store.path(&stored.hash), b"lies!").expect("written");
        assert!(matches!(
            store.get(&stored.hash, 100).await,
            Err(Error::Corrupt { .. })
        ));
    }

    #[tokio::test]
    async fn the_limit_holds_and_removal_makes_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = BlobStore::open(dir.path(), 10).await.expect("opened");
        let first = store.put(b"12345678").await.expect("put");
        assert!(matches!(
            store.put(b"abc").await,
            Err(Error::Full { used: 8, limit: 10 })
        ));
        store.remove(&first.hash).await.expect("removed");
        store.put(b"abc").await.expect("there is room");
        assert_eq!(store.gc(|_| false).await.expect("gc"), 3);
        assert_eq!(store.used_bytes(), 0);
    }

    #[tokio::test]
    async fn what_was_used_lately_is_not_idle() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path()).await;
        let (used, unused) = (store.put(b"used").await, store.put(b"unused").await);
        let (used, unused) = (used.expect("put").hash, unused.expect("put").hash);
        let long_ago = SystemTime::UNIX_EPOCH;
        for hash in [used, unused] {
            let file = std::fs::File::open(store.path(&hash)).expect("there");
            file.set_modified(long_ago).expect("changed");
        }
        let since = long_ago + std::time::Duration::from_secs(60);
        assert_eq!(store.idle_since(since).await.expect("listed").len(), 2);
        assert_eq!(store.touch(&used).await.expect("touched"), Some(4));
        assert_eq!(store.idle_since(since).await.expect("listed"), [unused]);
        assert!(!store.remove_idle(&used, since).await.expect("kept"));
        assert!(store.remove_idle(&unused, since).await.expect("removed"));
        assert_eq!(
            (
                store.used_bytes(),
                store.touch(&unused).await.expect("asked")
            ),
            (4, None)
        );
    }

    #[tokio::test]
    async fn what_an_interrupted_write_left_is_removed_at_the_next_start() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(store(dir.path()).await);
        std::fs::write(dir.path().join("incoming/99"), b"half").expect("written");
        let store = store(dir.path()).await;
        assert!(!dir.path().join("incoming/99").exists());
        assert_eq!(store.used_bytes(), 0);
    }

    #[tokio::test]
    async fn a_missing_artifact_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = store(dir.path()).await;
        let hash = BlobHash([1; 32]);
        assert!(
            matches!(store.open_file(&hash).await, Err(Error::Missing(missing)) if missing == hash)
        );
        let copied = store.materialise(&hash, &dir.path().join("copy")).await;
        assert!(matches!(copied, Err(Error::Missing(_))), "{copied:?}");
    }
}

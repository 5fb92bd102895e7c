//! Artifacts: fetched once, kept for later tasks, and sent.
//!
//! While the server is out of sight, tasks that need it wait: work that is done must not be lost
//! for want of a connection.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio_util::io::StreamReader;
use tonic::{Code, Status};
use weft_blobs::{BlobStore, Stored};
use weft_fetch::{Allowed, Part};
use weft_proto::{BLOB_CHUNK_BYTES, v1};
use weft_types::{BlobHash, Failure, Reason};

use crate::backoff::Backoff;
use crate::channel::Client;
use crate::kept::{Kept, Pin};
use crate::urls::{Temporary, Urls};
use crate::{Error, machine};

/// The most bytes of artifacts that are kept on the node.
const MAX_KEPT_BYTES: u64 = 16 << 30;
/// Disk that keeping artifacts leaves free.
const MIN_FREE_DISK_BYTES: u64 = 512 << 20;
/// How often a transfer that broke off is tried again; waiting for a session does not count.
const MAX_TRIES: u32 = 8;
/// The waits between these tries.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MAX_RETRY: Duration = Duration::from_secs(5);
/// Pieces of an upload that wait for the network.
const MAX_WAITING_PIECES: usize = 4;

/// The artifacts on this node.
#[derive(Clone)]
pub(crate) struct Artifacts {
    store: Arc<BlobStore>,
    dir: Arc<Path>,
    kept: Kept,
    /// One download of the same artifact at a time.
    downloads: Arc<Mutex<HashMap<BlobHash, Arc<tokio::sync::Mutex<()>>>>>,
    /// The connection of the session, while there is one.
    client: Arc<watch::Sender<Option<Client>>>,
    urls: Arc<Urls>,
}

/// A file on this node; it stays there at least until this is dropped.
pub(crate) struct Fetched {
    pub(crate) path: PathBuf,
    _kept: Keeper,
}

/// What keeps a file.
enum Keeper {
    Artifact { _pin: Pin },
    Input { _file: Temporary },
}

/// Why a transfer did not work.
enum Broken {
    /// Trying again may help.
    Off(Failure),
    /// It does not.
    Final(Failure),
}

impl Artifacts {
    /// What is kept in a directory; inputs by URL come from the addresses that are allowed.
    pub(crate) async fn open(dir: &Path, allowed: Allowed) -> Result<Self, Error> {
        let store = BlobStore::open(dir, MAX_KEPT_BYTES).await?;
        let inputs = dir.join("inputs");
        let urls = Urls::open(inputs.clone(), allowed).map_err(Error::file(&inputs))?;
        let kept = Kept::default();
        // Removes nothing: it is the way to see what an earlier life kept.
        store
            .gc(|hash| {
                kept.add(*hash);
                true
            })
            .await?;
        Ok(Self {
            store: Arc::new(store),
            dir: dir.into(),
            kept,
            downloads: Arc::default(),
            client: Arc::new(watch::channel(None).0),
            urls: Arc::new(urls),
        })
    }

    /// The connection to fetch over from now on.
    pub(crate) fn connected(&self, client: Option<Client>) {
        self.client.send_replace(client);
    }

    /// An artifact's file, fetched if it is not here.
    pub(crate) async fn fetch(&self, hash: &BlobHash) -> Result<Fetched, Failure> {
        // First: what is pinned is not removed between looking for it and using it.
        let pin = self.kept.pin(*hash);
        let turn = Arc::clone(self.downloads.lock().entry(*hash).or_default());
        let fetched = {
            let _turn = turn.lock().await;
            self.fetch_alone(hash).await
        };
        drop(turn);
        self.downloads
            .lock()
            .retain(|_, turn| Arc::strong_count(turn) > 1);
        fetched.map(|()| Fetched {
            path: self.store.path(hash),
            _kept: Keeper::Artifact { _pin: pin },
        })
    }

    /// A part of what is at a URL; every call fetches it again.
    pub(crate) async fn fetch_url(
        &self,
        url: &str,
        part: Part,
        timeout: Option<Duration>,
    ) -> Result<Fetched, Failure> {
        self.make_room(part.length.unwrap_or(0)).await?;
        let file = self.urls.fetch(url, part, timeout).await?;
        Ok(Fetched {
            path: file.path().to_path_buf(),
            _kept: Keeper::Input { _file: file },
        })
    }

    async fn fetch_alone(&self, hash: &BlobHash) -> Result<(), Failure> {
        if self.store.len(hash).await.map_err(failed)?.is_some() {
            return Ok(());
        }
        self.persist(|client| self.download(client, hash)).await
    }

    /// Keeps a file's bytes and sends them to the server; their address.
    pub(crate) async fn send(&self, path: &Path) -> Result<BlobHash, Failure> {
        let size = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
        self.make_room(size).await?;
        let stored = self.store.put_file(path).await.map_err(failed)?;
        let _pin = self.kept.pin(stored.hash);
        self.persist(|client| self.upload(client, stored)).await?;
        Ok(stored.hash)
    }

    /// Tries a transfer until it works, fails for good, or has broken off too often.
    async fn persist<F>(&self, transfer: impl Fn(Client) -> F) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Broken>>,
    {
        let mut backoff = Backoff::new(FIRST_RETRY, MAX_RETRY);
        let mut tries = 0;
        loop {
            let broken = match transfer(self.client().await?).await {
                Ok(()) => return Ok(()),
                Err(Broken::Final(failure)) => return Err(failure),
                Err(Broken::Off(failure)) => failure,
            };
            tries += 1;
            if tries >= MAX_TRIES {
                return Err(broken);
            }
            tracing::debug!(%broken, "a transfer of an artifact is tried again");
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }

    async fn download(&self, mut client: Client, hash: &BlobHash) -> Result<(), Broken> {
        let request = v1::GetBlobRequest {
            hash: bytes::Bytes::copy_from_slice(hash.as_bytes()),
        };
        let mut chunks = client.get_blob(request).await.map_err(broken)?.into_inner();
        let first = chunks.message().await.map_err(broken)?.unwrap_or_default();
        self.make_room(first.total_bytes)
            .await
            .map_err(Broken::Final)?;
        let rest = chunks
            .map_ok(|chunk| chunk.data)
            .map_err(std::io::Error::other);
        let data = futures::stream::iter([Ok(first.data)]);
        let reader = StreamReader::new(futures::StreamExt::chain(data, rest));
        match self.store.put_stream(reader, Some(*hash)).await {
            Ok(_) => Ok(()),
            Err(error @ (weft_blobs::Error::Source(_) | weft_blobs::Error::Corrupt { .. })) => {
                Err(Broken::Off(failed(error)))
            }
            Err(error) => Err(Broken::Final(failed(error))),
        }
    }

    async fn upload(&self, mut client: Client, stored: Stored) -> Result<(), Broken> {
        let file = self.store.open_file(&stored.hash).await;
        let mut file = file.map_err(|error| Broken::Final(failed(error)))?;
        let first = v1::BlobChunk {
            hash: bytes::Bytes::copy_from_slice(stored.hash.as_bytes()),
            total_bytes: stored.len,
            data: bytes::Bytes::new(),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(MAX_WAITING_PIECES);
        let send = async move {
            let mut chunk = Some(first);
            while let Some(next) = chunk.take() {
                if sender.send(next).await.is_err() {
                    break;
                }
                let mut data = vec![0; BLOB_CHUNK_BYTES];
                let count = file.read(&mut data).await.map_err(unreadable)?;
                data.truncate(count);
                chunk = (count > 0).then(|| v1::BlobChunk {
                    data: data.into(),
                    ..v1::BlobChunk::default()
                });
            }
            Ok(())
        };
        let put = client.put_blob(tokio_stream::wrappers::ReceiverStream::new(receiver));
        let (sent, put) = tokio::join!(send, put);
        sent.map_err(Broken::Final)?;
        put.map_err(broken)?;
        Ok(())
    }

    /// Removes what was not used for longest until this many bytes more may be kept, or nothing is
    /// left that no task uses.
    async fn make_room(&self, bytes: u64) -> Result<(), Failure> {
        let lacks_room = || {
            self.store.used_bytes().saturating_add(bytes) > MAX_KEPT_BYTES
                || machine::free_disk_bytes(&self.dir) < bytes.saturating_add(MIN_FREE_DISK_BYTES)
        };
        while lacks_room() {
            let Some(hash) = self.kept.remove_oldest() else {
                break;
            };
            let turn = Arc::clone(self.downloads.lock().entry(hash).or_default());
            // Whoever came to want it meanwhile waits for its turn, or has it.
            let Ok(_turn) = turn.try_lock() else {
                continue;
            };
            if !self.kept.is_used(&hash) {
                self.store.remove(&hash).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The connection; waits until there is one.
    async fn client(&self) -> Result<Client, Failure> {
        let mut client = self.client.subscribe();
        let client = client.wait_for(Option::is_some).await;
        let client = client.ok().and_then(|client| client.clone());
        client.ok_or_else(|| Failure::new(Reason::NetworkError, "the agent is stopping"))
    }
}

fn failed(error: weft_blobs::Error) -> Failure {
    Failure::new(error.reason(), error.to_string())
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::new(Reason::StorageError, error.to_string())
}

fn broken(status: Status) -> Broken {
    let failure = |reason| Failure::new(reason, status.message());
    match status.code() {
        Code::NotFound => Broken::Final(failure(Reason::ArtifactMissing)),
        Code::ResourceExhausted => Broken::Final(failure(Reason::StorageError)),
        Code::InvalidArgument => Broken::Final(failure(Reason::Internal)),
        Code::PermissionDenied | Code::Unauthenticated => {
            Broken::Final(failure(Reason::NetworkError))
        }
        _ => Broken::Off(failure(Reason::NetworkError)),
    }
}

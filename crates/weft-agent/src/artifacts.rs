//! Artifacts: fetched once, kept for later tasks, and sent.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio_util::io::StreamReader;
use weft_blobs::BlobStore;
use weft_proto::{BLOB_CHUNK_BYTES, v1};
use weft_types::{BlobHash, Failure, Reason};

use crate::Error;
use crate::channel::Client;

/// The most bytes of artifacts that are kept on the node.
const MAX_KEPT_BYTES: u64 = 16 << 30;

/// The artifacts on this node.
#[derive(Clone)]
pub(crate) struct Artifacts {
    store: Arc<BlobStore>,
    /// One download of the same artifact at a time.
    downloads: Arc<Mutex<HashMap<BlobHash, Arc<tokio::sync::Mutex<()>>>>>,
    /// The connection of the session, while there is one.
    client: Arc<Mutex<Option<Client>>>,
}

impl Artifacts {
    pub(crate) async fn open(dir: &Path) -> Result<Self, Error> {
        let store = BlobStore::open(dir, MAX_KEPT_BYTES).await?;
        Ok(Self {
            store: Arc::new(store),
            downloads: Arc::default(),
            client: Arc::default(),
        })
    }

    /// The connection to fetch over from now on.
    pub(crate) fn connected(&self, client: Option<Client>) {
        *self.client.lock() = client;
    }

    /// The file of an artifact, fetched if it is not here.
    pub(crate) async fn fetch(&self, hash: &BlobHash) -> Result<PathBuf, Failure> {
        let turn = Arc::clone(self.downloads.lock().entry(*hash).or_default());
        let fetched = {
            let _turn = turn.lock().await;
            self.fetch_alone(hash).await
        };
        self.downloads
            .lock()
            .retain(|_, turn| Arc::strong_count(turn) > 1);
        fetched.map(|()| self.store.path(hash))
    }

    async fn fetch_alone(&self, hash: &BlobHash) -> Result<(), Failure> {
        let failed = |error: weft_blobs::Error| Failure::new(error.reason(), error.to_string());
        if self.store.len(hash).await.map_err(failed)?.is_some() {
            return Ok(());
        }
        let request = v1::GetBlobRequest {
            hash: bytes::Bytes::copy_from_slice(hash.as_bytes()),
        };
        let chunks = self
            .client()?
            .get_blob(request)
            .await
            .map_err(refused)?
            .into_inner();
        let reader = StreamReader::new(
            chunks
                .map_ok(|chunk| chunk.data)
                .map_err(std::io::Error::other),
        );
        self.store
            .put_stream(reader, Some(*hash))
            .await
            .map_err(failed)?;
        Ok(())
    }

    /// Keeps a file's bytes and sends them to the server; their address.
    pub(crate) async fn send(&self, path: &Path) -> Result<BlobHash, Failure> {
        let stored = self
            .store
            .put_file(path)
            .await
            .map_err(|error| Failure::new(error.reason(), error.to_string()))?;
        let unreadable =
            |error: std::io::Error| Failure::new(Reason::StorageError, error.to_string());
        let mut file = self
            .store
            .open_file(&stored.hash)
            .await
            .map_err(|e| Failure::new(e.reason(), e.to_string()))?;
        let first = v1::BlobChunk {
            hash: bytes::Bytes::copy_from_slice(stored.hash.as_bytes()),
            total_bytes: stored.len,
            data: bytes::Bytes::new(),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let mut client = self.client()?;
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
        sent?;
        put.map_err(refused)?;
        Ok(stored.hash)
    }

    fn client(&self) -> Result<Client, Failure> {
        let client = self.client.lock().clone();
        client.ok_or_else(|| {
            Failure::new(
                Reason::NetworkError,
                "the server cannot be reached to fetch an artifact",
            )
        })
    }
}

fn refused(status: tonic::Status) -> Failure {
    let reason = match status.code() {
        tonic::Code::NotFound => Reason::ArtifactMissing,
        tonic::Code::ResourceExhausted => Reason::StorageError,
        _ => Reason::NetworkError,
    };
    Failure::new(reason, status.message())
}

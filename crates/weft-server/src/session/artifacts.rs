//! Artifacts for agents.

use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt};
use tokio_util::io::{ReaderStream, StreamReader};
use tonic::{Status, Streaming};
use weft_proto::{BLOB_CHUNK_BYTES, v1};
use weft_types::BlobHash;

use super::service::status_of;
use crate::state::Server;

fn parse(bytes: &[u8]) -> Result<BlobHash, Status> {
    BlobHash::from_slice(bytes).map_err(|error| Status::invalid_argument(format!("hash: {error}")))
}

/// The pieces of an artifact.
pub(super) async fn read(
    server: &Arc<Server>,
    request: &v1::GetBlobRequest,
) -> Result<impl Stream<Item = Result<v1::BlobChunk, Status>> + Send + 'static, Status> {
    let hash = parse(&request.hash)?;
    let failed = |error: weft_blobs::Error| status_of(&error.into());
    let length = server.blobs.len(&hash).await.map_err(failed)?;
    let total_bytes =
        length.ok_or_else(|| Status::not_found(format!("there is no artifact {hash}")))?;
    let file = server.blobs.open_file(&hash).await.map_err(failed)?;
    let first = v1::BlobChunk {
        hash: request.hash.clone(),
        total_bytes,
        data: Default::default(),
    };
    let pieces = ReaderStream::with_capacity(file, BLOB_CHUNK_BYTES).map(|piece| match piece {
        Ok(data) => Ok(v1::BlobChunk {
            data,
            ..Default::default()
        }),
        Err(error) => Err(Status::internal(format!(
            "the artifact cannot be read: {error}"
        ))),
    });
    Ok(futures::stream::once(async move { Ok(first) }).chain(pieces))
}

/// Keeps an artifact that an agent sends, if its bytes match its hash.
pub(super) async fn write(
    server: &Arc<Server>,
    mut chunks: Streaming<v1::BlobChunk>,
) -> Result<v1::PutBlobResponse, Status> {
    let first = chunks
        .message()
        .await?
        .ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
    let hash = parse(&first.hash)?;
    let rest = chunks
        .map_ok(|chunk| chunk.data)
        .map_err(std::io::Error::other);
    let data = futures::stream::once(async move { Ok(first.data) }).chain(rest);
    let reader = StreamReader::new(Box::pin(data));
    let stored = server
        .blobs
        .put_stream(reader, Some(hash))
        .await
        .map_err(|error| status_of(&error.into()))?;
    Ok(v1::PutBlobResponse { size: stored.len })
}

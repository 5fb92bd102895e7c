//! Artifacts: `PUT`, `GET` and `HEAD` by their BLAKE3 hash.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::TryStreamExt;
use tokio_util::io::{ReaderStream, StreamReader};
use weft_api::UploadedView;
use weft_types::{BlobHash, FieldError};

use super::App;
use super::problem::ApiError;
use crate::Error;

fn parse(hash: &str) -> Result<BlobHash, ApiError> {
    hash.parse()
        .map_err(|error: String| FieldError::new("hash", error).into())
}

fn missing(hash: &BlobHash) -> ApiError {
    Error::NotFound {
        what: "artifact",
        id: hash.to_string(),
    }
    .into()
}

/// `PUT /v1/blobs/{hash}`: keeps the body if its hash is that of the path.
pub async fn put(
    State(server): App,
    Path(hash): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<UploadedView>), ApiError> {
    let hash = parse(&hash)?;
    let stream = body.into_data_stream().map_err(std::io::Error::other);
    let reader = StreamReader::new(stream);
    let stored = server
        .blobs
        .put_stream(reader, Some(hash))
        .await
        .map_err(Error::from)?;
    let uploaded = UploadedView {
        blob: hash.to_string(),
        size: stored.len,
    };
    Ok((StatusCode::CREATED, Json(uploaded)))
}

/// `GET` and `HEAD /v1/blobs/{hash}`.
pub async fn get(
    State(server): App,
    method: Method,
    Path(hash): Path<String>,
) -> Result<Response, ApiError> {
    let hash = parse(&hash)?;
    let length = server
        .blobs
        .touch(&hash)
        .await
        .map_err(Error::from)?
        .ok_or_else(|| missing(&hash))?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, length.to_string()),
    ];
    if method == Method::HEAD {
        return Ok((headers, Body::empty()).into_response());
    }
    let file = server.blobs.open_file(&hash).await.map_err(Error::from)?;
    Ok((
        headers,
        Body::from_stream(ReaderStream::with_capacity(file, 256 << 10)),
    )
        .into_response())
}

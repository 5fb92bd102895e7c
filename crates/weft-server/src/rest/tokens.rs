//! Join tokens.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use weft_api::{Page, TokenCreated, TokenRequest, TokenView, rfc3339};
use weft_pki::TokenRecord;
use weft_types::{FieldError, parse_duration, parse_json};

use super::App;
use super::problem::ApiError;
use crate::Error;

/// How long a token is good for unless the client says otherwise, and at most.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most machines that may join with one token.
const MAX_USES: u32 = 10_000;

/// `POST /v1/tokens`: makes a token.
pub async fn create(
    State(server): App,
    body: Bytes,
) -> Result<(StatusCode, Json<TokenCreated>), ApiError> {
    let request: TokenRequest = if body.is_empty() {
        TokenRequest::default()
    } else {
        parse_json(&body)?
    };
    let ttl = request
        .ttl
        .as_deref()
        .map(parse_duration)
        .transpose()
        .map_err(|error| FieldError::new("ttl", error))?;
    let ttl = ttl.unwrap_or(DEFAULT_TTL);
    if ttl.is_zero() || ttl > MAX_TTL {
        return Err(FieldError::new("ttl", "not between 1ms and 30d").into());
    }
    let uses = request.uses.unwrap_or(1);
    if !(1..=MAX_USES).contains(&uses) {
        return Err(
            FieldError::new("uses", format!("{uses} is not between 1 and {MAX_USES}")).into(),
        );
    }
    let (token, record) = server.mint_join_token(ttl, uses).await?;
    Ok((
        StatusCode::CREATED,
        Json(TokenCreated {
            id: record.id.to_string(),
            command: format!("weft agent --token {token}"),
            token: token.to_string(),
            expires_at: rfc3339(record.expires_at),
            uses,
        }),
    ))
}

/// `GET /v1/tokens`: tokens that are good.
pub async fn list(State(server): App) -> Result<Json<Page<TokenView>>, ApiError> {
    let now = server.clock.wall();
    let stored: Vec<(String, TokenRecord)> = server.records.list("tokens/").await?;
    let items = stored
        .into_iter()
        .map(|(_, record)| record)
        .filter(|record| record.uses_left > 0 && record.expires_at > now)
        .map(|record| TokenView {
            id: record.id.to_string(),
            created_at: rfc3339(record.created_at),
            expires_at: rfc3339(record.expires_at),
            uses_left: record.uses_left,
        })
        .collect();
    Ok(Json(Page { items, next: None }))
}

/// `DELETE /v1/tokens/{id}`: makes a token worthless.
pub async fn remove(State(server): App, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    let key = format!("tokens/{id}");
    let known: Option<(TokenRecord, u64)> = server.records.get(&key).await?;
    if known.is_none() {
        return Err(Error::NotFound { what: "token", id }.into());
    }
    server.records.delete(&key).await?;
    Ok(StatusCode::NO_CONTENT)
}

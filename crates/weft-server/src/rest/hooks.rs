//! `POST /v1/hooks/{namespace}/{name}`: pushes to Git repositories.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use weft_types::FieldError;

use super::App;
use super::problem::ApiError;
use crate::services::hooks::{Outcome, push};

/// The largest push, in bytes.
const MAX_PUSH_BYTES: usize = 1 << 20;

/// Headers with the signature, as GitHub, Forgejo and Gitea send them.
const SIGNATURES: [&str; 3] = [
    "x-hub-signature-256",
    "x-forgejo-signature",
    "x-gitea-signature",
];
/// Headers with what happened.
const EVENTS: [&str; 3] = ["x-github-event", "x-forgejo-event", "x-gitea-event"];

/// Takes a push; needs no credentials but the signature of its body.
pub async fn receive(
    State(server): App,
    Path((namespace, name)): Path<(String, String)>,
    request: Request,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    if !server
        .services
        .hooks
        .allows(server.clock.steady().as_millis())
    {
        return Err(ApiError::too_many("too many pushes", 1));
    }
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, MAX_PUSH_BYTES).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(ApiError::too_large(MAX_PUSH_BYTES));
        }
        Err(error) => {
            return Err(FieldError::new("", format!("the body broke off: {error}")).into());
        }
    };
    let first = |names: [&str; 3]| {
        let mut values = names.into_iter().filter_map(|name| parts.headers.get(name));
        values.next().and_then(|value| value.to_str().ok())
    };
    let signature = first(SIGNATURES);
    let signature = signature.map(|text| text.strip_prefix("sha256=").unwrap_or(text));
    let outcome = push(&server, &namespace, &name, signature, first(EVENTS), &body).await?;
    let outcome = match outcome {
        Outcome::Restarted => "restarted",
        Outcome::Ignored => "ignored",
    };
    Ok((StatusCode::ACCEPTED, Json(json!({ "outcome": outcome }))))
}

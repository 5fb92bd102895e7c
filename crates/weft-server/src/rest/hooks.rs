//! `POST /v1/hooks/{namespace}/{name}`: pushes to Git repositories.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use weft_compose_rules::push::Proof;
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
/// The header with the secret itself, as GitLab sends it.
const TOKEN: &str = "x-gitlab-token";
/// Headers with what happened.
const EVENTS: [&str; 4] = [
    "x-github-event",
    "x-forgejo-event",
    "x-gitea-event",
    "x-gitlab-event",
];

/// Takes a push; needs no credentials but the signature of its body, or GitLab's token.
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
    let first = |names: &[&str]| {
        let mut values = names.iter().filter_map(|name| parts.headers.get(*name));
        values.next().and_then(|value| value.to_str().ok())
    };
    let proof = match (first(&SIGNATURES), first(&[TOKEN])) {
        (None, Some(token)) => Proof::Token(token),
        (signature, _) => Proof::Signature(signature.unwrap_or_default()),
    };
    let outcome = push(&server, &namespace, &name, proof, first(&EVENTS), &body).await?;
    let outcome = match outcome {
        Outcome::Restarted => "restarted",
        Outcome::Ignored => "ignored",
    };
    Ok((StatusCode::ACCEPTED, Json(json!({ "outcome": outcome }))))
}

//! Who may use the interface.

use axum::extract::State;
use axum::http::{HeaderMap, Request, header};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use weft_pki::{ApiToken, Identity};

use super::problem::ApiError;
use crate::listener::Peer;
use crate::state::Server;

/// Lets administrators pass.
pub async fn require_admin(
    State(server): State<Arc<Server>>,
    request: axum::extract::Request,
    next: Next,
) -> Result<Response, ApiError> {
    admit(&server, &request)?;
    Ok(next.run(request).await)
}

/// Whether a request comes from an administrator, at whatever door: by client certificate, by
/// bearer token, or on the loopback listener that was opened without protection.
///
/// # Errors
/// When it does not.
pub(crate) fn admit<B>(server: &Server, request: &Request<B>) -> Result<(), ApiError> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .ok_or_else(ApiError::unauthenticated)?;
    let allowed = match &peer.identity {
        Some(Identity::User(_)) => true,
        _ if peer.insecure => true,
        identity => match bearer(request.headers()) {
            Some(token) => server.api_tokens.accepts(&token, server.clock.wall()),
            None if identity.is_some() => return Err(ApiError::forbidden("this certificate")),
            None => false,
        },
    };
    if allowed {
        Ok(())
    } else {
        Err(ApiError::unauthenticated())
    }
}

fn bearer(headers: &HeaderMap) -> Option<ApiToken> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim().parse().ok())?
}

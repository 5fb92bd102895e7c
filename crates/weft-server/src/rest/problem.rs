//! Errors of the REST interface: every one becomes a problem document.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use weft_api::{PROBLEM_CONTENT_TYPE, Problem};
use weft_types::{FieldError, Reason};

use crate::Error;

/// A refusal on its way to the client.
#[derive(Debug, Clone)]
pub struct ApiError {
    problem: Box<Problem>,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// No or wrong credentials.
    pub fn unauthenticated() -> Self {
        Problem::new(401, "unauthenticated", Reason::PermissionDenied, "the request carries no valid credentials")
            .with_next("use the certificate or the token of admin.json, or choose a context with `weft context use`")
            .into()
    }

    /// Valid credentials that do not allow this.
    pub fn forbidden(who: &str) -> Self {
        Problem::new(
            403,
            "forbidden",
            Reason::PermissionDenied,
            format!("{who} may not use this interface"),
        )
        .into()
    }

    /// Try again later, and when.
    pub fn too_many(detail: impl Into<String>, retry_after_s: u64) -> Self {
        Self {
            problem: Box::new(
                Problem::new(429, "queue-full", Reason::QuotaExceeded, detail)
                    .with_next(format!("try again in {retry_after_s} s")),
            ),
            retry_after_s: Some(retry_after_s),
        }
    }

    /// A body over the limit.
    pub fn too_large(limit_bytes: usize) -> Self {
        Problem::new(
            413,
            "body-too-large",
            Reason::InvalidSpec,
            format!("the body is larger than {limit_bytes} bytes"),
        )
        .with_next("stream tasks as application/x-ndjson, or upload inputs as artifacts")
        .into()
    }

    /// A body of the wrong kind.
    pub fn wrong_content(expected: &str) -> Self {
        Problem::new(
            415,
            "wrong-content-type",
            Reason::InvalidSpec,
            format!("expected {expected}"),
        )
        .with_next(format!("send the header `content-type: {expected}`"))
        .into()
    }
}

impl ApiError {
    /// What the client is told.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The same refusal of a document that stands in a field of another.
    #[must_use]
    pub fn within(mut self, field: &str) -> Self {
        for error in &mut self.problem.errors {
            let nested = FieldError::new(error.path.as_str(), error.message.as_str());
            let FieldError { path, message } = nested.within(field);
            self.problem.detail = format!("{path}: {message}");
            error.path = path;
        }
        self
    }

    /// After how many seconds it may try again, when that is known.
    pub fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s
    }

    /// The server stops; another one, or the same one later, goes on.
    pub fn stopping() -> Self {
        Self {
            problem: Box::new(
                Problem::new(503, "stopping", Reason::Internal, "the server is stopping")
                    .with_next("connect again"),
            ),
            retry_after_s: Some(1),
        }
    }
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self {
            problem: Box::new(problem),
            retry_after_s: None,
        }
    }
}

impl From<FieldError> for ApiError {
    fn from(error: FieldError) -> Self {
        Problem::invalid(error).into()
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        if let Error::Stopping = &error {
            return Self::stopping();
        }
        if let Some(retry_after_s) = error.retry_after_s() {
            return Self::too_many(error.to_string(), retry_after_s);
        }
        if let Error::NotFound { what, id } = &error {
            return Problem::not_found(what, id).into();
        }
        if let Error::NotFinal(_) = &error {
            return Problem::new(409, "not-final", Reason::InvalidSpec, error.to_string()).into();
        }
        if let Error::JobCancelled(_) = &error {
            return Problem::new(409, "job-cancelled", Reason::InvalidSpec, error.to_string())
                .into();
        }
        let (status, kind) = match error.reason() {
            Reason::StorageError => (507, "storage-full-or-failing"),
            Reason::InvalidSpec => (400, "invalid-request"),
            Reason::PermissionDenied => (403, "forbidden"),
            Reason::ArtifactMissing => (404, "artifact-missing"),
            _ => (500, "internal"),
        };
        if status == 500 {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
        }
        Problem::new(status, kind, error.reason(), error.to_string()).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let status =
            StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(PROBLEM_CONTENT_TYPE),
        );
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

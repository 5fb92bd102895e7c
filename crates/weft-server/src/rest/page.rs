//! Parameters that several paths share.

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use weft_types::{FieldError, JobId, parse_duration};

use super::problem::ApiError;

/// The most entries of one page.
const MAX_PAGE_ENTRIES: usize = 1_000;
/// How many entries a page has unless the client says otherwise.
const DEFAULT_PAGE_ENTRIES: usize = 100;
/// The longest a request may wait.
pub(crate) const MAX_WAIT: Duration = Duration::from_secs(600);

/// Query parameters; an unknown or malformed one is refused with its name.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|error| FieldError::new("query", error.body_text()).into())
    }
}

/// Which page of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageParams {
    pub limit: Option<usize>,
    pub cursor: Option<String>,
    /// Only tasks in this state.
    pub state: Option<weft_types::TaskState>,
}

impl PageParams {
    /// How many entries the page may have.
    pub fn limit(&self) -> usize {
        page_limit(self.limit)
    }

    /// The cursor as a number.
    ///
    /// # Errors
    /// When it is not one that a list gave out.
    pub fn cursor_number(&self) -> Result<Option<u64>, ApiError> {
        self.cursor
            .as_deref()
            .map(|cursor| {
                cursor
                    .parse()
                    .map_err(|_| FieldError::new("cursor", "not a cursor of this list").into())
            })
            .transpose()
    }
}

/// How many entries a page may have when the client asks for so many.
pub fn page_limit(wanted: Option<usize>) -> usize {
    wanted
        .unwrap_or(DEFAULT_PAGE_ENTRIES)
        .clamp(1, MAX_PAGE_ENTRIES)
}

/// How long a request wants to wait.
///
/// # Errors
/// When it is not a duration.
pub fn wait(text: Option<&str>) -> Result<Duration, ApiError> {
    let wait = text
        .map(parse_duration)
        .transpose()
        .map_err(|error| FieldError::new("wait", error))?;
    Ok(wait.unwrap_or_default().min(MAX_WAIT))
}

/// The job that a path names.
///
/// # Errors
/// When it is not a job id.
pub fn job_id(text: &str) -> Result<JobId, ApiError> {
    text.parse()
        .map_err(|_| weft_api::Problem::not_found("job", text).into())
}

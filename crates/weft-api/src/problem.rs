//! Errors as RFC 9457 problem documents.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{Class, FieldError, Reason};

/// The content type of a [`Problem`].
pub const PROBLEM_CONTENT_TYPE: &str = "application/problem+json";

/// An error as RFC 9457 describes it, with Weft's reason and the next step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:weft:problem:` and a word that names the kind of problem.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind of problem in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// Which of the failure reasons.
    pub reason: Reason,
    /// Who can do something about it.
    pub class: Class,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The fields that were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemField>,
    /// On conflicts, the current revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
}

/// A refused field.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemField {
    /// Where, as in `resources.cpu`.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Problem {
    /// A problem of a kind, with its HTTP status.
    pub fn new(status: u16, kind: &str, reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:weft:problem:{kind}"),
            title: kind.replace('-', " "),
            status,
            detail: detail.into(),
            reason,
            class: reason.class(),
            next: None,
            errors: Vec::new(),
            revision: None,
        }
    }

    /// With the next step to suggest.
    #[must_use]
    pub fn with_next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    /// A refused field of a request.
    pub fn invalid(error: FieldError) -> Self {
        let detail = error.to_string();
        Self {
            errors: vec![ProblemField {
                path: error.path,
                message: error.message,
            }],
            ..Self::new(400, "invalid-request", Reason::InvalidSpec, detail)
        }
        .with_next("correct the field and send the request again")
    }

    /// Something that is not there.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(
            404,
            "not-found",
            Reason::InvalidSpec,
            format!("there is no {what} {id:?}"),
        )
        .with_next(format!("`weft {what} ls` lists what there is"))
    }
}

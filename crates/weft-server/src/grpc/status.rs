//! Problem documents as gRPC statuses.
//!
//! A status has the sentence as its message; the whole problem document travels as JSON in the
//! trailer `weft-problem-bin`. When it is known when to try again, that is in
//! `grpc-retry-pushback-ms`, which gRPC clients with a retry policy understand.

use axum::response::Response;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use weft_api::{MAX_BODY_BYTES, Problem};
use weft_types::{FieldError, Reason};

use crate::rest::problem::ApiError;

/// The trailer with the problem document.
pub const PROBLEM_KEY: &str = "weft-problem-bin";
const RETRY_KEY: &str = "grpc-retry-pushback-ms";
/// The most characters of a text in a problem: clients refuse large headers.
const MAX_TEXT_CHARS: usize = 512;
/// What prost writes before the place of a fault.
const DECODE_PREFIX: &str = "failed to decode Protobuf message: ";

/// A refusal as gRPC has it.
pub fn of(error: &ApiError) -> Status {
    let problem = shortened(error.problem());
    let json = serde_json::to_vec(&problem).unwrap_or_default();
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(PROBLEM_KEY, MetadataValue::from_bytes(&json));
    if let Some(seconds) = error.retry_after_s() {
        metadata.insert(RETRY_KEY, seconds.saturating_mul(1_000).into());
    }
    Status::with_metadata(code(problem.status), problem.detail, metadata)
}

/// A refusal that the gRPC library made before a method of ours was asked.
pub fn malformed(status: &Status) -> ApiError {
    match status.code() {
        Code::Unimplemented => Problem::new(
            404,
            "no-such-method",
            Reason::InvalidSpec,
            "there is no such method, or not with this encoding",
        )
        .with_next("docs/grpc.md and the reflection service list the methods")
        .into(),
        Code::OutOfRange | Code::ResourceExhausted => ApiError::too_large(MAX_BODY_BYTES),
        Code::Cancelled | Code::Unavailable => {
            FieldError::new("", "the stream broke off before its end").into()
        }
        _ => undecodable(status.message()).into(),
    }
}

/// Adds the problem document to a refusal that has none.
pub fn with_problem(response: Response) -> Response {
    let Some(status) = Status::from_header_map(response.headers()) else {
        return response;
    };
    if status.code() == Code::Ok || response.headers().contains_key(PROBLEM_KEY) {
        return response;
    }
    let mut refused = of(&malformed(&status));
    if status.code() == Code::Unimplemented {
        refused = Status::with_metadata(
            Code::Unimplemented,
            refused.message(),
            refused.metadata().clone(),
        );
    }
    refused.into_http()
}

/// Names the field of `…: Task.input: SubmitRequest.tasks: buffer underflow`: prost writes the
/// innermost place first.
fn undecodable(message: &str) -> FieldError {
    let mut rest = message.strip_prefix(DECODE_PREFIX).unwrap_or(message);
    let mut fields = Vec::new();
    while let Some((place, further)) = rest.split_once(": ")
        && let Some((_message, field)) = place.split_once('.')
        && !place.contains(' ')
    {
        fields.push(field);
        rest = further;
    }
    if fields.is_empty() {
        fields.push("message");
    }
    fields.reverse();
    FieldError::new(fields.join("."), rest)
}

fn code(http_status: u16) -> Code {
    match http_status {
        400 | 415 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        408 => Code::DeadlineExceeded,
        409 | 412 => Code::FailedPrecondition,
        413 | 429 | 507 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        _ => Code::Internal,
    }
}

fn shortened(problem: &Problem) -> Problem {
    let mut problem = problem.clone();
    shorten(&mut problem.detail);
    problem.next.as_mut().map(shorten).unwrap_or_default();
    problem.errors.truncate(8);
    for field in &mut problem.errors {
        shorten(&mut field.path);
        shorten(&mut field.message);
    }
    problem
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(MAX_TEXT_CHARS) {
        text.truncate(end);
        text.push('…');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: &Status) -> Problem {
        let bytes = status.metadata().get_bin(PROBLEM_KEY).expect("a problem");
        serde_json::from_slice(&bytes.to_bytes().expect("base64")).expect("JSON")
    }

    #[test]
    fn the_library_s_decoding_errors_name_the_field() {
        let status = Status::internal(
            "failed to decode Protobuf message: SubmitRequest.workload: invalid string value: data is not UTF-8 encoded",
        );
        let refused = of(&malformed(&status));
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(problem(&refused).errors[0].path, "workload");
        let status = Status::internal(
            "failed to decode Protobuf message: Task.input: SubmitRequest.tasks: buffer underflow",
        );
        assert_eq!(
            problem(&of(&malformed(&status))).errors[0].path,
            "tasks.input"
        );
        let status = Status::internal("failed to decode Protobuf message: buffer underflow");
        assert_eq!(problem(&of(&malformed(&status))).errors[0].path, "message");
    }

    #[test]
    fn what_clients_wrote_does_not_make_headers_too_large() {
        let error = FieldError::new("ä".repeat(10_000), "ö".repeat(100_000));
        let status = of(&error.into());
        assert!(status.message().chars().count() <= MAX_TEXT_CHARS + 1);
        let size = serde_json::to_vec(&problem(&status)).map(|json| json.len());
        assert!(size.is_ok_and(|size| size < 6_000));
    }

    #[test]
    fn when_to_try_again_is_told() {
        let status = of(&ApiError::too_many("full", 3));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(
            status
                .metadata()
                .get(RETRY_KEY)
                .and_then(|value| value.to_str().ok()),
            Some("3000")
        );
    }
}

//! Answers that the proxy gives itself: problem documents (RFC 9457) for clients, refusals for
//! other nodes.

use bytes::Bytes;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::json;
use weft_types::Reason;

use super::body::AnswerBody;
use super::head::{REFUSED, Unfit};

/// Why a request has no answer of a replica.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing of it reached the replica.
    Unsent(String),
    /// It may have been executed, and no byte of an answer came.
    Lost(String),
    /// No answer came in time.
    TooLate,
    /// The client broke it off, or paused for too long within it.
    Client,
}

/// What a node says to another about a request that has no answer.
const UNSENT: HeaderValue = HeaderValue::from_static("unsent");
const LOST: HeaderValue = HeaderValue::from_static("lost");
const TOO_LATE: HeaderValue = HeaderValue::from_static("too-late");

impl Failure {
    /// Says it to the node that the request came from.
    pub(super) fn to_node(&self) -> Response<AnswerBody> {
        let (status, said) = match self {
            Self::Unsent(_) => (StatusCode::SERVICE_UNAVAILABLE, UNSENT),
            Self::Lost(_) => (StatusCode::BAD_GATEWAY, LOST),
            Self::TooLate => (StatusCode::GATEWAY_TIMEOUT, TOO_LATE),
            Self::Client => (StatusCode::BAD_REQUEST, LOST),
        };
        let mut response = Response::new(AnswerBody::Own(None));
        *response.status_mut() = status;
        response.headers_mut().insert(REFUSED, said);
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(CONNECTION, close);
        response
    }

    /// What another node said, if it did.
    pub(super) fn of_node<B>(response: &Response<B>) -> Option<Self> {
        let said = response.headers().get(REFUSED)?;
        Some(if said == UNSENT {
            Self::Unsent("its node says that it is not ready".to_owned())
        } else if said == TOO_LATE {
            Self::TooLate
        } else {
            Self::Lost("its node says that it broke off".to_owned())
        })
    }

    /// Says it to the client.
    pub(super) fn to_client(&self, service: &str) -> Response<AnswerBody> {
        let next = format!("see `weft ps` and `weft logs {service}`");
        match self {
            Self::Unsent(why) | Self::Lost(why) => problem(
                StatusCode::BAD_GATEWAY,
                "replica-failed",
                "the replica failed",
                &format!("a replica of {service} did not answer: {why}"),
                &next,
            ),
            Self::TooLate => problem(
                StatusCode::GATEWAY_TIMEOUT,
                "replica-slow",
                "the replica is too slow",
                &format!("a replica of {service} did not begin its answer in time"),
                &next,
            ),
            Self::Client => problem(
                StatusCode::REQUEST_TIMEOUT,
                "request-broken",
                "the request broke off",
                "the body of the request broke off or paused for too long",
                "send it again",
            ),
        }
    }
}

/// No replica is ready.
pub(super) fn unserved(service: &str) -> Response<AnswerBody> {
    let mut response = problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "no-replica",
        "no replica is ready",
        &format!("service {service} has no ready replica"),
        &format!("see `weft ps` and `weft explain {service}`, and try again"),
    );
    let soon = HeaderValue::from_static("1");
    response.headers_mut().insert(RETRY_AFTER, soon);
    response
}

/// A request that is not passed on.
pub(super) fn unfit(why: Unfit) -> Response<AnswerBody> {
    match why {
        Unfit::Connect => problem(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-refused",
            "CONNECT is not served",
            "a published port is no proxy for other addresses",
            "ask for a path of the service",
        ),
        Unfit::Host => problem(
            StatusCode::BAD_REQUEST,
            "host-refused",
            "the host is unclear",
            "an HTTP/1.1 request has exactly one Host header",
            "send one",
        ),
    }
}

fn problem(
    status: StatusCode,
    kind: &str,
    title: &str,
    detail: &str,
    next: &str,
) -> Response<AnswerBody> {
    let document = json!({
        "type": format!("urn:weft:problem:{kind}"),
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
        "reason": Reason::NetworkError,
        "class": Reason::NetworkError.class(),
        "next": next,
    });
    let mut response = Response::new(AnswerBody::Own(Some(Bytes::from(document.to_string()))));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

//! Messages of the WebSocket at `/v1/ws`; docs/websocket.md describes them for people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_types::{FieldError, Workload, parse_json};

use crate::{JobView, Problem, ResultView};

/// The longest id of a request, in bytes.
pub const MAX_WS_ID_BYTES: usize = 64;
/// The most ranges in `seen` of a request.
pub const MAX_WS_SEEN_RANGES: usize = 100_000;

/// What a client may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WsKind {
    /// Take a job.
    Submit,
    /// Tell a job's state and counts whenever they change.
    Watch,
    /// Tell a job's results as its tasks end.
    Results,
    /// Cancel a job.
    Cancel,
    /// End a subscription (`watch` or `results`).
    Stop,
    /// Answer with `pong`.
    Ping,
}

impl WsKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Watch => "watch",
            Self::Results => "results",
            Self::Cancel => "cancel",
            Self::Stop => "stop",
            Self::Ping => "ping",
        }
    }
}

/// A request as it is on the wire: one object for all kinds, so that a refused field is named by
/// its path.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WsRequestFields {
    /// Chosen by the client; every answer carries it.
    pub id: String,
    /// What is asked for.
    #[serde(rename = "type")]
    pub kind: WsKind,
    /// `submit`: the body of `POST /v1/jobs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<Box<Workload>>,
    /// `submit`: submitting again under the same key answers the first job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// `watch`, `results`, `cancel`: which job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// `results`: `finish` (as tasks end, the default) or `task` (by number).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// `results`: how long to wait for tasks that have not ended; until all have when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<String>,
    /// `results`: first and last numbers of tasks whose results the client has, ascending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Vec<[u32; 2]>>,
    /// `stop`: the id of the request that opened the subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
}

/// A request that has what its kind needs, and nothing else.
#[derive(Clone, Debug)]
pub struct WsRequest {
    /// Chosen by the client.
    pub id: String,
    /// What is asked for.
    pub call: WsCall,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum WsCall {
    /// Take a job.
    Submit {
        /// The job; not checked yet.
        workload: Box<Workload>,
        /// The key under which it may be submitted again.
        idempotency_key: Option<String>,
    },
    /// Follow a job.
    Watch {
        /// Which.
        job: String,
    },
    /// Follow a job's results.
    Results(WsResults),
    /// Cancel a job.
    Cancel {
        /// Which.
        job: String,
    },
    /// End a subscription.
    Stop {
        /// The id of its request.
        subscription: String,
    },
    /// Answer with `pong`.
    Ping,
}

/// Which results are wanted.
#[derive(Clone, Debug)]
pub struct WsResults {
    /// Of which job.
    pub job: String,
    /// `finish` or `task`.
    pub order: Option<String>,
    /// A duration.
    pub wait: Option<String>,
    /// First and last numbers of tasks whose results the client has.
    pub seen: Vec<[u32; 2]>,
}

/// A message that is not a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WsRefused {
    /// Its id, when that could be read.
    pub id: Option<String>,
    /// What is wrong with it.
    pub error: FieldError,
}

impl WsRequest {
    /// Reads a message.
    ///
    /// # Errors
    /// The first field that is refused.
    pub fn parse(message: &[u8]) -> Result<Self, WsRefused> {
        parse_json(message)
            .and_then(check)
            .map_err(|error| WsRefused {
                id: readable_id(message),
                error,
            })
    }
}

/// The id of a message that is refused for another reason.
fn readable_id(message: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct OnlyId {
        id: String,
    }
    let only: OnlyId = serde_json::from_slice(message).ok()?;
    Some(only.id).filter(|id| check_id(id).is_ok())
}

fn check_id(id: &str) -> Result<(), FieldError> {
    if id.is_empty() || id.len() > MAX_WS_ID_BYTES {
        return Err(FieldError::new(
            "id",
            format!("not 1 to {MAX_WS_ID_BYTES} bytes"),
        ));
    }
    Ok(())
}

fn check(mut fields: WsRequestFields) -> Result<WsRequest, FieldError> {
    check_id(&fields.id)?;
    let kind = fields.kind;
    let call = match kind {
        WsKind::Submit => WsCall::Submit {
            workload: needed(kind, "workload", fields.workload.take())?,
            idempotency_key: fields.idempotency_key.take(),
        },
        WsKind::Watch => WsCall::Watch {
            job: needed(kind, "job", fields.job.take())?,
        },
        WsKind::Results => WsCall::Results(WsResults {
            job: needed(kind, "job", fields.job.take())?,
            order: fields.order.take(),
            wait: fields.wait.take(),
            seen: seen(fields.seen.take())?,
        }),
        WsKind::Cancel => WsCall::Cancel {
            job: needed(kind, "job", fields.job.take())?,
        },
        WsKind::Stop => WsCall::Stop {
            subscription: needed(kind, "subscription", fields.subscription.take())?,
        },
        WsKind::Ping => WsCall::Ping,
    };
    // What the kind needs was taken out; what is left does not belong to it.
    let left = [
        ("workload", fields.workload.is_some()),
        ("idempotency_key", fields.idempotency_key.is_some()),
        ("job", fields.job.is_some()),
        ("order", fields.order.is_some()),
        ("wait", fields.wait.is_some()),
        ("seen", fields.seen.is_some()),
        ("subscription", fields.subscription.is_some()),
    ];
    if let Some((name, _)) = left.iter().find(|(_, is_left)| *is_left) {
        return Err(FieldError::new(
            *name,
            format!("does not belong to `{}`", kind.as_str()),
        ));
    }
    Ok(WsRequest {
        id: fields.id,
        call,
    })
}

fn needed<T>(kind: WsKind, name: &str, value: Option<T>) -> Result<T, FieldError> {
    value.ok_or_else(|| FieldError::new(name, format!("missing; `{}` needs it", kind.as_str())))
}

fn seen(ranges: Option<Vec<[u32; 2]>>) -> Result<Vec<[u32; 2]>, FieldError> {
    let ranges = ranges.unwrap_or_default();
    if ranges.len() > MAX_WS_SEEN_RANGES {
        return Err(FieldError::new(
            "seen",
            format!("more than {MAX_WS_SEEN_RANGES} ranges"),
        ));
    }
    Ok(ranges)
}

/// A message to the client.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WsMessage {
    /// The id of the request it answers; absent when that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The answer.
    #[serde(flatten)]
    pub answer: WsAnswer,
}

/// What a client is told.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum WsAnswer {
    /// The job is on disk.
    Submitted {
        /// The job.
        job: JobView,
    },
    /// A watched job changed; the first one comes at once.
    Job {
        /// The job.
        job: JobView,
    },
    /// Tasks ended.
    Results {
        /// What they left behind.
        results: Vec<ResultView>,
    },
    /// A subscription ended: nothing more comes under its id, which may be used again.
    End {
        /// `false` when it was stopped, or its wait was over, before everything was told.
        complete: bool,
    },
    /// The job is cancelled; one that had ended stays as it was.
    Cancelled {
        /// The job.
        job: JobView,
    },
    /// The subscription was told to end.
    Stopped,
    /// The answer to `ping`.
    Pong,
    /// The request was refused, or the subscription broke off.
    Error {
        /// Why.
        problem: Problem,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &str) -> (Option<String>, String) {
        let refused = WsRequest::parse(message.as_bytes()).expect_err(message);
        (refused.id, refused.error.path)
    }

    #[test]
    fn each_kind_takes_its_own_fields_only() {
        let submit = r#"{"id":"a","type":"submit","idempotency_key":"k",
            "workload":{"runtime":"op","op":{"op":"crc32c"}}}"#;
        let request = WsRequest::parse(submit.as_bytes()).expect("a request");
        assert!(
            matches!(request.call, WsCall::Submit { idempotency_key: Some(key), .. } if key == "k")
        );
        let results = r#"{"id":"r","type":"results","job":"job-1","seen":[[0,9],[12,12]]}"#;
        let request = WsRequest::parse(results.as_bytes()).expect("a request");
        assert!(matches!(request.call, WsCall::Results(wanted) if wanted.seen.len() == 2));
        let id = Some("x".to_owned());
        for (message, path) in [
            (r#"{"id":"x","type":"watch"}"#, "job"),
            (r#"{"id":"x","type":"ping","job":"j"}"#, "job"),
            (
                r#"{"id":"x","type":"watch","job":"j","order":"task"}"#,
                "order",
            ),
            (r#"{"id":"x","type":"stop","job":"j"}"#, "subscription"),
            (r#"{"id":"x","type":"submit"}"#, "workload"),
        ] {
            assert_eq!(refused(message), (id.clone(), path.to_owned()), "{message}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_keeps_the_id() {
        let x = || Some("x".to_owned());
        for (message, id, path) in [
            ("{", None, ""),
            ("[]", None, ""),
            (r#"{"type":"ping"}"#, None, ""),
            (r#"{"id":7,"type":"ping"}"#, None, "id"),
            (r#"{"id":"","type":"ping"}"#, None, "id"),
            (r#"{"id":"x","type":"shout"}"#, x(), "type"),
            (r#"{"id":"x","id":"y","type":"ping"}"#, None, ""),
            (
                r#"{"id":"x","type":"results","job":"j","seen":[[-1,2]]}"#,
                x(),
                "seen[0][0]",
            ),
            (
                r#"{"id":"x","type":"submit","workload":{"runtime":"op","op":{"op":"sum"}}}"#,
                x(),
                "workload.op.op",
            ),
            (
                r#"{"id":"x","type":"submit","workload":{"runtime":"op","tasks":[{"offset":-1}]}}"#,
                x(),
                "workload.tasks[0].offset",
            ),
        ] {
            let (found_id, found_path) = refused(message);
            assert_eq!(found_id, id, "{message}");
            assert!(path.starts_with(&found_path), "{found_path} of {message}");
            assert_eq!(found_path.is_empty(), path.is_empty(), "{message}");
        }
    }

    #[test]
    fn answers_round_trip() {
        let message = WsMessage {
            id: Some("p".to_owned()),
            answer: WsAnswer::Pong,
        };
        let json = serde_json::to_string(&message).expect("JSON");
        assert_eq!(json, r#"{"id":"p","type":"pong"}"#);
        let end: WsMessage =
            serde_json::from_str(r#"{"id":"r","type":"end","complete":true}"#).expect("an answer");
        assert!(matches!(end.answer, WsAnswer::End { complete: true }));
    }
}

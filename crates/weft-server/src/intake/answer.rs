//! How the end of a job is told to whoever pushed it.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use weft_api::{JobView, ResultView, Text, rfc3339};
use weft_intake::{Done, WorkQueue};
use weft_types::{Reason, TaskState};

use super::codec::Codec;
use super::cost;
use crate::Error;
use crate::outcome::why;
use crate::rest::views;
use crate::state::Server;

/// How many tasks are read at once, and about how many bytes of lines one message carries.
const STEP_TASKS: u32 = 256;
const PART_BYTES: usize = 256 << 10;
/// The longest line of a result: less than the least message that NATS servers take by default.
const MAX_LINE_BYTES: usize = 700 << 10;
/// How much of what a task printed a line carries when all of it would be too long.
const CUT_OUTPUT_BYTES: usize = 32 << 10;

/// The result of a job from Redis.
#[derive(Serialize)]
struct RedisResult<'a> {
    job_id: &'a str,
    /// The node that ran it.
    substrate: Option<&'a str>,
    success: bool,
    result: Option<&'a RawValue>,
    exec_time_ms: f64,
    bytes_processed: u64,
    cost_usd: f64,
    error: Option<String>,
    completed_at: String,
}

/// A line of the metrics list.
#[derive(Serialize)]
struct Measure<'a> {
    job_id: &'a str,
    substrate: Option<&'a str>,
    success: bool,
    exec_time_ms: f64,
    bytes_processed: u64,
    cost_usd: f64,
    completed_at: &'a str,
}

/// Makes what ends a delivery out of a job that has ended; parts of it are recorded on the way.
pub(super) async fn answer(
    server: &Arc<Server>,
    queue: &dyn WorkQueue,
    codec: Codec,
    id: &str,
    job: &JobView,
) -> Result<Done, Error> {
    match codec {
        Codec::Redis => {
            let view = views(server, job.id, 0, 1).await?.into_iter().next();
            let view = view.unwrap_or_else(forgotten);
            let now = rfc3339(server.clock.wall());
            let cost_usd = cost::of(server, job.id, &view).await;
            let completed_at = job.finished_at.clone().unwrap_or(now);
            Ok(redis(id, view, cost_usd, completed_at))
        }
        Codec::Nats => lines(server, queue, id, job).await,
    }
}

/// What ends the delivery of a job that somebody removed before its end was told.
pub(super) fn gone(codec: Codec, id: &str, now: String) -> Done {
    match codec {
        Codec::Redis => redis(id, forgotten(), 0.0, now),
        Codec::Nats => Done {
            result: id.to_owned(),
            body: line(forgotten()).into(),
            measure: None,
        },
    }
}

fn forgotten() -> ResultView {
    let view = crate::outcome::result_view(0, TaskState::Cancelled, None, 0, None, &[]);
    ResultView {
        why: Some(why(
            Reason::Cancelled,
            "the job was removed before its result was told",
        )),
        ..view
    }
}

/// The result and the measure of the contract.
fn redis(id: &str, view: ResultView, cost_usd: f64, completed_at: String) -> Done {
    let success = view.state == TaskState::Completed;
    let substrate = view.node.as_deref();
    let exec_time_ms = view.run_us as f64 / 1e3;
    let bytes_processed = view.result.as_deref().map_or(0, bytes_processed);
    let error = view
        .why
        .as_ref()
        .map(|why| format!("{}: {}", why.reason.as_str(), why.detail));
    let measure = Measure {
        job_id: id,
        substrate,
        success,
        exec_time_ms,
        bytes_processed,
        cost_usd,
        completed_at: &completed_at,
    };
    let measure = serde_json::to_vec(&measure).unwrap_or_default();
    let result = RedisResult {
        job_id: id,
        substrate,
        success,
        result: view.result.as_deref().filter(|_| success),
        exec_time_ms,
        bytes_processed,
        cost_usd,
        error: error.filter(|_| !success),
        completed_at: completed_at.clone(),
    };
    Done {
        result: id.to_owned(),
        body: serde_json::to_vec(&result).unwrap_or_default().into(),
        measure: Some(measure.into()),
    }
}

/// The bytes that every operation of a program looked at.
fn bytes_processed(result: &RawValue) -> u64 {
    let Ok(result) = serde_json::from_str::<Value>(result.get()) else {
        return 0;
    };
    let bytes = |one: &Value| one["bytes"].as_u64().unwrap_or(0);
    match result["results"].as_array() {
        Some(all) => all.iter().map(bytes).fold(0, u64::saturating_add),
        None => bytes(&result),
    }
}

/// Lines of the results stream. All but the last message of them are recorded at once.
async fn lines(
    server: &Arc<Server>,
    queue: &dyn WorkQueue,
    id: &str,
    job: &JobView,
) -> Result<Done, Error> {
    let total = u32::try_from(job.tasks.total).unwrap_or(u32::MAX);
    let (mut first, mut part) = (0, 0);
    let mut body = Vec::new();
    while first < total {
        for view in views(server, job.id, first, STEP_TASKS.min(total - first)).await? {
            let line = line(view);
            if !body.is_empty() && body.len() + line.len() > PART_BYTES {
                queue
                    .part(id, part, Bytes::from(std::mem::take(&mut body)))
                    .await?;
                part += 1;
            }
            body.extend_from_slice(&line);
        }
        first = first.saturating_add(STEP_TASKS);
    }
    Ok(Done {
        result: id.to_owned(),
        body: body.into(),
        measure: None,
    })
}

/// One line with its newline, cut when it would not fit into a message.
fn line(view: ResultView) -> Vec<u8> {
    let whole = encode(&view);
    if whole.len() <= MAX_LINE_BYTES {
        return whole;
    }
    encode(&ResultView {
        stdout: view.stdout.map(cut_output),
        stderr: view.stderr.map(cut_output),
        files: Vec::new(),
        ..view
    })
}

fn encode(view: &ResultView) -> Vec<u8> {
    let mut line = serde_json::to_vec(view).unwrap_or_default();
    line.push(b'\n');
    line
}

fn cut_output(text: Text) -> Text {
    match text {
        Text::Inline { mut bytes, .. } if bytes.len() > CUT_OUTPUT_BYTES => {
            bytes.truncate(CUT_OUTPUT_BYTES);
            Text::Inline {
                bytes,
                truncated: true,
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_proto::v1::TaskOutcome;

    fn view(state: TaskState, reason: Option<Reason>, outcome: &TaskOutcome) -> ResultView {
        use prost::Message;
        crate::outcome::result_view(0, state, reason, 1, None, &outcome.encode_to_vec())
    }

    fn told(view: ResultView) -> Value {
        let done = redis("x", view, 0.25, "2026-01-01T00:00:00.000Z".to_owned());
        assert_eq!(done.result, "x");
        serde_json::from_slice(&done.body).unwrap()
    }

    #[test]
    fn a_result_has_the_fields_of_the_contract() {
        let outcome = TaskOutcome {
            result: r#"{"results":[{"op":"xor","result":1,"bytes":3},{"op":"add","result":2,"bytes":4}]}"#.into(),
            node: "node-1".to_owned(),
            run_us: 1_500,
            ..Default::default()
        };
        let told = told(view(TaskState::Completed, None, &outcome));
        let expected = serde_json::json!({
            "job_id": "x", "substrate": "node-1", "success": true,
            "result": {"results": [{"op": "xor", "result": 1, "bytes": 3}, {"op": "add", "result": 2, "bytes": 4}]},
            "exec_time_ms": 1.5, "bytes_processed": 7, "cost_usd": 0.25, "error": null,
            "completed_at": "2026-01-01T00:00:00.000Z",
        });
        assert_eq!(told, expected);
    }

    #[test]
    fn a_failure_names_its_reason_and_has_no_result() {
        let outcome = TaskOutcome {
            detail: "not enough".to_owned(),
            ..Default::default()
        };
        let failed = told(view(TaskState::Failed, Some(Reason::Timeout), &outcome));
        assert_eq!(
            (&failed["success"], &failed["result"]),
            (&false.into(), &Value::Null)
        );
        assert_eq!(failed["error"], "timeout: not enough");
        assert!(
            told(forgotten())["error"]
                .as_str()
                .unwrap()
                .contains("removed")
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_says_so() {
        let outcome = TaskOutcome {
            exit_code: Some(0),
            stdout: vec![1; 1 << 20].into(),
            ..Default::default()
        };
        let line = line(view(TaskState::Completed, None, &outcome));
        assert!(line.len() < MAX_LINE_BYTES, "{}", line.len());
        let read: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(read["stdout_truncated"], true);
    }
}

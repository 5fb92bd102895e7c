//! The job that a producer pushes into Redis.

use serde::Deserialize;
use serde_json::{Map, Value};
use weft_types::{
    Bytes, FieldError, GpuRequest, Program, Resources, TaskSpec, Timestamp, Workload, parse_json,
};

use super::codec::{Incoming, Refusal};
use crate::dispatch::NewJob;
use crate::rest::whole_job;

/// The longest id of a job, in bytes.
const MAX_ID_BYTES: usize = 128;
/// The longest time a job may ask for, in seconds.
const MAX_SECONDS: f64 = 30.0 * 86_400.0;
/// The most memory a job may ask for, in MiB.
const MAX_MEMORY_MB: u64 = 1 << 30;

/// A job as it is written. Fields that are not known are the producer's own business, like
/// `metadata`; those inside `program` are not.
#[derive(Deserialize)]
struct Written {
    job_id: String,
    program: Map<String, Value>,
    #[serde(default = "default_memory_mb")]
    required_memory_mb: u64,
    #[serde(default = "default_duration_s", alias = "required_duration_seconds")]
    required_duration_s: f64,
    #[serde(default)]
    requires_gpu: bool,
    #[serde(default)]
    priority: i32,
    #[serde(default = "default_timeout_s", alias = "timeout_seconds")]
    timeout_s: f64,
    /// Carried for the producer; only its type is looked at.
    #[serde(default, rename = "metadata")]
    _metadata: Option<Map<String, Value>>,
    /// The input may be written inside the program, or beside it.
    data: Option<Value>,
    data_url: Option<Value>,
    blob: Option<Value>,
}

fn default_memory_mb() -> u64 {
    256
}

fn default_duration_s() -> f64 {
    30.0
}

fn default_timeout_s() -> f64 {
    300.0
}

/// Reads and checks a job.
pub(super) fn read(body: &[u8], now: Timestamp) -> Result<Incoming, Refusal> {
    let written: Written =
        parse_json(body).map_err(|error| Refusal::invalid(id_of(body), error))?;
    let id = written.job_id.clone();
    let job = job(written, now).map_err(|error| Refusal::invalid(Some(id.clone()), error))?;
    Ok(Incoming { id, job })
}

/// The id of a job that cannot be read as one, if there is anything like it.
fn id_of(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let id = value.get("job_id")?.as_str()?;
    check_id(id).ok().map(|()| id.to_owned())
}

fn job(written: Written, now: Timestamp) -> Result<NewJob, FieldError> {
    check_id(&written.job_id)?;
    let key = format!("redis:{}", written.job_id);
    let expected_run_ms = seconds("required_duration_s", written.required_duration_s)? * 1e3;
    let workload = workload(written)?;
    workload.check()?;
    let mut job = whole_job(workload, Some(key), now)?;
    job.submission.request.expected_run_ms = expected_run_ms.min(f64::from(u32::MAX)) as u32;
    Ok(job)
}

fn workload(written: Written) -> Result<Workload, FieldError> {
    let mut workload: Workload = parse_json(br#"{"runtime":"op"}"#)?;
    let beside = [
        ("data", written.data),
        ("data_url", written.data_url),
        ("blob", written.blob),
    ];
    let (program, task) = program_and_input(written.program, beside)?;
    workload.name = written.job_id.parse().ok();
    workload.op = Some(program);
    workload.tasks = vec![task];
    workload.resources = Some(Resources {
        memory: memory(written.required_memory_mb)?,
        gpu: written.requires_gpu.then_some(GpuRequest {
            count: 1,
            model: None,
        }),
        ..Resources::for_op()
    });
    workload.priority = written.priority;
    let timeout = seconds("timeout_s", written.timeout_s)?;
    workload.timeout = Some(std::time::Duration::from_secs_f64(timeout));
    Ok(workload)
}

/// Splits what is written as one object into what to do and what to look at.
fn program_and_input(
    mut program: Map<String, Value>,
    beside: [(&'static str, Option<Value>); 3],
) -> Result<(Program, TaskSpec), FieldError> {
    let mut input = Map::new();
    for (name, value) in beside {
        let inside = program.remove(name).filter(|value| !value.is_null());
        match (inside, value) {
            (Some(_), Some(_)) => {
                return Err(FieldError::new(name, "given in the job and in `program`"));
            }
            (Some(value), None) | (None, Some(value)) => {
                input.insert(name.to_owned(), value);
            }
            (None, None) => {}
        }
    }
    // Of one operation they narrow what it looks at; of a list, what all of them do.
    if program.contains_key("ops") {
        for name in ["offset", "length"] {
            input.extend(program.remove(name).map(|value| (name.to_owned(), value)));
        }
    }
    let read = |error: serde_json::Error| FieldError::new("program", error.to_string());
    let task: TaskSpec = serde_json::from_value(Value::Object(input)).map_err(read)?;
    let program: Program = parse_json(&serde_json::to_vec(&program).map_err(read)?)
        .map_err(|error| within("program", error))?;
    Ok((program, task))
}

fn within(path: &str, error: FieldError) -> FieldError {
    let path = match error.path.as_str() {
        "" => path.to_owned(),
        inner => format!("{path}.{inner}"),
    };
    FieldError::new(path, error.message)
}

fn check_id(id: &str) -> Result<(), FieldError> {
    let printable = !id.chars().any(char::is_control);
    if printable && (1..=MAX_ID_BYTES).contains(&id.len()) {
        return Ok(());
    }
    let detail = format!("not 1 to {MAX_ID_BYTES} bytes without control characters");
    Err(FieldError::new("job_id", detail))
}

fn memory(megabytes: u64) -> Result<Bytes, FieldError> {
    if megabytes > MAX_MEMORY_MB {
        let detail = format!("{megabytes} is more than {MAX_MEMORY_MB}");
        return Err(FieldError::new("required_memory_mb", detail));
    }
    Ok(Bytes(megabytes << 20))
}

fn seconds(field: &str, seconds: f64) -> Result<f64, FieldError> {
    if seconds > 0.0 && seconds <= MAX_SECONDS {
        return Ok(seconds);
    }
    let detail = format!("{seconds} is not more than 0 and at most {MAX_SECONDS}");
    Err(FieldError::new(field, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_now(body: &[u8]) -> Result<Incoming, Refusal> {
        read(body, Timestamp(0))
    }

    fn refused(body: &str) -> Refusal {
        read_now(body.as_bytes())
            .err()
            .unwrap_or_else(|| panic!("{body} is taken"))
    }

    #[test]
    fn the_job_of_the_contract_is_understood_with_its_defaults() {
        let incoming =
            read_now(br#"{"job_id":"a/1 b","program":{"op":"counteq","imm":42,"data":"KioA"}}"#);
        let incoming = incoming.unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!(incoming.id, "a/1 b");
        let NewJob {
            submission,
            idempotency_key,
            payloads,
            ..
        } = incoming.job;
        assert_eq!(idempotency_key.as_deref(), Some("redis:a/1 b"));
        assert_eq!(
            (submission.tasks, submission.priority, payloads.len()),
            (1, 0, 1)
        );
        assert_eq!(submission.request.resources.memory, Bytes(256 << 20));
        assert_eq!(submission.request.expected_run_ms, 30_000);
        let full = br#"{"job_id":"x","program":{"ops":[{"op":"crc32c"},{"op":"xor"}],"offset":1,"length":2},
            "data":"KioA","required_memory_mb":16,"required_duration_seconds":1.5,"requires_gpu":true,
            "priority":-5,"timeout_seconds":10,"metadata":{"a":[1]},"sent_by":"me"}"#;
        let submission = read_now(full)
            .unwrap_or_else(|refusal| panic!("{refusal:?}"))
            .job
            .submission;
        assert_eq!(
            (submission.priority, submission.request.expected_run_ms),
            (-5, 1_500)
        );
        assert!(submission.request.resources.gpu.is_some());
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_field_and_the_id() {
        let job = |rest: &str| format!(r#"{{"job_id":"x",{rest}}}"#);
        let crc = r#""program":{"op":"crc32c","data":""}"#;
        for (rest, word) in [
            (r#""program":{"op":"crc32"}"#.to_owned(), "program.op"),
            (r#""program":{"op":"xor","imm":-1}"#.to_owned(), "program"),
            (r#""program":{"op":"xor","lenght":1}"#.to_owned(), "lenght"),
            (r#""program":{"op":"xor","data":"%"}"#.to_owned(), "data"),
            (r#""program":{"op":"xor","data":7}"#.to_owned(), "program"),
            (r#""program":"xor""#.to_owned(), "program"),
            (r#""priority":1"#.to_owned(), "program"),
            (
                format!(r#"{crc},"required_memory_mb":-1"#),
                "required_memory_mb",
            ),
            (
                format!(r#"{crc},"required_memory_mb":99999999999"#),
                "required_memory_mb",
            ),
            (format!(r#"{crc},"timeout_s":-3"#), "timeout_s"),
            (format!(r#"{crc},"timeout_s":0"#), "timeout_s"),
            (format!(r#"{crc},"timeout_s":"10""#), "timeout_s"),
            (
                format!(r#"{crc},"required_duration_s":-1"#),
                "required_duration_s",
            ),
            (format!(r#"{crc},"priority":1000"#), "priority"),
            (format!(r#"{crc},"requires_gpu":"yes""#), "requires_gpu"),
            (format!(r#"{crc},"data":"""#), "data"),
        ] {
            let refusal = refused(&job(&rest));
            assert!(refusal.detail.contains(word), "{rest}: {}", refusal.detail);
            assert_eq!(refusal.id.as_deref(), Some("x"), "{rest}");
        }
    }

    #[test]
    fn what_is_no_job_at_all_is_refused() {
        for body in [
            "",
            "{",
            "null",
            "[]",
            "7",
            r#"{"job_id":"x","program":"#,
            r#"{"job_id":7,"program":{}}"#,
        ] {
            assert_eq!(refused(body).id, None, "{body}");
        }
        assert!(read_now(&[b'{', 0xff, 0xfe]).is_err());
        for id in ["", "a\nb", &"x".repeat(MAX_ID_BYTES + 1)] {
            let body = serde_json::json!({"job_id": id, "program": {"op": "xor", "data": ""}});
            assert!(refused(&body.to_string()).detail.contains("job_id"));
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_never_panics(body in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let _ = read_now(&body);
        }
    }
}

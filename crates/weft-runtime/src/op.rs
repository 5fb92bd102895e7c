//! Byte programs, run inside the agent.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use weft_ops::{Program, Results, Run};
use weft_types::{Failure, Reason, RuntimeKind};

use crate::outcome::{cancelled, storage, timed_out};
use crate::{Control, Input, Outcome, Probe, Runtime, TaskRun, Used, Work};

/// Bytes between two looks at the clock and at cancellation, and read from a file at once: fits the second-level
/// cache, and takes well under a millisecond.
const PIECE_BYTES: usize = 256 << 10;

/// Runs byte programs.
///
/// [`Runtime::run`] takes one task on a thread that may block. Many small tasks are run by
/// [`run_batch`](Self::run_batch), on a thread of the caller's.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpRuntime;

/// One byte program over one input.
#[derive(Clone, Copy, Debug)]
pub struct OpTask<'a> {
    /// The program.
    pub program: &'a Program,
    /// Its input; none is an empty one.
    pub input: &'a Input,
    /// Time it may take.
    pub timeout: Option<Duration>,
    /// What may cancel it.
    pub control: Option<&'a Control>,
}

/// What became of an [`OpTask`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpOutcome {
    /// JSON of the result, or why there is none.
    pub result: Result<Bytes, Failure>,
    /// Time it took, microseconds.
    pub run_us: u64,
}

impl OpRuntime {
    /// Runs tasks one after the other on the calling thread. Blocks for as long as they take; a failed one does
    /// not keep the next from running.
    pub fn run_batch(&self, tasks: &[OpTask<'_>]) -> Vec<OpOutcome> {
        let mut buffer = Vec::new();
        let mut start = Instant::now();
        let mut outcomes = Vec::with_capacity(tasks.len());
        for task in tasks {
            let result = run_one(task, start, &mut buffer);
            // One look at the clock a task: the end of one is the start of the next.
            let end = Instant::now();
            let run_us = Used::wall(end.duration_since(start));
            outcomes.push(OpOutcome { result, run_us });
            start = end;
        }
        outcomes
    }
}

#[async_trait]
impl Runtime for OpRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Op
    }

    async fn probe(&self) -> Probe {
        Probe {
            available: true,
            ..Probe::default()
        }
    }

    async fn run(&self, task: TaskRun, control: Control) -> Outcome {
        let runtime = *self;
        let running = tokio::task::spawn_blocking(move || {
            let Work::Op(program) = &task.work else {
                let detail = format!("a {} task came to the op runtime", task.work.kind());
                return Outcome::failed(Failure::new(Reason::Internal, detail));
            };
            let one = OpTask {
                program,
                input: &task.input,
                timeout: task.timeout,
                control: Some(&control),
            };
            let outcomes = runtime.run_batch(&[one]);
            let outcome = outcomes
                .into_iter()
                .next()
                .expect("a batch of one has one outcome");
            control.output().finish();
            outcome.into()
        });
        running.await.unwrap_or_else(|error| {
            Outcome::failed(Failure::new(
                Reason::Internal,
                format!("the op thread ended early: {error}"),
            ))
        })
    }
}

impl From<OpOutcome> for Outcome {
    fn from(outcome: OpOutcome) -> Self {
        let (result, failure) = match outcome.result {
            Ok(result) => (Some(result), None),
            Err(failure) => (None, Some(failure)),
        };
        // It computes all the time it runs.
        let used = Used {
            cpu_us: outcome.run_us,
            run_us: outcome.run_us,
            peak_memory_bytes: 0,
        };
        Self {
            result,
            failure,
            used,
            ..Self::default()
        }
    }
}

fn run_one(task: &OpTask<'_>, start: Instant, buffer: &mut Vec<u8>) -> Result<Bytes, Failure> {
    let results = match task.input {
        Input::None => run_bytes(task, start, &[]),
        Input::Bytes { bytes, .. } => run_bytes(task, start, bytes),
        Input::File {
            path,
            offset,
            length,
            ..
        } => run_file(task, start, buffer, path, *offset, *length),
    }?;
    let json = serde_json::to_vec(&results);
    json.map(Bytes::from)
        .map_err(|error| Failure::new(Reason::Internal, error.to_string()))
}

fn run_bytes(task: &OpTask<'_>, start: Instant, bytes: &[u8]) -> Result<Results, Failure> {
    if bytes.len() <= PIECE_BYTES {
        check(task, None)?;
        return task.program.run(bytes).map_err(beyond);
    }
    let mut run = Run::new(task.program);
    for piece in bytes.chunks(PIECE_BYTES) {
        check(task, Some(start))?;
        run.update(piece);
    }
    run.finish().map_err(beyond)
}

fn run_file(
    task: &OpTask<'_>,
    start: Instant,
    buffer: &mut Vec<u8>,
    path: &Path,
    offset: u64,
    length: Option<u64>,
) -> Result<Results, Failure> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            Failure::new(Reason::ArtifactMissing, "the input is not on the node")
        }
        _ => storage("cannot read the input", &error),
    };
    let mut file = File::open(path).map_err(unreadable)?;
    file.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut left = length.unwrap_or(u64::MAX);
    let mut run = Run::new(task.program);
    buffer.resize(PIECE_BYTES, 0);
    while left > 0 {
        check(task, Some(start))?;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let count = match file.read(&mut buffer[..wanted]) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(error)),
        };
        run.update(&buffer[..count]);
        left -= count as u64;
    }
    if length.is_some() && left > 0 {
        return Err(crate::task::beyond_input(offset, length));
    }
    run.finish().map_err(beyond)
}

fn beyond(error: weft_ops::SliceError) -> Failure {
    Failure::new(Reason::InvalidSpec, error.to_string()).with_next("correct `offset` and `length`")
}

/// # Errors
/// When the task was cancelled, or has run since `start` for longer than it may.
fn check(task: &OpTask<'_>, start: Option<Instant>) -> Result<(), Failure> {
    if task.control.is_some_and(Control::is_cancelled) {
        return Err(cancelled());
    }
    match (task.timeout, start) {
        (Some(timeout), Some(start)) if start.elapsed() > timeout => Err(timed_out(task.timeout)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn program(text: &str) -> Program {
        serde_json::from_str(text).unwrap()
    }

    fn bytes(bytes: impl Into<Bytes>) -> Input {
        Input::Bytes {
            bytes: bytes.into(),
            name: None,
        }
    }

    fn one<'a>(program: &'a Program, input: &'a Input) -> OpTask<'a> {
        OpTask {
            program,
            input,
            timeout: None,
            control: None,
        }
    }

    fn run(task: OpTask<'_>) -> Result<String, Reason> {
        let outcome = OpRuntime.run_batch(&[task]).remove(0);
        outcome
            .result
            .map(|json| String::from_utf8(json.to_vec()).unwrap())
            .map_err(|failure| failure.reason)
    }

    #[test]
    fn a_batch_gives_each_task_its_own_result_and_failures_stay_apart() {
        let counts = program(r#"{"op":"counteq","imm":97}"#);
        let slices = program(r#"{"op":"xor","offset":100}"#);
        let input = bytes("banana");
        let outcomes = OpRuntime.run_batch(&[
            one(&counts, &input),
            one(&slices, &input),
            one(&counts, &Input::None),
        ]);
        assert_eq!(
            &outcomes[0].result.as_ref().unwrap()[..],
            br#"{"op":"counteq","count":3,"bytes":6}"#
        );
        assert_eq!(
            outcomes[1].result.as_ref().unwrap_err().reason,
            Reason::InvalidSpec
        );
        assert_eq!(
            &outcomes[2].result.as_ref().unwrap()[..],
            br#"{"op":"counteq","count":0,"bytes":0}"#
        );
    }

    #[test]
    fn a_file_gives_the_same_as_its_bytes_also_in_part() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let content: Vec<u8> = (0..3 * PIECE_BYTES + 77)
            .map(|number| (number % 251) as u8)
            .collect();
        file.write_all(&content).unwrap();
        let program = program(r#"{"op":"fnv64"}"#);
        for (offset, length) in [
            (0, None),
            (5, None),
            (PIECE_BYTES as u64 - 1, Some(PIECE_BYTES as u64 + 2)),
            (9, Some(0)),
        ] {
            let path = file.path().to_owned();
            let part = Input::File {
                path,
                name: None,
                offset,
                length,
            };
            let whole = bytes(content.clone()).slice(offset, length).unwrap();
            assert_eq!(
                run(one(&program, &part)),
                run(one(&program, &whole)),
                "{offset} {length:?}"
            );
        }
        let path = file.path().to_owned();
        let too_long = Input::File {
            path,
            name: None,
            offset: 1,
            length: Some(content.len() as u64),
        };
        assert_eq!(run(one(&program, &too_long)), Err(Reason::InvalidSpec));
    }

    #[test]
    fn a_large_input_stops_when_cancelled_or_late() {
        let program = program(r#"{"op":"crc32c"}"#);
        let input = bytes(vec![0; 2 * PIECE_BYTES]);
        let control = Control::new();
        let task = OpTask {
            control: Some(&control),
            ..one(&program, &input)
        };
        assert!(run(task).is_ok());
        control.cancel();
        assert_eq!(run(task), Err(Reason::Cancelled));
        let late = OpTask {
            timeout: Some(Duration::ZERO),
            ..one(&program, &input)
        };
        assert_eq!(run(late), Err(Reason::Timeout));
    }

    #[test]
    fn a_missing_file_is_told_as_such() {
        let program = program(r#"{"op":"crc32c"}"#);
        let path = "/nonexistent/input".into();
        let input = Input::File {
            path,
            name: None,
            offset: 0,
            length: None,
        };
        assert_eq!(run(one(&program, &input)), Err(Reason::ArtifactMissing));
    }
}

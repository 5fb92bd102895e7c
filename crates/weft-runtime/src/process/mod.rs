//! Processes, started and contained by the spawner of `weft-sandbox`.

mod ending;
mod request;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use weft_sandbox::{Client, Event, Exit, Process, Stdin};
use weft_types::{Failure, Reason, RuntimeKind};

use crate::outcome::{self, storage};
use crate::output::{OutputLog, Stream};
use crate::{
    Control, Input, Missing, Outcome, Probe, Runtime, TaskRun, Used, Work, WorkDir, WorkRoot,
    out_files, stdin,
};

/// Time between SIGTERM and SIGKILL, on cancellation and on timeout.
const TERM_GRACE: Duration = Duration::from_secs(1);
const SIGTERM: i32 = 15;

/// Runs processes.
///
/// The working directory holds the named input and is removed with the outcome. In the full sandbox memory, CPU
/// share, disk and the number of processes are limited; with `sandbox: none` only time, disk and output are, for
/// then a process is trusted with what the agent's user may do, and costs no control group.
#[derive(Clone, Debug)]
pub struct ProcessRuntime {
    client: Client,
    work: WorkRoot,
}

impl ProcessRuntime {
    /// A runtime that starts its processes with `client`, each in a directory of its own beneath `work`.
    pub fn new(client: Client, work: WorkRoot) -> Self {
        Self { client, work }
    }

    async fn attempt(&self, task: &TaskRun, control: &Control) -> Result<Outcome, Failure> {
        let Work::Process { command, sandbox } = &task.work else {
            return Err(Failure::new(
                Reason::Internal,
                format!("a {} task came to the process runtime", task.work.kind()),
            ));
        };
        if control.is_cancelled() {
            return Err(outcome::cancelled());
        }
        let dir = self.prepare(task).await?;
        let limit_bytes = task.output_limit_bytes();
        control.output().spill_to(&dir.output_prefix(), limit_bytes);
        let stdin = standard_input(&task.input).await?;
        let spec = request::spec(task, command, *sandbox, &dir, stdin, limit_bytes);
        let start = Instant::now();
        let process = self.client.spawn(spec).await.map_err(ending::refused)?;
        let ended = follow(process, control).await;
        let mut outcome = Outcome {
            used: Used {
                run_us: Used::wall(start.elapsed()),
                ..Used::default()
            },
            ..Outcome::default()
        };
        match ended {
            Ok(exit) => ending::describe(&mut outcome, &exit, task, control.is_cancelled()),
            Err(failure) => outcome.failure = Some(failure),
        }
        let found = list_out_files(&dir, task.out_files_limit_bytes()).await;
        (outcome.files, outcome.skipped_files) = (found.files, found.skipped);
        outcome.work_dir = Some(dir);
        Ok(outcome)
    }

    /// Makes the working directory; on a thread that may block when there is an input to copy.
    async fn prepare(&self, task: &TaskRun) -> Result<WorkDir, Failure> {
        if task.input.name().is_none() {
            return self.work.prepare(task);
        }
        let (work, task) = (self.work.clone(), task.clone());
        blocking(move || work.prepare(&task)).await?
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn probe(&self) -> Probe {
        let found = self.client.capabilities();
        let missing = found.missing.iter().map(|missing| Missing {
            what: missing.what.clone(),
            why: missing.why.clone(),
            fix: missing.fix.clone(),
        });
        Probe {
            // Without the full sandbox a process still runs where that is asked for by name.
            available: true,
            capabilities: found
                .full_sandbox()
                .then(|| "sandbox".to_owned())
                .into_iter()
                .collect(),
            missing: missing.collect(),
        }
    }

    async fn run(&self, task: TaskRun, control: Control) -> Outcome {
        let mut outcome = match self.attempt(&task, &control).await {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::failed(failure),
        };
        let (stdout, stderr) = control.output().finish();
        (outcome.stdout, outcome.stderr) = (stdout, stderr);
        outcome
    }
}

/// Standard input; on a thread that may block when it is in a file.
async fn standard_input(input: &Input) -> Result<Stdin, Failure> {
    let bytes = match input {
        Input::File { name: None, .. } => {
            let input = input.clone();
            blocking(move || stdin::read(&input)).await??
        }
        _ => stdin::read(input)?,
    };
    Ok(bytes.map_or(Stdin::Null, Stdin::Bytes))
}

/// Gathers output until the end, and passes cancellation on.
async fn follow(mut process: Process, control: &Control) -> Result<Exit, Failure> {
    let mut killed = false;
    loop {
        let event = tokio::select! {
            // Output that is there already comes before a cancellation.
            biased;
            event = process.next_event() => event.map_err(ending::refused)?,
            () = control.cancelled(), if !killed => {
                killed = true;
                process.kill(SIGTERM, TERM_GRACE);
                continue;
            }
        };
        match event {
            Some(Event::Output { stream, bytes }) => {
                let stream = match stream {
                    weft_sandbox::Stream::Stdout => Stream::Stdout,
                    weft_sandbox::Stream::Stderr => Stream::Stderr,
                };
                keep(control.output(), stream, bytes).await?;
            }
            Some(Event::Exit(exit)) => {
                note_truncation(control.output(), &exit);
                return Ok(exit);
            }
            None => return Err(ending::refused(weft_sandbox::Error::SpawnerGone)),
        }
    }
}

fn note_truncation(log: &OutputLog, exit: &Exit) {
    if exit.stdout_truncated {
        log.mark_truncated(Stream::Stdout);
    }
    if exit.stderr_truncated {
        log.mark_truncated(Stream::Stderr);
    }
}

/// Keeps output; on a thread that may block when it goes to disk.
async fn keep(log: &Arc<OutputLog>, stream: Stream, bytes: bytes::Bytes) -> Result<(), Failure> {
    let written = if log.would_spill(stream, bytes.len()) {
        let log = Arc::clone(log);
        blocking(move || log.write(stream, &bytes)).await?
    } else {
        log.write(stream, &bytes)
    };
    written.map_err(|error| storage("cannot keep the output", &error))
}

/// Lists what was left in `$WEFT_OUT`; an empty directory takes no thread.
async fn list_out_files(dir: &WorkDir, limit_bytes: u64) -> out_files::Found {
    let out = dir.out();
    if out_files::is_empty(&out) {
        return out_files::Found::default();
    }
    blocking(move || out_files::list(&out, limit_bytes))
        .await
        .unwrap_or_default()
}

/// Runs on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Failure::new(
            Reason::Internal,
            format!("a blocking step ended early: {error}"),
        )
    })
}

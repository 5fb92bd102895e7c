//! One run of a program, on a thread of its own.

use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use tokio_util::sync::CancellationToken;
use wasmtime::Store;
use wasmtime_wasi::p2::pipe::MemoryInputPipe;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use weft_types::{Failure, Reason};

use super::host::Host;
use super::modules::Program;
use super::stdio::Output;
use super::{Shared, ending, watch};
use crate::output::Stream;
use crate::{Control, Outcome, TaskRun, Used, Work, WorkDir, out_files, stdin, template};

/// The name a program has in its own arguments.
const PROGRAM_NAME: &str = "module.wasm";
/// Where a program finds `$WEFT_OUT`.
const OUT_PATH: &str = "/out";

/// How a run ended, before it is put into words.
pub(super) enum End {
    /// The program came to its end, or was ended by itself, a trap or a limit of the host.
    Returned(wasmtime::Result<()>),
    /// A command component returned an error, which stands for exit code 1.
    Failed,
    /// The time limit passed.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
}

/// Runs a task. Blocks the thread while the program computes.
pub(super) async fn run(
    shared: &Shared,
    task: &TaskRun,
    control: &Control,
    abandoned: &CancellationToken,
) -> Outcome {
    match attempt(shared, task, control, abandoned).await {
        Ok(outcome) => outcome,
        Err(failure) => Outcome::failed(failure),
    }
}

async fn attempt(
    shared: &Shared,
    task: &TaskRun,
    control: &Control,
    abandoned: &CancellationToken,
) -> Result<Outcome, Failure> {
    let Work::Wasm { module, args } = &task.work else {
        let detail = format!("a {} task came to the wasm runtime", task.work.kind());
        return Err(Failure::new(Reason::Internal, detail));
    };
    let program = shared.modules.load(module)?;
    let dir = shared.work.prepare(task)?;
    let limit_bytes = task.output_limit_bytes();
    control.output().spill_to(&dir.output_prefix(), limit_bytes);
    let mut store = Store::new(shared.modules.engine(), host(task, args, &dir, control)?);
    store.limiter(|host| host);
    watch::install(&mut store, dir.path().to_owned(), task.resources.disk.0);

    let (start, cpu_start_us) = (Instant::now(), thread_cpu_us());
    let end = supervise(&program, &mut store, task, control, abandoned).await;
    let used = Used {
        cpu_us: thread_cpu_us().saturating_sub(cpu_start_us),
        peak_memory_bytes: store.data().memory_bytes(),
        run_us: Used::wall(start.elapsed()),
    };
    drop(store);

    let mut outcome = Outcome {
        used,
        ..Outcome::default()
    };
    ending::describe(
        &mut outcome,
        end,
        task,
        watch::check_disk(dir.path(), task.resources.disk.0),
    );
    let found = out_files::list(&dir.out(), task.out_files_limit_bytes());
    (outcome.files, outcome.skipped_files) = (found.files, found.skipped);
    outcome.work_dir = Some(dir);
    Ok(outcome)
}

/// Runs until the program ends, its time is over or somebody cancels it. The program gives way at every tick.
async fn supervise(
    program: &Program,
    store: &mut Store<Host>,
    task: &TaskRun,
    control: &Control,
    abandoned: &CancellationToken,
) -> End {
    let limit = async {
        match task.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = control.cancelled() => End::Cancelled,
        () = abandoned.cancelled() => End::Cancelled,
        () = limit => End::TimedOut,
        end = call(program, store) => end,
    }
}

async fn call(program: &Program, store: &mut Store<Host>) -> End {
    match program {
        Program::Preview1(linked) => End::Returned(
            async {
                let instance = linked.instantiate_async(&mut *store).await?;
                let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
                start.call_async(store, ()).await
            }
            .await,
        ),
        Program::Preview2(linked) => {
            let ran = async {
                let command = linked.instantiate_async(&mut *store).await?;
                command.wasi_cli_run().call_run(store).await
            };
            match ran.await {
                Ok(Ok(())) => End::Returned(Ok(())),
                Ok(Err(())) => End::Failed,
                Err(error) => End::Returned(Err(error)),
            }
        }
    }
}

/// All that a program gets to see.
fn host(
    task: &TaskRun,
    args: &[String],
    dir: &WorkDir,
    control: &Control,
) -> Result<Host, Failure> {
    let mut wasi = WasiCtxBuilder::new();
    // Not `allow_blocking_current_thread`: a program that sleeps could not be interrupted.
    wasi.arg(PROGRAM_NAME)
        .args(&template::expand(args, task.input.name(), task.index))
        .envs(&environment(task))
        .initial_cwd("/")
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .stdout(Output::new(control.output(), Stream::Stdout))
        .stderr(Output::new(control.output(), Stream::Stderr));
    if let Some(bytes) = stdin::read(&task.input)? {
        wasi.stdin(MemoryInputPipe::new(bytes));
    }
    for (path, name) in [(dir.path().to_owned(), "/"), (dir.out(), OUT_PATH)] {
        wasi.preopened_dir(path, name, FsPerms::ReadWrite)
            .map_err(|error| {
                Failure::new(
                    Reason::StorageError,
                    format!("cannot open the working directory: {error}"),
                )
            })?;
    }
    Ok(Host::new(wasi.build_p1(), task.resources.memory.0))
}

/// The user's, and what Weft says, which wins.
fn environment(task: &TaskRun) -> Vec<(String, String)> {
    let mut env = task.env.clone();
    env.extend(
        task.identity()
            .map(|(name, value)| (name.to_owned(), value)),
    );
    env.insert("WEFT_OUT".to_owned(), OUT_PATH.to_owned());
    env.into_iter().collect()
}

/// CPU time of this thread, microseconds.
fn thread_cpu_us() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000 + time.tv_nsec / 1_000).unwrap_or(0)
}

//! `weft run`: work now, output as it comes, the work's own exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use weft_api::{JobView, ResultView, Text};
use weft_client::{Client, Endpoint, ResultOrder};
use weft_types::{Reason, RuntimeKind, TaskSpec, Workload};

use crate::args::{Format, Global, RunArgs};
use crate::cluster::{Cluster, PRIVATE_NODES};
use crate::exit::{self, Failed};
use crate::output::Output;
use crate::progress::Progress;
use crate::{config, context, files};

mod rows;
mod spec;

/// Above this many tasks they are streamed to the server instead of sent in one body.
const STREAM_ABOVE_TASKS: usize = 2_000;
/// How long one request for results may last before it is asked again.
const RESULTS_WAIT: Duration = Duration::from_secs(300);
/// How often the progress of many tasks is looked at while a person watches.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// After this long without a start, `run` explains why by itself.
const EXPLAIN_AFTER: Duration = Duration::from_secs(10);

/// A run under way: what is needed to show its results.
struct Attached<'a> {
    client: &'a Client,
    job: JobView,
    runtime: RuntimeKind,
    paths: Vec<PathBuf>,
    out: Option<PathBuf>,
    output: &'a Output,
}

/// Runs work on the chosen cluster, or on a private one.
pub async fn run(global: &Global, args: RunArgs, output: &Output) -> Result<ExitCode, Failed> {
    let workload = spec::workload(&args, global)?;
    let paths = files::expand(&spec::globs(&args, &workload))?;
    let config = config::load(global.config.as_deref())?;
    // One for all that follows: what comes while nobody listens is not lost.
    let mut interrupts = interrupts()?;
    match context::choose(global, &config)? {
        Some(chosen) => {
            let client = Client::new(&context::endpoint(global, &chosen.source)?)?;
            submit_and_attach(&client, workload, paths, &args, output, &mut interrupts).await
        }
        None if args.detach => Err(Failed::usage("--detach needs a cluster that stays")
            .with_next("start one with `weft up`, in another terminal or with `&`")),
        None => run_privately(workload, paths, &args, output, &mut interrupts).await,
    }
}

fn interrupts() -> Result<Signal, Failed> {
    let interrupts = signal(SignalKind::interrupt());
    interrupts.map_err(|error| Failed::internal(format!("signals: {error}")))
}

async fn run_privately(
    workload: Workload,
    paths: Vec<PathBuf>,
    args: &RunArgs,
    output: &Output,
    interrupts: &mut Signal,
) -> Result<ExitCode, Failed> {
    output.note(&format!(
        "no cluster is configured: {PRIVATE_NODES} private agents run on this machine until this is done"
    ));
    let starting = Cluster::start_private();
    let (cluster, dir) = tokio::select! {
        started = starting => started?,
        _ = interrupts.recv() => return Ok(ExitCode::from(exit::INTERRUPTED)),
    };
    let result = async {
        let endpoint = Endpoint::from_admin_file(&cluster.admin_file())?;
        let client = Client::new(&endpoint)?;
        submit_and_attach(&client, workload, paths, args, output, interrupts).await
    }
    .await;
    cluster.shutdown().await;
    drop(dir);
    result
}

async fn submit_and_attach(
    client: &Client,
    workload: Workload,
    paths: Vec<PathBuf>,
    args: &RunArgs,
    output: &Output,
    interrupts: &mut Signal,
) -> Result<ExitCode, Failed> {
    let runtime = workload.runtime;
    let job = tokio::select! {
        job = submit(client, workload, &paths) => job?,
        _ = interrupts.recv() => return Ok(ExitCode::from(exit::INTERRUPTED)),
    };
    if args.detach {
        output.note(&format!("next: weft logs -f {0} · weft wait {0}", job.id));
        return match output.format {
            Format::Json | Format::Yaml => output.value(&job),
            _ => output.line(&job.id.to_string()),
        }
        .map(|()| ExitCode::SUCCESS);
    }
    let attached = Attached {
        client,
        job,
        runtime,
        paths,
        out: args.out.clone(),
        output,
    };
    tokio::select! {
        code = attached.show() => code,
        _ = interrupts.recv() => attached.interrupt(interrupts).await,
    }
}

async fn submit(
    client: &Client,
    mut workload: Workload,
    paths: &[PathBuf],
) -> Result<JobView, Failed> {
    if let Some(wasm) = &mut workload.wasm
        && let Some(module) = wasm.module.take()
    {
        wasm.blob = Some(files::upload_file(client, module.as_ref()).await?);
    }
    // One key for all tries of this submission, so that none of them doubles the work.
    let key = spec::idempotency_key();
    if paths.is_empty() {
        return Ok(client.submit(&workload, Some(&key)).await?);
    }
    let tasks: Vec<TaskSpec> = files::upload(client, paths).await?;
    workload.inputs = None;
    if tasks.len() > STREAM_ABOVE_TASKS {
        return Ok(client.submit_stream(&workload, tasks.into_iter()).await?);
    }
    workload.tasks = tasks;
    Ok(client.submit(&workload, Some(&key)).await?)
}

impl Attached<'_> {
    /// Shows results until the job is final; the exit code is the work's.
    async fn show(&self) -> Result<ExitCode, Failed> {
        if self.job.tasks.total == 1
            && self.runtime != RuntimeKind::Op
            && !self.output.is_structured()
        {
            return self.show_live().await;
        }
        let progress = Progress::new(self.job.tasks.total, self.output);
        let watch = self.watch(&progress);
        let results = self.show_results(&progress);
        tokio::select! {
            code = results => { progress.clear(); code }
            never = watch => never,
        }
    }

    /// One program: its output as it prints it.
    async fn show_live(&self) -> Result<ExitCode, Failed> {
        let id = self.job.id.to_string();
        let follow = async {
            let mut lines = self.client.logs(&id, None, true).await?;
            while let Some(line) = lines.next().await? {
                super::logs::write_raw(&line)?;
            }
            Ok::<(), Failed>(())
        };
        let explain = async {
            tokio::time::sleep(EXPLAIN_AFTER).await;
            self.explain_if_waiting().await;
            std::future::pending::<Result<(), Failed>>().await
        };
        tokio::select! { done = follow => done?, never = explain => never? }
        let mut results = self
            .client
            .results(&id, ResultOrder::Task, RESULTS_WAIT)
            .await?;
        let Some(result) = results.next().await? else {
            return Err(Failed::internal(format!("{id} has ended without a result")));
        };
        self.fetch_files(&result).await?;
        if let Some(why) = &result.why
            && why.reason != Reason::NonzeroExit
        {
            self.output.warn(&format!("{}: {}", why.reason, why.detail));
        }
        Ok(ExitCode::from(exit::of_result(&result)))
    }

    async fn show_results(&self, progress: &Progress) -> Result<ExitCode, Failed> {
        let mut rows = rows::Rows::new(self.runtime, &self.paths, self.output);
        let mut first_bad: Option<u8> = None;
        let mut shown = 0u64;
        while shown < self.job.tasks.total {
            let mut results = self
                .client
                .results(&self.job.id.to_string(), ResultOrder::Task, RESULTS_WAIT)
                .await?;
            let (shown_before, mut passed_over) = (shown, 0u64);
            while let Some(result) = results.next().await? {
                // After a broken stream the results begin again.
                if passed_over < shown_before {
                    passed_over += 1;
                    continue;
                }
                shown += 1;
                self.fetch_files(&result).await?;
                let code = exit::of_result(&result);
                if code != 0 {
                    first_bad.get_or_insert(code);
                }
                let printed = self.printed(&result).await?;
                progress.suspend(|| rows.write(&result, &printed))?;
            }
        }
        if let Some(summary) = rows.summary() {
            self.output.warn(&summary);
            self.output.note(&format!(
                "next: weft job show {0} · weft job results {0}",
                self.job.id
            ));
        }
        Ok(ExitCode::from(first_bad.unwrap_or(0)))
    }

    /// Moves the bar, and explains a job that does not start; never ends by itself.
    async fn watch(&self, progress: &Progress) -> Result<ExitCode, Failed> {
        let started = std::time::Instant::now();
        let mut explained = false;
        loop {
            tokio::time::sleep(if progress.is_visible() {
                PROGRESS_INTERVAL
            } else {
                EXPLAIN_AFTER
            })
            .await;
            if progress.is_visible() {
                let job = self.client.job(&self.job.id.to_string(), None).await?;
                progress.set(&job.tasks);
            }
            if !explained && started.elapsed() >= EXPLAIN_AFTER {
                explained = true;
                self.explain_if_waiting().await;
            }
        }
    }

    async fn explain_if_waiting(&self) {
        let Ok(job) = self.client.job(&self.job.id.to_string(), None).await else {
            return;
        };
        let waits = job.tasks.queued == job.tasks.total;
        if waits && let Ok(explained) = self.client.explain(&self.job.id.to_string()).await {
            self.output
                .warn(&format!("still waiting: {}", explained.summary));
            if let Some(change) = &explained.nearest_change {
                self.output.note(&format!("next: {change}"));
            }
        }
    }

    /// What a task printed, fetched when it is an artifact.
    async fn printed(&self, result: &ResultView) -> Result<rows::Printed, Failed> {
        if self.output.is_structured() {
            return Ok(rows::Printed::default());
        }
        Ok(rows::Printed {
            stdout: text_bytes(self.client, result.stdout.as_ref()).await?,
            stderr: text_bytes(self.client, result.stderr.as_ref()).await?,
        })
    }

    /// Files that the task wrote to `$WEFT_OUT`, beneath the directory of `--out`.
    async fn fetch_files(&self, result: &ResultView) -> Result<(), Failed> {
        let Some(out) = &self.out else { return Ok(()) };
        for file in &result.files {
            let dir = if self.job.tasks.total == 1 {
                out.clone()
            } else {
                out.join(result.task.to_string())
            };
            let path = rows::beneath(&dir, &file.path).ok_or_else(|| {
                Failed::internal(format!("the path {:?} leaves the directory", file.path))
            })?;
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)
                    .map_err(|error| Failed::usage(format!("{}: {error}", parent.display())))?;
            }
            self.client.get_blob(&file.blob, &path).await?;
        }
        Ok(())
    }

    /// Ctrl-C: cancels the work and says so; a second one leaves at once.
    async fn interrupt(&self, interrupts: &mut Signal) -> Result<ExitCode, Failed> {
        self.output.note(&format!(
            "cancelling {} (Ctrl-C again leaves at once)",
            self.job.id
        ));
        let id = self.job.id.to_string();
        let cancel = async {
            self.client.cancel_job(&id).await?;
            self.client.job(&id, Some(Duration::from_secs(30))).await
        };
        tokio::select! {
            cancelled = cancel => { cancelled?; }
            _ = interrupts.recv() => std::process::exit(exit::INTERRUPTED.into()),
        }
        Ok(ExitCode::from(exit::INTERRUPTED))
    }
}

async fn text_bytes(client: &Client, text: Option<&Text>) -> Result<Vec<u8>, Failed> {
    match text {
        None => Ok(Vec::new()),
        Some(Text::Inline { bytes, .. }) => Ok(bytes.clone()),
        Some(Text::Blob { hash, .. }) => {
            let file = tempfile::NamedTempFile::new()
                .map_err(|error| Failed::internal(error.to_string()))?;
            client.get_blob(hash, file.path()).await?;
            std::fs::read(file.path()).map_err(|error| Failed::internal(error.to_string()))
        }
    }
}

//! `weft job` and `weft ps`.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use weft_api::{JobView, ResultView, TaskView, WorkloadView};
use weft_client::{Client, ResultOrder};
use weft_types::WorkloadState;

use super::dlq::show_task;
use super::resolve_job;
use super::select::select_one;
use super::service::{find_service, service_row, show as show_service};
use super::watch::watch;
use crate::args::{Format, Global, JobCommand, PsArgs};
use crate::exit::Failed;
use crate::output::Output;

/// How long one request for results may last.
const RESULTS_WAIT: Duration = Duration::from_secs(300);
/// How many jobs `ps` looks through.
const PS_JOBS: usize = 10_000;

/// Runs a `job` command.
pub async fn job(
    client: &Client,
    command: JobCommand,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failed> {
    match command {
        JobCommand::Ls { limit } => list(in_namespace(client.jobs(limit).await?, global), output)?,
        JobCommand::Show(args) if args.id.contains('/') => {
            let (job, task) = select_one(client, &args.id).await?;
            show_task(&client.task(&job, task).await?, output)?;
        }
        JobCommand::Show(args) => show(
            &client
                .job(&resolve_job(client, &args.id).await?, None)
                .await?,
            output,
        )?,
        JobCommand::Results(args) => {
            results(client, &resolve_job(client, &args.id).await?, output).await?
        }
        JobCommand::Tasks { id, limit } => {
            let id = resolve_job(client, &id).await?;
            tasks(&client.tasks(&id, None, limit).await?, output)?;
        }
        JobCommand::Cancel(args) => {
            let id = resolve_job(client, &args.id).await?;
            if client.job(&id, None).await?.state.is_final() {
                output.note(&format!("{id} has ended already"));
            } else {
                client.cancel_job(&id).await?;
                output.note(&format!("cancelled {id}; next: weft job show {id}"));
            }
        }
        JobCommand::Retry(args) => {
            let job = client
                .retry_job(&resolve_job(client, &args.id).await?)
                .await?;
            show(&job, output)?;
            output.note(&format!("next: weft wait {}", job.id));
        }
        JobCommand::Rm(args) => {
            let id = resolve_job(client, &args.id).await?;
            if !client.job(&id, None).await?.state.is_final() {
                return Err(Failed::usage(format!("{id} has not ended"))
                    .with_next(format!("weft job cancel {id}")));
            }
            client.cancel_job(&id).await?;
            output.note(&format!("forgot {id}"));
        }
        JobCommand::Watch(args) => return watch(client, &args.ids, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// What runs and waits: services, then jobs.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Work {
    Service(Box<WorkloadView>),
    Job(Box<JobView>),
}

impl Work {
    fn id(&self) -> String {
        match self {
            Self::Service(service) => service.id.clone(),
            Self::Job(job) => job.id.to_string(),
        }
    }

    fn row(&self, is_wide: bool) -> Vec<String> {
        match self {
            Self::Job(job) => {
                let mut cells = row(job, is_wide);
                // Jobs have no address of their own.
                cells.extend(is_wide.then(String::new));
                cells
            }
            Self::Service(service) => {
                let mut cells = service_row(service);
                if is_wide {
                    cells.extend([service.namespace.clone(), String::new(), String::new()]);
                    cells.push(service.addresses.join(","));
                }
                cells
            }
        }
    }

    fn columns(is_wide: bool) -> Vec<&'static str> {
        let mut columns = columns(is_wide);
        if is_wide {
            columns.push("ADDRESS");
        }
        columns
    }
}

/// Runs `ps`.
pub async fn ps(
    client: &Client,
    args: &PsArgs,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    let services = client.workloads(global.namespace.as_ref()).await?;
    let jobs = in_namespace(client.jobs(PS_JOBS).await?, global);
    let is_over = |state| matches!(state, WorkloadState::Stopped | WorkloadState::Succeeded);
    let services = services
        .into_iter()
        .filter(|service| args.all || !is_over(service.state))
        .map(|service| Work::Service(Box::new(service)));
    let jobs = jobs
        .into_iter()
        .filter(|job| args.all || !job.state.is_final())
        .map(|job| Work::Job(Box::new(job)));
    let work: Vec<Work> = services.chain(jobs).collect();
    let is_wide = output.format == Format::Wide;
    let columns = Work::columns(is_wide);
    output.list(&work, &columns, |work| work.row(is_wide), Work::id)
}

/// One service with its units, or one job.
pub async fn get(
    client: &Client,
    wanted: &str,
    global: &Global,
    output: &Output,
) -> Result<(), Failed> {
    match find_service(client, wanted, global).await? {
        Some(service) => show_service(&service, output),
        None => {
            let id = resolve_job(client, wanted).await?;
            show(&client.job(&id, None).await?, output)
        }
    }
}

fn in_namespace(jobs: Vec<JobView>, global: &Global) -> Vec<JobView> {
    let Some(namespace) = &global.namespace else {
        return jobs;
    };
    jobs.into_iter()
        .filter(|job| job.namespace == namespace.as_str())
        .collect()
}

fn columns(is_wide: bool) -> Vec<&'static str> {
    let mut columns = vec![
        "ID", "NAME", "RUNTIME", "STATE", "DONE", "FAILED", "CREATED", "WHY",
    ];
    if is_wide {
        columns.extend(["NAMESPACE", "PRIORITY", "FINISHED"]);
    }
    columns
}

fn row(job: &JobView, is_wide: bool) -> Vec<String> {
    let mut cells = vec![
        job.id.to_string(),
        job.name.clone(),
        job.runtime.clone(),
        job.state.to_string(),
        format!("{}/{}", job.tasks.completed, job.tasks.total),
        (job.tasks.failed + job.tasks.dead).to_string(),
        job.created_at.clone(),
        job.why
            .as_ref()
            .map(|why| why.reason.to_string())
            .unwrap_or_default(),
    ];
    if is_wide {
        cells.extend([
            job.namespace.clone(),
            job.priority.to_string(),
            job.finished_at.clone().unwrap_or_default(),
        ]);
    }
    cells
}

fn list(jobs: Vec<JobView>, output: &Output) -> Result<(), Failed> {
    let is_wide = output.format == Format::Wide;
    let name = |job: &JobView| job.id.to_string();
    output.list(&jobs, &columns(is_wide), |job| row(job, is_wide), name)
}

fn show(job: &JobView, output: &Output) -> Result<(), Failed> {
    let counts = &job.tasks;
    let tasks = format!(
        "{} total: {} queued, {} assigned, {} running, {} completed, {} failed, {} cancelled, {} dead",
        counts.total,
        counts.queued,
        counts.assigned,
        counts.running,
        counts.completed,
        counts.failed,
        counts.cancelled,
        counts.dead
    );
    let why = job.why.as_ref();
    let fields = [
        ("id", job.id.to_string()),
        ("name", job.name.clone()),
        ("namespace", job.namespace.clone()),
        ("runtime", job.runtime.clone()),
        ("state", job.state.to_string()),
        ("tasks", tasks),
        ("created", job.created_at.clone()),
        ("started", job.started_at.clone().unwrap_or_default()),
        ("finished", job.finished_at.clone().unwrap_or_default()),
        (
            "why",
            why.map(|why| format!("{}: {}", why.reason, why.detail))
                .unwrap_or_default(),
        ),
        (
            "next",
            why.and_then(|why| why.next.clone()).unwrap_or_default(),
        ),
    ];
    output.one(job, &fields, &job.id.to_string())
}

fn tasks(tasks: &[TaskView], output: &Output) -> Result<(), Failed> {
    let row = |task: &TaskView| {
        vec![
            task.task.to_string(),
            task.state.to_string(),
            task.attempts.to_string(),
            task.node.clone().unwrap_or_default(),
            task.why
                .as_ref()
                .map(|why| format!("{}: {}", why.reason, why.detail))
                .unwrap_or_default(),
        ]
    };
    output.list(
        tasks,
        &["TASK", "STATE", "ATTEMPTS", "NODE", "WHY"],
        row,
        |task| task.task.to_string(),
    )
}

async fn results(client: &Client, id: &str, output: &Output) -> Result<(), Failed> {
    let mut lines = client.results(id, ResultOrder::Task, RESULTS_WAIT).await?;
    while let Some(result) = lines.next().await? {
        if output.is_structured() {
            output.stream_value(&result)?;
        } else {
            output.line(&result_line(&result))?;
        }
    }
    Ok(())
}

fn result_line(result: &ResultView) -> String {
    let found = match (&result.result, &result.why) {
        (Some(json), _) => json.get().to_owned(),
        (None, Some(why)) => format!("{}: {}", why.reason, why.detail),
        (None, None) => result
            .exit_code
            .map(|code| format!("exit code {code}"))
            .unwrap_or_default(),
    };
    let label = result
        .file
        .clone()
        .unwrap_or_else(|| result.task.to_string());
    format!("{label}  {}  {found}", result.state)
}

//! `weft apply` and `weft plan`.

use std::process::ExitCode;

use serde::Serialize;
use weft_api::{Applied, ApplyOutcome, ChangeView, JobView, PlanView};
use weft_client::Client;
use weft_types::{Reason, Run};

use super::await_state::{Goal, await_service};
use super::documents::{Document, read};
use crate::args::{ApplyArgs, Format, Global, PlanArgs};
use crate::exit::{FAILED, Failed};
use crate::output::Output;

/// The exit code of a plan that would change something.
const DIFFERENT: u8 = 1;

/// What became of one document.
#[derive(Serialize)]
#[serde(untagged)]
enum Done {
    Service(Box<Applied>),
    Job(Box<JobView>),
}

/// Makes services what their files say, and submits the jobs among them.
pub async fn apply(
    client: &Client,
    args: &ApplyArgs,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failed> {
    let documents = read(&args.files, args.recursive, global)?;
    if args.dry_run {
        return show_plans(client, &documents, output).await;
    }
    let mut done = Vec::new();
    for document in &documents {
        let applied = apply_one(client, document).await?;
        tell(&applied, output)?;
        done.push(applied);
    }
    if output.is_structured() {
        output.value(&done)?;
    }
    if args.wait {
        for applied in &done {
            if let Done::Service(applied) = applied {
                let id = &applied.workload.id;
                await_service(client, id, Goal::Settled, Some(args.timeout), output).await?;
            }
        }
    } else if let Some(Done::Service(applied)) = done.first() {
        let name = &applied.workload.name;
        output.note(&format!("next: weft wait {name} --for healthy"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn apply_one(client: &Client, document: &Document) -> Result<Done, Failed> {
    let applied = match document.workload.run {
        Run::Service => client
            .apply(&document.workload, None)
            .await
            .map(|applied| Done::Service(Box::new(applied))),
        Run::Job => {
            needs_no_files(document)?;
            // The same text is the same job, so that applying it again does nothing.
            let key = blake3::hash(document.text.as_bytes()).to_hex();
            client
                .submit(&document.workload, Some(&format!("apply-{}", &key[..32])))
                .await
                .map(|job| Done::Job(Box::new(job)))
        }
    };
    applied.map_err(|error| {
        let mut failed = Failed::from(error);
        failed.problem.detail = format!("{}: {}", document.origin, failed.problem.detail);
        failed
    })
}

/// Files are uploaded by `weft run`, which also waits for them.
fn needs_no_files(document: &Document) -> Result<(), Failed> {
    let job = &document.workload;
    let files = job
        .inputs
        .as_ref()
        .is_some_and(|inputs| !inputs.files.is_empty());
    let module = job.wasm.as_ref().is_some_and(|wasm| wasm.module.is_some());
    if files || module {
        return Err(Failed::new(
            FAILED,
            "needs-upload",
            Reason::InvalidSpec,
            format!("{}: this job reads files of this machine", document.origin),
        )
        .with_next("weft run -f FILE uploads them"));
    }
    Ok(())
}

fn tell(done: &Done, output: &Output) -> Result<(), Failed> {
    match (done, output.format) {
        (_, Format::Json | Format::Yaml) => Ok(()),
        (Done::Service(applied), Format::Name) => output.line(&applied.workload.name),
        (Done::Job(job), Format::Name) => output.line(&job.id.to_string()),
        (Done::Job(job), _) => output.line(&format!("{}  job {}", job.name, job.id)),
        (Done::Service(applied), _) => {
            let view = &applied.workload;
            let word = word(applied.outcome);
            output.line(&format!(
                "{}  {word}  revision {}",
                view.name, view.revision
            ))?;
            if applied.outcome == ApplyOutcome::Changed {
                changes(&applied.changes, output)?;
            }
            Ok(())
        }
    }
}

fn word(outcome: ApplyOutcome) -> &'static str {
    match outcome {
        ApplyOutcome::Created => "created",
        ApplyOutcome::Changed => "changed",
        ApplyOutcome::Unchanged => "unchanged",
    }
}

fn changes(changes: &[ChangeView], output: &Output) -> Result<(), Failed> {
    for change in changes {
        let text = match (&change.from, &change.to) {
            (None, Some(to)) => format!("  + {}: {to}", change.path),
            (Some(from), None) => format!("  - {}: {from}", change.path),
            (from, to) => format!(
                "  ~ {}: {} -> {}",
                change.path,
                from.as_deref().unwrap_or_default(),
                to.as_deref().unwrap_or_default()
            ),
        };
        output.line(&text)?;
    }
    Ok(())
}

/// Shows what an apply would do; exits 1 when it would change something.
pub async fn plan(
    client: &Client,
    args: &PlanArgs,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failed> {
    let documents = read(&args.files, args.recursive, global)?;
    show_plans(client, &documents, output).await
}

async fn show_plans(
    client: &Client,
    documents: &[Document],
    output: &Output,
) -> Result<ExitCode, Failed> {
    let mut plans = Vec::new();
    for document in documents {
        if document.workload.run == Run::Job {
            output.note(&format!(
                "{}: a job; it would be submitted",
                document.origin
            ));
            continue;
        }
        let plan = client.plan(&document.workload).await.map_err(|error| {
            let mut failed = Failed::from(error);
            failed.problem.detail = format!("{}: {}", document.origin, failed.problem.detail);
            failed
        })?;
        if !output.is_structured() {
            show_plan(document, &plan, output)?;
        }
        plans.push(plan);
    }
    if output.is_structured() {
        output.value(&plans)?;
    }
    let same = plans
        .iter()
        .all(|plan| plan.outcome == ApplyOutcome::Unchanged);
    Ok(if same {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DIFFERENT)
    })
}

fn show_plan(document: &Document, plan: &PlanView, output: &Output) -> Result<(), Failed> {
    let name = document.workload.name.as_ref();
    let name = name.map_or("a service", |name| name.as_str());
    let replaced = if plan.replaces_units {
        "; its units are replaced one after the other"
    } else {
        ""
    };
    let would = match plan.outcome {
        ApplyOutcome::Created => "would be created",
        ApplyOutcome::Changed => "would be changed",
        ApplyOutcome::Unchanged => "is as it should be",
    };
    output.line(&format!("{name}  {would}{replaced}"))?;
    changes(&plan.changes, output)?;
    for (number, unit) in plan.placements.iter().enumerate() {
        let node = unit.node.as_deref().unwrap_or("nowhere now");
        output.line(&format!("  unit {}: {node}", number + 1))?;
        if output.format == Format::Wide {
            for considered in &unit.considered {
                let why = considered.refused.clone().unwrap_or_else(|| {
                    let score = considered.score.unwrap_or_default();
                    format!("score {score} microdollars")
                });
                output.line(&format!("    {}  {why}", considered.node))?;
            }
        }
    }
    output.line(&format!("  price: {}", plan.price_per_hour))?;
    if let Some(why) = &plan.why {
        output.warn(&format!("{name}: {}: {}", why.reason, why.detail));
    }
    if let Some(change) = &plan.nearest_change {
        output.note(&format!("nearest change: {change}"));
    }
    Ok(())
}

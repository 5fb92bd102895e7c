//! `weft dlq`: tasks that used up their attempts are seen, queued again or dropped.

use std::process::ExitCode;

use weft_api::{AttemptView, Changed, DeadLetterView, RequeueRequest, TaskHistoryView};
use weft_client::{Client, DeadLetters};
use weft_types::Reason;

use super::resolve_job;
use super::select::{select, select_one};
use crate::args::{DlqChangeArgs, DlqCommand, Format, Global};
use crate::exit::{self, Failed};
use crate::output::Output;

/// How many dead letters are gathered to find the jobs that have some.
const MAX_GATHERED: usize = 1_000_000;

/// Runs a `dlq` command.
pub async fn dlq(
    client: &Client,
    command: DlqCommand,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failed> {
    match command {
        DlqCommand::Ls { job, reason, limit } => {
            let job = match job {
                Some(job) => Some(resolve_job(client, &job).await?),
                None => None,
            };
            let which = DeadLetters {
                job,
                reason,
                namespace: namespace(global),
            };
            list(&client.dead_letters(&which, limit).await?, output)?;
            Ok(ExitCode::SUCCESS)
        }
        DlqCommand::Show { letter } => {
            let (job, task) = select_one(client, &letter).await?;
            show(&client.dead_letter(&job, task).await?, output)?;
            Ok(ExitCode::SUCCESS)
        }
        DlqCommand::Requeue(args) => {
            let changed = requeue(client, &args, global).await?;
            let next = "weft job watch ID";
            tell(changed, "queued again", Some(next), output)
        }
        DlqCommand::Drop(args) => {
            let changed = drop_letters(client, &args, global).await?;
            tell(changed, "dropped; the results stay", None, output)
        }
    }
}

fn namespace(global: &Global) -> Option<String> {
    global.namespace.as_ref().map(ToString::to_string)
}

async fn requeue(
    client: &Client,
    args: &DlqChangeArgs,
    global: &Global,
) -> Result<Changed, Failed> {
    if args.all {
        let request = RequeueRequest {
            all: true,
            reason: args.reason,
            namespace: namespace(global),
            ..RequeueRequest::default()
        };
        return Ok(client.requeue(&request).await?);
    }
    let mut changed = Changed::default();
    for letter in &args.letters {
        let selected = select(client, letter).await?;
        let request = RequeueRequest {
            job: selected.job.parse().ok(),
            tasks: selected.tasks,
            reason: args.reason,
            ..RequeueRequest::default()
        };
        add(&mut changed, client.requeue(&request).await?);
    }
    Ok(changed)
}

async fn drop_letters(
    client: &Client,
    args: &DlqChangeArgs,
    global: &Global,
) -> Result<Changed, Failed> {
    let mut changed = Changed::default();
    if args.all {
        for job in jobs_with_letters(client, args.reason, global).await? {
            add(
                &mut changed,
                client.drop_dead(&job, None, args.reason).await?,
            );
        }
        return Ok(changed);
    }
    for letter in &args.letters {
        let selected = select(client, letter).await?;
        let Some(tasks) = selected.tasks else {
            let dropped = client.drop_dead(&selected.job, None, args.reason).await?;
            add(&mut changed, dropped);
            continue;
        };
        for task in tasks {
            add(
                &mut changed,
                drop_one(client, &selected.job, task, args.reason).await?,
            );
        }
    }
    Ok(changed)
}

/// Drops one dead letter; what is none, or died for another reason, is passed over and counted.
async fn drop_one(
    client: &Client,
    job: &str,
    task: u32,
    reason: Option<Reason>,
) -> Result<Changed, Failed> {
    let skipped = Changed {
        changed: 0,
        skipped: 1,
    };
    let is_missing =
        |error: &weft_client::Error| error.problem().is_some_and(|problem| problem.status == 404);
    if let Some(reason) = reason {
        match client.dead_letter(job, task).await {
            Ok(letter) if letter.why.reason != reason => return Ok(skipped),
            Err(error) if is_missing(&error) => return Ok(skipped),
            other => other.map(drop)?,
        }
    }
    match client.drop_dead(job, Some(task), None).await {
        Err(error) if is_missing(&error) => Ok(skipped),
        other => Ok(other?),
    }
}

async fn jobs_with_letters(
    client: &Client,
    reason: Option<Reason>,
    global: &Global,
) -> Result<Vec<String>, Failed> {
    let which = DeadLetters {
        job: None,
        reason,
        namespace: namespace(global),
    };
    let letters = client.dead_letters(&which, MAX_GATHERED).await?;
    let mut jobs: Vec<String> = letters
        .iter()
        .map(|letter| letter.job.to_string())
        .collect();
    jobs.dedup();
    Ok(jobs)
}

fn add(sum: &mut Changed, more: Changed) {
    sum.changed += more.changed;
    sum.skipped += more.skipped;
}

/// Says what was done; a named task that is no dead letter makes the command fail.
fn tell(
    changed: Changed,
    what: &str,
    next: Option<&str>,
    output: &Output,
) -> Result<ExitCode, Failed> {
    if output.is_structured() {
        output.value(&changed)?;
    }
    output.note(&format!("{} {what}", changed.changed));
    if let Some(next) = next.filter(|_| changed.changed > 0) {
        output.note(&format!("next: {next}"));
    }
    if changed.skipped == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    output.warn(&format!(
        "{} passed over: not among the dead letters (`weft dlq ls` lists them)",
        changed.skipped
    ));
    Ok(ExitCode::from(exit::FAILED))
}

fn list(letters: &[DeadLetterView], output: &Output) -> Result<(), Failed> {
    let wide = output.format == Format::Wide;
    let mut columns = vec![
        "ID", "NAME", "REASON", "ATTEMPTS", "NODES", "DIED", "DETAIL",
    ];
    if wide {
        columns.extend(["NAMESPACE", "CLASS", "FILE", "NEXT"]);
    }
    let row = |letter: &DeadLetterView| {
        let why = &letter.why;
        let mut cells = vec![
            format!("{}/{}", letter.job, letter.task),
            letter.name.clone(),
            why.reason.to_string(),
            letter.attempts.len().to_string(),
            nodes(&letter.attempts),
            letter.died_at.clone().unwrap_or_default(),
            first_line(&why.detail),
        ];
        if wide {
            cells.extend([
                letter.namespace.clone(),
                format!("{:?}", why.class).to_lowercase(),
                letter.file.clone().unwrap_or_default(),
                why.next.clone().unwrap_or_default(),
            ]);
        }
        cells
    };
    output.list(letters, &columns, row, |letter| {
        format!("{}/{}", letter.job, letter.task)
    })?;
    if !letters.is_empty() && !output.is_structured() {
        output.note("next: weft dlq show ID · weft dlq requeue ID · weft dlq drop ID");
    }
    Ok(())
}

/// Each node once, in the order in which they had the task.
fn nodes(attempts: &[AttemptView]) -> String {
    let mut nodes: Vec<&str> = Vec::new();
    for node in attempts
        .iter()
        .filter_map(|attempt| attempt.node.as_deref())
    {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes.join(",")
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn show(letter: &DeadLetterView, output: &Output) -> Result<(), Failed> {
    let why = &letter.why;
    let id = format!("{}/{}", letter.job, letter.task);
    let fields = [
        ("id", id.clone()),
        ("name", letter.name.clone()),
        ("namespace", letter.namespace.clone()),
        ("file", letter.file.clone().unwrap_or_default()),
        ("died", letter.died_at.clone().unwrap_or_default()),
        ("why", format!("{}: {}", why.reason, why.detail)),
        ("attempts", attempts(&letter.attempts)),
        ("next", why.next.clone().unwrap_or_default()),
    ];
    output.one(letter, &fields, &id)
}

/// Shows a task with the history of its attempts.
pub fn show_task(task: &TaskHistoryView, output: &Output) -> Result<(), Failed> {
    let why = task.why.as_ref();
    let id = format!("{}/{}", task.job, task.task);
    let fields = [
        ("id", id.clone()),
        ("state", task.state.to_string()),
        ("node", task.node.clone().unwrap_or_default()),
        (
            "why",
            why.map(|why| format!("{}: {}", why.reason, why.detail))
                .unwrap_or_default(),
        ),
        ("attempts", attempts(&task.attempts)),
        (
            "next",
            why.and_then(|why| why.next.clone()).unwrap_or_default(),
        ),
    ];
    output.one(task, &fields, &id)
}

/// A line an attempt, and beneath it what it printed last.
fn attempts(attempts: &[AttemptView]) -> String {
    let mut text = String::new();
    for attempt in attempts {
        let ended = match attempt.reason {
            Some(reason) => format!("{reason}: {}", attempt.detail),
            None => "completed".to_owned(),
        };
        let started = attempt.started_at.as_ref().or(attempt.ended_at.as_ref());
        text.push_str(&format!(
            "{}  {}  on {}, {:.3} s  {ended}\n",
            attempt.attempt,
            started.map_or("-", String::as_str),
            attempt.node.as_deref().unwrap_or("-"),
            attempt.run_us as f64 / 1e6,
        ));
        for tail in [&attempt.stdout_tail, &attempt.stderr_tail] {
            for line in tail.lines() {
                text.push_str(&format!("   | {line}\n"));
            }
        }
    }
    text.trim_end().to_owned()
}

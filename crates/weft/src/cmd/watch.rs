//! `weft job watch`: the progress of jobs that were submitted elsewhere.

use std::process::ExitCode;
use std::time::Duration;

use weft_api::JobView;
use weft_client::Client;
use weft_types::{JobState, TaskState};

use super::resolve_job;
use crate::exit::{self, Failed};
use crate::output::Output;
use crate::progress::{Progress, counts_by_state};

/// How often a job is looked at while a person or a program watches.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often a line is written when there is no terminal to draw on, at most.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Watches jobs one after the other until each has ended. The exit code is that of the first job,
/// in the order given, that did not succeed. Leaving with Ctrl-C leaves the jobs alone.
pub async fn watch(client: &Client, ids: &[String], output: &Output) -> Result<ExitCode, Failed> {
    let mut jobs = Vec::with_capacity(ids.len());
    for id in ids {
        jobs.push(resolve_job(client, id).await?);
    }
    let all = async {
        let mut code = 0;
        for id in &jobs {
            let job = watch_one(client, id, output).await?;
            if code == 0 {
                code = exit_code(client, &job).await?;
            }
        }
        Ok(ExitCode::from(code))
    };
    tokio::select! {
        code = all => code,
        _ = tokio::signal::ctrl_c() => {
            output.note("the jobs go on; `weft job cancel ID` stops one");
            Ok(ExitCode::from(exit::INTERRUPTED))
        }
    }
}

/// What was written of a job last.
struct Told<'a> {
    output: &'a Output,
    progress: Progress,
    last: Option<JobView>,
    at: std::time::Instant,
}

async fn watch_one(client: &Client, id: &str, output: &Output) -> Result<JobView, Failed> {
    let mut job = client.job(id, None).await?;
    let mut told = Told {
        output,
        progress: Progress::watched(job.tasks.total, output),
        last: None,
        at: std::time::Instant::now(),
    };
    loop {
        told.tell(&job)?;
        if job.state.is_final() {
            return Ok(job);
        }
        // Answers at once when the job ends.
        job = client.job(id, Some(LOOK_INTERVAL)).await?;
    }
}

impl Told<'_> {
    /// Draws, writes a line, or writes JSON; nothing when nothing has changed.
    fn tell(&mut self, job: &JobView) -> Result<(), Failed> {
        let is_final = job.state.is_final();
        if is_final {
            self.progress.clear();
        } else {
            self.progress.set_by_state(&job.name, &job.tasks);
        }
        let same = |last: &JobView| last.state == job.state && last.tasks == job.tasks;
        if self.last.as_ref().is_some_and(same) {
            return Ok(());
        }
        if self.output.is_structured() {
            self.output.stream_value(job)?;
        } else if is_final || self.is_line_due(job) {
            self.output.line(&line(job))?;
        } else {
            return Ok(());
        }
        self.last = Some(job.clone());
        self.at = std::time::Instant::now();
        Ok(())
    }

    /// Without a terminal: when the state changes, and else now and then.
    fn is_line_due(&self, job: &JobView) -> bool {
        let changed = self
            .last
            .as_ref()
            .is_none_or(|last| last.state != job.state);
        !self.progress.is_visible() && (changed || self.at.elapsed() >= LINE_INTERVAL)
    }
}

fn line(job: &JobView) -> String {
    let tasks = &job.tasks;
    let mut line = format!(
        "{}  {}  {}  {}/{} done: {}",
        job.id,
        job.name,
        job.state,
        tasks.finished(),
        tasks.total,
        counts_by_state(tasks)
    );
    if let Some(why) = &job.why {
        line.push_str(&format!("  ({}: {})", why.reason, why.detail));
    }
    line
}

/// The exit code of a job: 0, or that of its first bad task, as `weft run` would return it.
async fn exit_code(client: &Client, job: &JobView) -> Result<u8, Failed> {
    match job.state {
        JobState::Succeeded => return Ok(0),
        JobState::Cancelled => return Ok(exit::INTERRUPTED),
        _ => {}
    }
    let id = job.id.to_string();
    let mut first: Option<u32> = None;
    for (state, count) in [
        (TaskState::Failed, job.tasks.failed),
        (TaskState::Dead, job.tasks.dead),
    ] {
        if count > 0 {
            let tasks = client.tasks(&id, Some(state), 1).await?;
            let task = tasks.first().map(|task| task.task);
            first = first.into_iter().chain(task).min();
        }
    }
    let Some(task) = first else {
        return Ok(exit::FAILED);
    };
    let result = client.result(&id, task).await?;
    Ok(result.map_or(exit::FAILED, |result| exit::of_result(&result)))
}

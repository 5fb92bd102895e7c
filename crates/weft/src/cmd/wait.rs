//! `weft wait`.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use weft_api::JobView;
use weft_client::{Client, Error};
use weft_types::{JobState, Reason};

use super::resolve_job;
use super::service::{Goal, await_service, find_service};
use crate::args::{Global, WaitArgs, WaitFor};
use crate::exit::{self, Failed};
use crate::output::Output;

/// How long one request may wait on the server.
const REQUEST_WAIT: Duration = Duration::from_secs(30);
/// How often is looked for a state that the server does not wait for.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Waits until work is in a state; exits 1 when it can no longer get there, 124 on timeout.
pub async fn wait(
    client: &Client,
    args: &WaitArgs,
    global: &Global,
    output: &Output,
) -> Result<ExitCode, Failed> {
    if let Some(found) = find_service(client, &args.id, global).await? {
        let goal = Goal::of(args.state)?;
        await_service(client, &found.id, goal, args.timeout, output).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = args.state.unwrap_or(WaitFor::Finished);
    let id = resolve_job(client, &args.id).await?;
    let deadline = args.timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let step = if matches!(wanted, WaitFor::Running | WaitFor::Gone) {
            LOOK_INTERVAL
        } else {
            REQUEST_WAIT
        };
        let job = match client
            .job(&id, Some(left.map_or(step, |left| left.min(step))))
            .await
        {
            Ok(job) => job,
            Err(Error::Refused(problem)) if problem.status == 404 && wanted == WaitFor::Gone => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(reached) = verdict(&job, wanted) {
            if output.is_structured() {
                output.value(&job)?;
            } else {
                output.note(&format!("{id} {}", job.state));
            }
            return Ok(if reached {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::FAILED)
            });
        }
        if left == Some(Duration::ZERO) {
            return Err(Failed::new(
                exit::TIMEOUT,
                "timeout",
                Reason::Timeout,
                format!("{id} is still {}", job.state),
            )
            .with_next(format!("weft explain {id}")));
        }
        if step == LOOK_INTERVAL && job.state.is_final() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Whether the state was reached, or can no longer be; `None` while it is open.
fn verdict(job: &JobView, wanted: WaitFor) -> Option<bool> {
    match wanted {
        WaitFor::Running => (job.state != JobState::Queued).then_some(true),
        WaitFor::Succeeded => job
            .state
            .is_final()
            .then_some(job.state == JobState::Succeeded),
        WaitFor::Finished => job.state.is_final().then_some(true),
        WaitFor::Gone => None,
        // Only services are healthy; the closest thing of a job is that it runs.
        WaitFor::Healthy => (job.state != JobState::Queued).then_some(true),
    }
}

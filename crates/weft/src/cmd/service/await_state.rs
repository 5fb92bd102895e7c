//! Waiting for a service, with a line whenever something happens.

use std::time::{Duration, Instant};

use weft_api::{RolloutPhase, UnitView, WorkloadView};
use weft_client::{Client, Error};
use weft_types::{Reason, WorkloadState};

use crate::args::WaitFor;
use crate::exit::{self, Failed};
use crate::output::Output;

/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// What is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Goal {
    /// A unit runs.
    Running,
    /// Every replica is ready and of the newest revision.
    Healthy,
    /// The last change is complete; its failure is one.
    Settled,
    /// As many replicas as wanted are ready, of whatever revision.
    Ready,
    /// Everything ended well.
    Succeeded,
    /// Nothing of it runs.
    Stopped,
    /// It is not known any more.
    Gone,
}

impl Goal {
    /// What a person asked for; `healthy` by itself.
    pub fn of(wanted: Option<WaitFor>) -> Result<Self, Failed> {
        match wanted {
            None | Some(WaitFor::Healthy) => Ok(Self::Healthy),
            Some(WaitFor::Running) => Ok(Self::Running),
            Some(WaitFor::Succeeded) => Ok(Self::Succeeded),
            Some(WaitFor::Gone) => Ok(Self::Gone),
            Some(WaitFor::Finished) => Err(Failed::usage("a service does not finish")
                .with_next("--for running, healthy, succeeded or gone")),
        }
    }

    fn is_reached(self, view: &WorkloadView) -> bool {
        let replicas = view.replicas;
        let complete = view.rollout.state == RolloutPhase::Complete;
        match self {
            Self::Running => replicas.running > 0,
            Self::Healthy | Self::Settled => {
                complete && replicas.ready >= replicas.wanted && replicas.updated >= replicas.wanted
            }
            Self::Ready => {
                replicas.ready >= replicas.wanted && replicas.existing == replicas.wanted
            }
            Self::Succeeded => view.state == WorkloadState::Succeeded,
            // A unit whose data waits for it on its node stays on record; it is over once there is
            // no step left.
            Self::Stopped => {
                let is_over =
                    |unit: &UnitView| unit.state == WorkloadState::Stopped && unit.step.is_none();
                view.state == WorkloadState::Stopped && view.units.iter().all(is_over)
            }
            Self::Gone => false,
        }
    }

    fn is_lost(self, view: &WorkloadView) -> bool {
        let failed = matches!(
            view.rollout.state,
            RolloutPhase::Failed | RolloutPhase::RolledBack
        );
        self == Self::Settled && failed
    }
}

/// Waits until a service is as wanted.
///
/// # Errors
/// When it failed, or the time is over.
pub async fn await_service(
    client: &Client,
    id: &str,
    goal: Goal,
    timeout: Option<Duration>,
    output: &Output,
) -> Result<(), Failed> {
    let begun = Instant::now();
    let mut told = String::new();
    loop {
        let view = match client.workload(id, None).await {
            Ok(view) => view,
            Err(Error::Refused(problem)) if problem.status == 404 && goal == Goal::Gone => {
                output.note(&format!("{id} gone after {}", elapsed(begun)));
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let line = progress(&view);
        if line != told {
            output.note(&format!("{line}  {}", elapsed(begun)));
            told = line;
        }
        if goal.is_reached(&view) {
            return Ok(());
        }
        if goal.is_lost(&view) {
            return Err(lost(&view));
        }
        if timeout.is_some_and(|timeout| begun.elapsed() >= timeout) {
            return Err(late(&view));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn elapsed(begun: Instant) -> String {
    format!("{:.1}s", begun.elapsed().as_secs_f64())
}

/// One line on how a service is.
fn progress(view: &WorkloadView) -> String {
    let replicas = view.replicas;
    let mut line = format!(
        "{}  {}  {}/{} ready, {} of revision {}",
        view.name, view.state, replicas.ready, replicas.wanted, replicas.updated, view.revision
    );
    let doing = view.units.iter().find_map(|unit| unit.doing.as_deref());
    if let Some(doing) = doing {
        line.push_str(&format!("; {doing}"));
    }
    if let Some(why) = &view.why {
        line.push_str(&format!("; {}: {}", why.reason, why.detail));
    }
    line
}

fn lost(view: &WorkloadView) -> Failed {
    let why = view.why.as_ref();
    let reason = why.map_or(Reason::RuntimeError, |why| why.reason);
    let detail = view
        .rollout
        .detail
        .clone()
        .or_else(|| why.map(|why| why.detail.clone()));
    let state = view.rollout.state.as_str();
    let detail = format!("{} {state}: {}", view.name, detail.unwrap_or_default());
    Failed::new(exit::FAILED, "rollout-failed", reason, detail)
        .with_next(format!("weft get {}", view.name))
}

fn late(view: &WorkloadView) -> Failed {
    let why = view.why.as_ref();
    let reason = why.map_or(Reason::Timeout, |why| why.reason);
    let said = why.map(|why| format!(" ({})", why.detail));
    let detail = format!(
        "{} is {} after the time: {}/{} ready{}",
        view.name,
        view.state,
        view.replicas.ready,
        view.replicas.wanted,
        said.unwrap_or_default()
    );
    Failed::new(exit::TIMEOUT, "timeout", reason, detail)
        .with_next(format!("weft explain {}", view.name))
}

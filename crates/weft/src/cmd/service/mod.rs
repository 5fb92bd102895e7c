//! Services: applied, looked at and changed from day to day.

mod apply;
mod await_state;
mod change;
mod documents;
mod exec;
mod forward;
mod logs;
mod secret;
mod show;

pub use apply::{apply, plan};
pub use await_state::{Goal, await_service};
pub use change::{delete, restart, scale, set_paused, start, stop};
pub use exec::exec;
pub use forward::port_forward;
pub use logs::service_logs;
pub use secret::secret;
pub use show::{row as service_row, show};

use weft_api::WorkloadView;
use weft_client::{Client, Error};
use weft_types::{Namespace, Reason, WorkloadId};

use crate::args::Global;
use crate::exit::{FAILED, Failed};

/// The namespace in force.
pub fn namespace(global: &Global) -> Namespace {
    global.namespace.clone().unwrap_or_default()
}

/// The service of a name, an id or a unique prefix of one; `None` when there is none.
pub async fn find_service(
    client: &Client,
    wanted: &str,
    global: &Global,
) -> Result<Option<WorkloadView>, Failed> {
    // `last` and ids of jobs mean jobs.
    if wanted == "last" || wanted.starts_with("job-") {
        return Ok(None);
    }
    match client.workload(wanted, global.namespace.as_ref()).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::Refused(problem)) if problem.status == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The service of a name, an id or a unique prefix of one.
pub async fn need_service(
    client: &Client,
    wanted: &str,
    global: &Global,
) -> Result<WorkloadView, Failed> {
    let found = find_service(client, wanted, global).await?;
    found.ok_or_else(|| {
        let kind = if wanted.parse::<WorkloadId>().is_ok() {
            "service"
        } else {
            "service or id"
        };
        Failed::new(
            FAILED,
            "not-found",
            Reason::InvalidSpec,
            format!(
                "there is no {kind} {wanted:?} in the namespace {}",
                namespace(global)
            ),
        )
        .with_next("`weft ps --all` lists them; -n chooses another namespace")
    })
}

/// How long ago a time was, for people: `45s`, `12m`, `3h`, `9d`.
pub fn age(time: &str) -> String {
    let Some(then) = weft_api::parse_rfc3339(time) else {
        return time.to_owned();
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    span((now.saturating_sub(then.as_millis())) / 1_000)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7_199 => format!("{}m", seconds / 60),
        7_200..=172_799 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn ages_are_short() {
        for (seconds, text) in [
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (7_200, "2h"),
            (172_800, "2d"),
        ] {
            assert_eq!(span(seconds), text);
        }
    }
}

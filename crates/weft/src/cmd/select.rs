//! Tasks as people name them: `JOB`, `JOB/3`, `JOB/1-3`, `JOB/1,4-6`.

use weft_client::Client;

use super::resolve_job;
use crate::exit::Failed;

/// The most tasks one selector may name.
const MAX_SELECTED: usize = 1_000_000;

/// Some tasks of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// The job, resolved to its id.
    pub job: String,
    /// Which tasks; all when `None`.
    pub tasks: Option<Vec<u32>>,
}

/// What a selector means on a cluster.
pub async fn select(client: &Client, text: &str) -> Result<Selected, Failed> {
    let (job, tasks) = split(text)?;
    Ok(Selected {
        job: resolve_job(client, job).await?,
        tasks,
    })
}

/// One task of a job.
pub async fn select_one(client: &Client, text: &str) -> Result<(String, u32), Failed> {
    let selected = select(client, text).await?;
    match selected.tasks.as_deref() {
        Some([task]) => Ok((selected.job, *task)),
        _ => Err(Failed::usage(format!("{text:?} is not one task"))
            .with_next(format!("write {}/TASK, as in {0}/0", selected.job))),
    }
}

/// The job's part, and the numbers of tasks if there are any.
fn split(text: &str) -> Result<(&str, Option<Vec<u32>>), Failed> {
    let Some((job, list)) = text.split_once('/') else {
        return Ok((text, None));
    };
    let mut tasks = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => (first, last),
            _ => return Err(malformed(text, part)),
        };
        if (last - first) as usize >= MAX_SELECTED - tasks.len() {
            return Err(
                Failed::usage(format!("{text:?} names more than {MAX_SELECTED} tasks"))
                    .with_next(format!("write {job} alone for all of them")),
            );
        }
        tasks.extend(first..=last);
    }
    tasks.sort_unstable();
    tasks.dedup();
    Ok((job, Some(tasks)))
}

fn malformed(text: &str, part: &str) -> Failed {
    Failed::usage(format!("{part:?} of {text:?} names no tasks"))
        .with_next("write a number as in JOB/3, a range as in JOB/1-3, or several as in JOB/1,4-6")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_name_a_job_a_task_a_range_or_several() {
        let tasks = |text| {
            split(text)
                .map(|found| found.1)
                .map_err(|failed| failed.code)
        };
        assert_eq!(tasks("last"), Ok(None));
        assert_eq!(split("last/0").unwrap().0, "last");
        assert_eq!(tasks("sums/7"), Ok(Some(vec![7])));
        assert_eq!(tasks("sums/1-3"), Ok(Some(vec![1, 2, 3])));
        assert_eq!(tasks("sums/5,1-3,2"), Ok(Some(vec![1, 2, 3, 5])));
        for bad in [
            "a/",
            "a/x",
            "a/3-1",
            "a/1-",
            "a/-1",
            "a/1,,2",
            "a/0-4294967295",
        ] {
            assert_eq!(tasks(bad), Err(crate::exit::USAGE), "{bad}");
        }
    }
}

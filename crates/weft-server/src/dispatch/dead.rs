//! Which tasks are dead letters: those that are dead and were not dropped.
//!
//! Kept beside the machine, so that a page of the list costs what is on the page and not a look at
//! every task. Neighbours that died together, as the tasks of a job usually do, take one entry.

use std::collections::{BTreeMap, BTreeSet};

use weft_types::{JobId, Namespace, Reason, TaskState};

use super::shell::Shell;

/// The most dead letters, and jobs with some, that one question looks at.
const MAX_SCANNED: usize = 20_000;

/// A set of numbers as runs: first → one past the last.
#[derive(Debug, Default)]
struct Runs {
    runs: BTreeMap<u32, u32>,
    len: u64,
}

impl Runs {
    fn contains(&self, number: u32) -> bool {
        let run = self.runs.range(..=number).next_back();
        run.is_some_and(|(_, end)| number < *end)
    }

    /// Adds a number; whether it was new. The greatest number cannot be told from the end of its
    /// run and is left out: a job has fewer tasks.
    fn insert(&mut self, number: u32) -> bool {
        if number == u32::MAX || self.contains(number) {
            return false;
        }
        let end = self.runs.remove(&(number + 1)).unwrap_or(number + 1);
        match self.runs.range_mut(..number).next_back() {
            Some((_, before)) if *before == number => *before = end,
            _ => {
                self.runs.insert(number, end);
            }
        }
        self.len += 1;
        true
    }

    fn remove(&mut self, number: u32) -> bool {
        let Some((&first, &end)) = self.runs.range(..=number).next_back() else {
            return false;
        };
        if number >= end {
            return false;
        }
        self.runs.remove(&first);
        if first < number {
            self.runs.insert(first, number);
        }
        if number + 1 < end {
            self.runs.insert(number + 1, end);
        }
        self.len -= 1;
        true
    }

    /// The numbers from `first` on, in order.
    fn from(&self, first: u32) -> impl Iterator<Item = u32> + '_ {
        let within = self.runs.range(..first).next_back();
        let within = within.map(|(_, end)| (first, *end));
        let later = self.runs.range(first..).map(|(first, end)| (*first, *end));
        within
            .into_iter()
            .chain(later)
            .flat_map(|(from, to)| from..to)
    }
}

/// The dead letters of all jobs.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    jobs: BTreeMap<JobId, Runs>,
    /// Tasks that are being queued again or dropped: who asks for the same meanwhile is late.
    changing: BTreeSet<(JobId, u32)>,
}

impl DeadLetters {
    /// A task died; how many dead letters its job has now.
    pub(super) fn add(&mut self, job: JobId, task: u32) -> u64 {
        let runs = self.jobs.entry(job).or_default();
        runs.insert(task);
        runs.len
    }

    pub(super) fn remove(&mut self, job: JobId, task: u32) {
        if let Some(runs) = self.jobs.get_mut(&job) {
            runs.remove(task);
            if runs.len == 0 {
                self.jobs.remove(&job);
            }
        }
    }

    pub(super) fn remove_job(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    pub(super) fn contains(&self, job: JobId, task: u32) -> bool {
        self.jobs.get(&job).is_some_and(|runs| runs.contains(task))
    }

    /// Claims a task for a change; `false` when somebody else has.
    pub(super) fn begin_change(&mut self, job: JobId, task: u32) -> bool {
        self.changing.insert((job, task))
    }

    pub(super) fn end_change(&mut self, job: JobId, task: u32) {
        self.changing.remove(&(job, task));
    }

    /// Jobs with dead letters, and how many.
    pub(super) fn counts(&self) -> impl Iterator<Item = (JobId, u64)> + '_ {
        self.jobs.iter().map(|(job, runs)| (*job, runs.len))
    }

    /// Jobs from `newest` on, newest first; of that one only tasks from `first` on.
    fn from(&self, newest: JobId, first: u32) -> impl Iterator<Item = (JobId, u32, &Runs)> {
        let jobs = self.jobs.range(..=newest).rev();
        jobs.map(move |(job, runs)| (*job, if *job == newest { first } else { 0 }, runs))
    }
}

/// Which dead letters are wanted.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    /// Only of this job.
    pub job: Option<JobId>,
    /// Only those that died for this reason.
    pub reason: Option<Reason>,
    /// Only of this namespace.
    pub namespace: Option<String>,
}

/// A place in the list of dead letters, newest job first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadCursor {
    /// The job.
    pub job: JobId,
    /// The first task of it.
    pub task: u32,
}

/// A task that is final for a bad reason.
#[derive(Debug, Clone)]
pub struct BadTask {
    /// Its job.
    pub job: JobId,
    /// Its number in the job.
    pub task: u32,
    /// The attempt that made it final.
    pub attempt: u32,
    /// Why.
    pub reason: Reason,
    /// The name of its job.
    pub name: Box<str>,
    /// The namespace of its job.
    pub namespace: Namespace,
}

/// Some dead letters, and where the list goes on.
#[derive(Debug, Default)]
pub struct DeadPage {
    /// In the order of the list.
    pub tasks: Vec<BadTask>,
    /// Where to go on; `None` at the end of the list. A page may be short, even empty, and yet
    /// not be the last: a filter was busy.
    pub next: Option<DeadCursor>,
}

impl Shell {
    /// Dead letters from a place on, at most `limit`; looks at a bounded number of them.
    pub fn dead_letters(
        &self,
        from: Option<DeadCursor>,
        filter: &DeadFilter,
        limit: usize,
    ) -> DeadPage {
        let newest = filter.job.unwrap_or(JobId(u64::MAX));
        let from = from.unwrap_or(DeadCursor {
            job: newest,
            task: 0,
        });
        let mut page = DeadPage::default();
        let mut scanned = 0;
        for (job, first, runs) in self.dead.from(from.job, from.task) {
            if filter.job.is_some_and(|wanted| wanted != job) {
                break;
            }
            scanned += 1;
            if !self.is_in_namespace(job, filter.namespace.as_deref()) {
                continue;
            }
            for task in runs.from(first) {
                if page.tasks.len() == limit || scanned >= MAX_SCANNED {
                    page.next = Some(DeadCursor { job, task });
                    return page;
                }
                scanned += 1;
                let found = self.bad_task(job, task);
                let wanted = |found: &BadTask| filter.reason.is_none_or(|r| r == found.reason);
                page.tasks.extend(found.filter(wanted));
            }
        }
        page
    }

    /// One dead letter; `None` when the task is none.
    pub fn dead_letter(&self, job: JobId, task: u32) -> Option<BadTask> {
        self.dead
            .contains(job, task)
            .then(|| self.bad_task(job, task))?
    }

    /// A task that failed or is dead; `None` when it is neither.
    pub fn bad_task(&self, job: JobId, task: u32) -> Option<BadTask> {
        let record = self.jobs.get(&job)?;
        let (state, attempt, _) = self.machine.task(job, task)?;
        matches!(state, TaskState::Failed | TaskState::Dead).then(|| BadTask {
            job,
            task,
            attempt,
            reason: self
                .machine
                .task_reason(job, task)
                .unwrap_or(Reason::Internal),
            name: record.name.clone(),
            namespace: record.namespace.clone(),
        })
    }

    fn is_in_namespace(&self, job: JobId, namespace: Option<&str>) -> bool {
        namespace.is_none_or(|wanted| {
            self.jobs
                .get(&job)
                .is_some_and(|record| record.namespace.as_str() == wanted)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_a_set_in_order(
            changes in proptest::collection::vec((any::<bool>(), 0u32..40), 0..200),
            first in 0u32..40,
        ) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (add, number) in changes {
                if add {
                    prop_assert_eq!(runs.insert(number), model.insert(number));
                } else {
                    prop_assert_eq!(runs.remove(number), model.remove(&number));
                }
                prop_assert_eq!(runs.len, model.len() as u64);
                let ends: Vec<_> = runs.runs.iter().collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "{:?}", ends);
            }
            let (found, wanted): (Vec<_>, Vec<_>) =
                (runs.from(first).collect(), model.range(first..).copied().collect());
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_job_without_dead_letters_is_not_among_them() {
        let mut dead = DeadLetters::default();
        assert_eq!(dead.add(JobId(1), 7), 1);
        assert_eq!(dead.add(JobId(1), 7), 1, "the same twice");
        assert_eq!(dead.add(JobId(1), 8), 2);
        dead.remove(JobId(1), 7);
        assert!(!dead.contains(JobId(1), 7) && dead.contains(JobId(1), 8));
        dead.remove(JobId(1), 8);
        assert_eq!(dead.counts().count(), 0);
    }
}

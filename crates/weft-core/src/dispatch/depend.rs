//! Tasks that wait for other tasks of their job.
//!
//! That a task is cancelled because of a dependency is never written down: it follows from what
//! the journal has of the dependency, before a restart and after it.

use weft_types::{Reason, TaskGraph, TaskState};

use super::job::Job;
use super::table::Phase;
use super::vocabulary::{FinalTask, TaskRef};

/// The bit that tells a cause from a count; a job has far fewer tasks than that.
const CAUSE: u32 = 1 << 31;

/// Who waits for each task: a [`TaskGraph`] the other way round, and what each still waits for.
///
/// Twelve bytes a task and four a dependency; jobs without dependencies have none.
#[derive(Debug)]
pub(super) struct Dependents {
    /// Where the row of a task begins; one more than there are tasks.
    starts: Vec<u32>,
    /// The rows, one after the other.
    waiters: Vec<u32>,
    /// While a task is blocked, how many of its dependencies have not completed. Once it was
    /// cancelled because of one of them, that one, with [`CAUSE`] set.
    waits: Vec<u32>,
}

impl Dependents {
    fn of(graph: &TaskGraph) -> Self {
        let tasks = graph.tasks();
        let mut starts = vec![0u32; tasks as usize + 1];
        let edges = |task| graph.after(task).iter().map(|&on| on as usize);
        for on in (0..tasks).flat_map(edges) {
            starts[on + 1] += 1;
        }
        for task in 0..tasks as usize {
            starts[task + 1] += starts[task];
        }
        let mut waiters = vec![0; graph.dependencies() as usize];
        let mut next = starts.clone();
        for task in 0..tasks {
            for on in edges(task) {
                waiters[next[on] as usize] = task;
                next[on] += 1;
            }
        }
        let waits = (0..tasks).map(|task| graph.after(task).len() as u32);
        Self {
            starts,
            waiters,
            waits: waits.collect(),
        }
    }

    /// The tasks that wait for one.
    pub(super) fn of_task(&self, task: u32) -> &[u32] {
        let task = task as usize;
        match (self.starts.get(task), self.starts.get(task + 1)) {
            (Some(&from), Some(&to)) => &self.waiters[from as usize..to as usize],
            _ => &[],
        }
    }

    /// How many dependencies there are.
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }

    /// How many dependencies of a blocked task have not completed.
    pub(super) fn waits(&self, task: u32) -> u32 {
        self.waits
            .get(task as usize)
            .map_or(0, |&waits| if waits & CAUSE == 0 { waits } else { 0 })
    }

    fn cause(&self, task: u32) -> Option<u32> {
        let waits = *self.waits.get(task as usize)?;
        (waits & CAUSE != 0).then_some(waits & !CAUSE)
    }

    /// Counts a completed dependency; answers whether it was the last.
    fn complete_one(&mut self, task: u32) -> bool {
        let Some(waits) = self.waits.get_mut(task as usize) else {
            return false;
        };
        *waits = waits.saturating_sub(1);
        *waits == 0 || planted!(DependentReleasedEarly)
    }

    fn set(&mut self, task: u32, waits: u32) {
        if let Some(kept) = self.waits.get_mut(task as usize) {
            *kept = waits;
        }
    }
}

/// Whether a task ended and not well.
fn is_bad(phase: Phase) -> bool {
    matches!(phase, Phase::Failed | Phase::Dead | Phase::Cancelled)
}

impl Job {
    /// Lets tasks wait as a graph says; for a job whose tasks are all queued.
    pub(super) fn depend(&mut self, graph: &TaskGraph) {
        let dependents = Dependents::of(graph);
        for task in 0..graph.tasks() {
            if dependents.waits(task) > 0 {
                self.set_phase(task, Phase::Blocked);
            }
        }
        self.dependents = Some(Box::new(dependents));
    }

    /// A task is final: what waited only for it is queued; when it did not complete, everything
    /// that waits for it, directly or not, is cancelled and put into `finals`.
    pub(super) fn settle(&mut self, task: u32, finals: &mut Vec<FinalTask>) {
        let (Some(cell), Some(mut dependents)) = (self.table.get(task), self.dependents.take())
        else {
            return;
        };
        if cell.phase() == Phase::Completed {
            for position in 0..dependents.of_task(task).len() {
                let waiter = dependents.of_task(task)[position];
                if self.is_blocked(waiter) && dependents.complete_one(waiter) {
                    self.enqueue(waiter, false);
                }
            }
        } else if is_bad(cell.phase()) {
            self.cancel_dependents(task, &mut dependents, finals);
        }
        self.dependents = Some(dependents);
    }

    fn cancel_dependents(
        &mut self,
        task: u32,
        dependents: &mut Dependents,
        finals: &mut Vec<FinalTask>,
    ) {
        let mut bad = vec![task];
        while let Some(cause) = bad.pop() {
            for position in 0..dependents.of_task(cause).len() {
                let waiter = dependents.of_task(cause)[position];
                if !self.is_blocked(waiter) {
                    continue;
                }
                if planted!(DependentOfFailedRuns) {
                    self.enqueue(waiter, false);
                    continue;
                }
                dependents.set(waiter, CAUSE | cause);
                let reason = Some(Reason::Cancelled);
                let attempt = self.end(waiter, Phase::Cancelled, reason);
                finals.push(FinalTask {
                    at: TaskRef {
                        job: self.id,
                        task: waiter,
                        attempt,
                    },
                    state: TaskState::Cancelled,
                    reason,
                });
                bad.push(waiter);
            }
        }
    }

    /// Sets a final phase and its reason; answers the attempt.
    fn end(&mut self, task: u32, phase: Phase, reason: Option<Reason>) -> u32 {
        self.set_phase(task, phase);
        self.table.get_mut(task).map_or(0, |cell| {
            cell.set_reason(reason);
            cell.attempt()
        })
    }

    fn is_blocked(&self, task: u32) -> bool {
        let cell = self.table.get(task);
        cell.is_some_and(|cell| cell.phase() == Phase::Blocked)
    }

    /// The dependency because of which a task was cancelled.
    pub(super) fn cause(&self, task: u32) -> Option<u32> {
        self.dependents.as_ref()?.cause(task)
    }

    /// Failed tasks were queued again: what was cancelled because of them waits again, unless
    /// another of its dependencies is still bad.
    pub(super) fn revive_dependents(&mut self, requeued: &[u32]) {
        let Some(mut dependents) = self.dependents.take() else {
            return;
        };
        let mut bad = self.count_dependencies(&dependents, is_bad);
        // Those that were requeued do not count as bad any more, though their waiters knew them so.
        let mut revived = requeued.to_vec();
        for &task in requeued {
            for &waiter in dependents.of_task(task) {
                bad[waiter as usize] += 1;
            }
        }
        while let Some(task) = revived.pop() {
            for &waiter in dependents.of_task(task) {
                let left = &mut bad[waiter as usize];
                *left = left.saturating_sub(1);
                if *left == 0 && dependents.cause(waiter).is_some() {
                    self.end(waiter, Phase::Blocked, None);
                    revived.push(waiter);
                }
            }
        }
        let unfinished = self.count_dependencies(&dependents, |phase| phase != Phase::Completed);
        for (task, waits) in (0u32..).zip(unfinished) {
            if self.is_blocked(task) {
                dependents.set(task, waits);
            }
        }
        self.dependents = Some(dependents);
    }

    /// For each task, how many of its dependencies are in such a phase.
    pub(super) fn count_dependencies(
        &self,
        dependents: &Dependents,
        counts: impl Fn(Phase) -> bool,
    ) -> Vec<u32> {
        let mut counted = vec![0; self.table.len() as usize];
        for (task, cell) in self.table.iter() {
            if counts(cell.phase()) {
                for &waiter in dependents.of_task(task) {
                    counted[waiter as usize] += 1;
                }
            }
        }
        counted
    }
}

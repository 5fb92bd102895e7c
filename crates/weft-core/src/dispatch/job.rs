//! Jobs, and the classes of resources they ask for.

use std::collections::BTreeMap;

use weft_placement::ClassId;
use weft_types::{JobId, JobState, Namespace, Reason, TaskCounts, TaskState};

use crate::idmap::IdMap;
use crate::retry;

use super::depend::Dependents;
use super::fair::FairShare;
use super::ready::Ready;
use super::speculate::Speculation;
use super::table::{Phase, Table};

/// One job.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: JobId,
    /// Its tenant, as a slot of the fair share.
    pub(super) tenant: u32,
    pub(super) class: ClassId,
    pub(super) priority: i32,
    pub(super) retry: retry::Policy,
    pub(super) table: Table,
    pub(super) ready: Ready,
    phases: [u32; Phase::COUNT],
    /// Which of its tasks wait for which others; `None` when none does.
    pub(super) dependents: Option<Box<Dependents>>,
    /// Times and second attempts of its tasks; `None` when it does not speculate.
    pub(super) speculation: Option<Box<Speculation>>,
    /// No further tasks will be appended.
    pub(super) sealed: bool,
    /// It was read back after a restart: nodes may hold attempts that the table does not know.
    pub(super) recovered: bool,
    /// Waits for nodes to reattach after a restart.
    pub(super) on_hold: bool,
    /// Whether the fair share has it among the jobs with work to hand out.
    pub(super) in_lane: bool,
    pub(super) started: bool,
    /// Its end was announced, and nothing was requeued since.
    pub(super) is_final: bool,
    pub(super) cancelled: Option<Reason>,
    /// Jobs that must succeed first.
    pub(super) blocked_on: u32,
    /// Measured time of an attempt: exponentially weighted mean, microseconds, 0 when unknown.
    pub(super) run_us: u32,
    /// Slot of the node that completed a task of it last.
    pub(super) works_on: Option<u16>,
}

impl Job {
    pub(super) fn new(
        id: JobId,
        tenant: u32,
        class: ClassId,
        priority: i32,
        retry: retry::Policy,
        tasks: u32,
    ) -> Self {
        let mut phases = [0; Phase::COUNT];
        phases[Phase::Queued as usize] = tasks;
        Self {
            id,
            tenant,
            class,
            priority,
            retry,
            table: Table::with_tasks(tasks),
            ready: Ready::default(),
            phases,
            dependents: None,
            speculation: None,
            sealed: false,
            recovered: false,
            on_hold: false,
            in_lane: false,
            started: false,
            is_final: false,
            cancelled: None,
            blocked_on: 0,
            run_us: 0,
            works_on: None,
        }
    }

    pub(super) fn append(&mut self, tasks: u32) {
        self.table.append(tasks);
        self.phases[Phase::Queued as usize] += tasks;
    }

    /// How many dependencies there are between its tasks.
    fn dependencies(&self) -> u64 {
        let dependents = self.dependents.as_ref();
        dependents.map_or(0, |dependents| dependents.len() as u64)
    }

    pub(super) fn count(&self, phase: Phase) -> u32 {
        self.phases[phase as usize]
    }

    /// Whether the counts are these.
    pub(super) fn phases_are(&self, counted: &[u64; Phase::COUNT]) -> bool {
        let kept = self.phases.iter().map(|&count| u64::from(count));
        kept.eq(counted.iter().copied())
    }

    /// Moves a task to another phase and keeps the counts.
    pub(super) fn set_phase(&mut self, task: u32, phase: Phase) {
        if let Some(cell) = self.table.get_mut(task) {
            self.phases[cell.phase() as usize] -= 1;
            self.phases[phase as usize] += 1;
            cell.set_phase(phase);
        }
    }

    /// Puts a task that waited or was held back into the queue.
    pub(super) fn enqueue(&mut self, task: u32, first: bool) {
        self.set_phase(task, Phase::Queued);
        self.ready.push(task, first);
    }

    /// Whether a round may hand out something of it.
    pub(super) fn can_run(&self) -> bool {
        self.count(Phase::Queued) > 0
            && !self.on_hold
            && self.blocked_on == 0
            && self.cancelled.is_none()
    }

    pub(super) fn finished(&self) -> u32 {
        self.count(Phase::Completed)
            + self.count(Phase::Failed)
            + self.count(Phase::Cancelled)
            + self.count(Phase::Dead)
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        (self.sealed || self.cancelled.is_some()) && self.finished() == self.table.len()
    }

    pub(super) fn state(&self) -> JobState {
        if !self.is_over() {
            let begun = self.started || self.finished() > 0;
            return if begun {
                JobState::Running
            } else {
                JobState::Queued
            };
        }
        // A task that failed may have cancelled others: the failure is what is to be told.
        if self.cancelled.is_some() {
            JobState::Cancelled
        } else if self.count(Phase::Failed) + self.count(Phase::Dead) > 0 {
            JobState::Failed
        } else if self.count(Phase::Cancelled) > 0 {
            JobState::Cancelled
        } else {
            JobState::Succeeded
        }
    }

    pub(super) fn counts(&self) -> TaskCounts {
        let count = |phase| u64::from(self.count(phase));
        TaskCounts {
            total: u64::from(self.table.len()),
            queued: count(Phase::Queued) + count(Phase::Delayed) + count(Phase::Blocked),
            assigned: count(Phase::Assigned),
            running: count(Phase::Running) + count(Phase::Recording),
            completed: count(Phase::Completed),
            failed: count(Phase::Failed),
            cancelled: count(Phase::Cancelled),
            dead: count(Phase::Dead),
        }
    }

    /// Takes the run time of an attempt into the mean: a weight of one eighth, as TCP smooths
    /// round trips (RFC 6298, section 2).
    pub(super) fn measure(&mut self, run_us: u64) {
        self.run_us = smooth(self.run_us, run_us);
        self.note_time(run_us);
    }
}

/// The next exponentially weighted mean; never 0, which stands for unknown.
pub(super) fn smooth(mean_us: u32, sample_us: u64) -> u32 {
    let sample = u32::try_from(sample_us).unwrap_or(u32::MAX).max(1);
    if mean_us == 0 {
        return sample;
    }
    let mean = (u64::from(mean_us) * 7 + u64::from(sample)) / 8;
    (mean as u32).max(1)
}

/// All jobs, in slots that are used again.
#[derive(Default)]
pub(super) struct Jobs {
    slots: Vec<Option<Box<Job>>>,
    free: Vec<u32>,
    by_id: IdMap<JobId, u32>,
    tasks: u64,
    /// Dependencies between tasks of the same job.
    dependencies: u64,
}

impl Jobs {
    pub(super) fn insert(&mut self, job: Job) -> u32 {
        self.tasks += u64::from(job.table.len());
        self.dependencies += job.dependencies();
        let id = job.id;
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(Box::new(job));
                slot
            }
            None => {
                self.slots.push(Some(Box::new(job)));
                (self.slots.len() - 1) as u32
            }
        };
        self.by_id.insert(id, slot);
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Box<Job>> {
        let job = self.slots.get_mut(slot as usize)?.take()?;
        self.by_id.remove(&job.id);
        self.free.push(slot);
        self.tasks -= u64::from(job.table.len());
        self.dependencies -= job.dependencies();
        Some(job)
    }

    pub(super) fn append(&mut self, slot: u32, tasks: u32) {
        if let Some(job) = self.at_mut(slot) {
            job.append(tasks);
            self.tasks += u64::from(tasks);
        }
    }

    pub(super) fn slot(&self, id: JobId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Job> {
        self.at(self.slot(id)?)
    }

    pub(super) fn at(&self, slot: u32) -> Option<&Job> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub(super) fn at_mut(&mut self, slot: u32) -> Option<&mut Job> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn tasks(&self) -> u64 {
        self.tasks
    }

    /// What admission counts: tasks, and dependencies between them.
    pub(super) fn weight(&self) -> u64 {
        self.tasks + self.dependencies
    }

    /// Slots and jobs, in the order of slots.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Job)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(slot, job)| Some((slot as u32, job.as_deref()?)))
    }

    pub(super) fn counts_by_namespace(&self, fair: &FairShare) -> BTreeMap<Namespace, TaskCounts> {
        let mut tenants: BTreeMap<u32, TaskCounts> = BTreeMap::new();
        for (_, job) in self.iter() {
            let counts = tenants.entry(job.tenant).or_default();
            let of_job = job.counts();
            counts.total += of_job.total;
            for &state in TaskState::ALL {
                *counts.get_mut(state) += of_job.get(state);
            }
        }
        let named = tenants.into_iter();
        named
            .filter_map(|(tenant, counts)| Some((fair.namespace(tenant)?.clone(), counts)))
            .collect()
    }
}

/// What is known of a class of requests.
#[derive(Debug, Default, Clone)]
pub(super) struct Class {
    /// Mean time of an attempt over all jobs of the class, microseconds, 0 when unknown.
    pub(super) run_us: u32,
    /// Millicores of one unit, at least 1: what the fair share charges.
    pub(super) cost: u64,
    /// The round in which no node was found for it.
    pub(super) blocked_in: u32,
}

/// The classes that the placement index has made.
#[derive(Default)]
pub(super) struct ClassTable {
    classes: BTreeMap<ClassId, Class>,
}

impl ClassTable {
    pub(super) fn note(&mut self, class: ClassId, cost: u64) {
        self.classes.entry(class).or_default().cost = cost.max(1);
    }

    pub(super) fn get(&self, class: ClassId) -> Option<&Class> {
        self.classes.get(&class)
    }

    pub(super) fn get_mut(&mut self, class: ClassId) -> Option<&mut Class> {
        self.classes.get_mut(&class)
    }
}

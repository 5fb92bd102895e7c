//! Jobs in and out: admission, submission, appended tasks, dependencies, forgetting.

use weft_types::{JobId, JobState, Reason};

use crate::{Error, Monotonic, retry};

use super::Machine;
use super::fair::Place;
use super::job::Job;
use super::table::Phase;
use super::timers::Timer;
use super::vocabulary::{Output, Submission};

/// When a client that was refused may try again, in milliseconds.
const RETRY_AFTER_MS: u64 = 1_000;

impl Machine {
    /// Reserves room for one job of this weight ([`Submission::weight`]; or for that many more
    /// tasks of a job that is being streamed), before it is written down. [`super::Input::Submit`] takes the room up;
    /// [`Machine::abandon`] gives it back.
    ///
    /// # Errors
    /// [`Error::Full`] when the dispatcher holds as much as it may.
    pub fn admit(&mut self, tasks: u64) -> Result<(), Error> {
        let jobs_now = self.jobs.len() as u64 + self.promised_jobs;
        let tasks_now = self.jobs.weight() + self.promised_tasks;
        if jobs_now >= self.config.max_jobs
            || tasks_now.saturating_add(tasks) > self.config.max_tasks
        {
            return Err(Error::Full {
                tasks: tasks_now,
                jobs: jobs_now,
                retry_after_ms: RETRY_AFTER_MS,
            });
        }
        self.promised_jobs += 1;
        self.promised_tasks += tasks;
        Ok(())
    }

    /// Gives the room of a job back that could not be written down.
    pub fn abandon(&mut self, tasks: u64) {
        self.promised_jobs = self.promised_jobs.saturating_sub(1);
        self.promised_tasks = self.promised_tasks.saturating_sub(tasks);
    }

    /// Checks what a job is to wait for, before it is written down. Since jobs can only wait for
    /// earlier ones, there are no cycles.
    ///
    /// # Errors
    /// [`Error::DependencyCycle`] for itself or a later job, [`Error::UnknownDependency`] for one
    /// that is not in memory.
    pub fn check_after(&self, job: JobId, after: &[JobId]) -> Result<(), Error> {
        for &earlier in after {
            if earlier >= job {
                return Err(Error::DependencyCycle(job));
            }
            if self.jobs.get(earlier).is_none() {
                return Err(Error::UnknownDependency(earlier));
            }
        }
        Ok(())
    }

    pub(super) fn on_submit(
        &mut self,
        now: Monotonic,
        submission: Submission,
        out: &mut Vec<Output>,
    ) {
        if self.jobs.get(submission.id).is_some() {
            return;
        }
        self.abandon(submission.weight());
        let slot = self.insert(now, &submission, out);
        self.requeue_lane(slot);
        self.finish_if_over(slot, out);
    }

    /// Makes a job of a submission, outside any lane.
    pub(super) fn insert(
        &mut self,
        now: Monotonic,
        submission: &Submission,
        out: &mut Vec<Output>,
    ) -> u32 {
        let tenant = self.fair.tenant(&submission.namespace);
        let class = self.index.class(&submission.request);
        self.classes.note(class, submission.request.resources.cpu.0);
        let mut job = Job::new(
            submission.id,
            tenant,
            class,
            submission.priority,
            retry::Policy::new(&submission.retry),
            submission.tasks,
        );
        job.sealed = submission.sealed;
        if let Some(deadline_ms) = submission.deadline_ms {
            let timer = Timer::Deadline { job: job.id };
            self.timers.set(now.plus_ms(deadline_ms), timer);
        }
        if let Some(graph) = &submission.graph {
            job.depend(graph);
        }
        job.blocked_on = self.wait_for(&submission.after, submission.id, out);
        let speculates = submission.speculate;
        job.speculation = speculates.then(Box::default);
        let slot = self.jobs.insert(job);
        if speculates {
            self.speculating.insert(slot);
        }
        slot
    }

    /// Notes what a job waits for; answers how many jobs that is.
    fn wait_for(&mut self, after: &[JobId], waiter: JobId, out: &mut Vec<Output>) -> u32 {
        let mut blocked_on = 0;
        for &earlier in after {
            match self.jobs.get(earlier).map(Job::state) {
                None | Some(JobState::Succeeded) => {}
                Some(state) => {
                    blocked_on += 1;
                    if state.is_final() {
                        out.push(dependency_failed(waiter, earlier));
                    } else {
                        self.dependents.entry(earlier).or_default().push(waiter);
                    }
                }
            }
        }
        blocked_on
    }

    pub(super) fn on_append(
        &mut self,
        job: JobId,
        tasks: u32,
        sealed: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(slot) = self.jobs.slot(job) else {
            return;
        };
        if self.jobs.at(slot).is_none_or(|job| job.sealed) {
            return;
        }
        self.abandon(u64::from(tasks));
        let first = self.jobs.at(slot).map_or(0, |job| job.table.len());
        self.jobs.append(slot, tasks);
        if let Some(job) = self.jobs.at_mut(slot) {
            job.sealed = sealed;
            if let Some(reason) = job.cancelled {
                let appended = first..first + tasks;
                self.cancel_tasks(slot, appended, reason, out);
            }
        }
        self.requeue_lane(slot);
        self.finish_if_over(slot, out);
    }

    pub(super) fn on_forget(&mut self, job: JobId) {
        if let Some(slot) = self.jobs.slot(job)
            && self.jobs.at(slot).is_some_and(|job| job.is_over())
        {
            self.leave_lane(slot);
            self.speculating.remove(&slot);
            self.jobs.remove(slot);
            self.dependents.remove(&job);
        }
    }

    /// Puts a job into its lane, or takes it out, as its tasks say.
    pub(super) fn requeue_lane(&mut self, slot: u32) {
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        let wanted = job.can_run();
        if job.in_lane == wanted {
            return;
        }
        job.in_lane = wanted;
        let place = place(slot, job);
        if wanted {
            self.fair.enter(place);
        } else {
            self.fair.leave(place);
        }
    }

    fn leave_lane(&mut self, slot: u32) {
        if let Some(job) = self.jobs.at_mut(slot)
            && job.in_lane
        {
            job.in_lane = false;
            let place = place(slot, job);
            self.fair.leave(place);
        }
    }

    /// Announces the end of a job whose tasks are all final, once.
    pub(super) fn finish_if_over(&mut self, slot: u32, out: &mut Vec<Output>) {
        let Some(job) = self.jobs.at_mut(slot) else {
            return;
        };
        if job.is_final || !job.is_over() {
            return;
        }
        job.is_final = true;
        self.speculating.remove(&slot);
        debug_assert_eq!(job.count(Phase::Recording), 0, "a final job writes nothing");
        let (id, state, counts) = (job.id, job.state(), job.counts());
        out.push(Output::JobFinal {
            job: id,
            state,
            counts,
        });
        for waiter in self.dependents.remove(&id).unwrap_or_default() {
            self.dependency_ended(waiter, id, state, out);
        }
    }

    fn dependency_ended(
        &mut self,
        waiter: JobId,
        earlier: JobId,
        state: JobState,
        out: &mut Vec<Output>,
    ) {
        let Some(slot) = self.jobs.slot(waiter) else {
            return;
        };
        if state != JobState::Succeeded {
            out.push(dependency_failed(waiter, earlier));
            return;
        }
        if let Some(job) = self.jobs.at_mut(slot) {
            job.blocked_on = job.blocked_on.saturating_sub(1);
        }
        self.requeue_lane(slot);
    }
}

fn dependency_failed(job: JobId, earlier: JobId) -> Output {
    Output::CancelDue {
        job,
        reason: Reason::Cancelled,
        because: Some(earlier),
    }
}

fn place(slot: u32, job: &Job) -> Place {
    Place {
        tenant: job.tenant,
        priority: job.priority,
        class: job.class,
        job: job.id.0,
        slot,
    }
}
